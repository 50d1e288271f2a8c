"""Model folders: open one on a runtime, and read what it says of itself."""

from diffgraft.models.folder import domain, domain_of, meta
from diffgraft.models.open import open

__all__ = ["domain", "domain_of", "meta", "open"]
