"""Files of this user's own making: what is read back from a cache was written by the same user and is whole.

An engine is native code, and its reader trusts it. So a file is sealed with HMAC-SHA256 (RFC 2104, FIPS 198-1) under a
key that is made for the user and readable by nobody else, over a header that says what the content is for and over the
content. `unseal` answers the content only after both have been checked.

    MAGIC  tag (32 bytes)  length of the header (8 bytes, little-endian)  header (JSON)  content
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.example import Error

__all__ = ["cache_folder", "key_of", "seal", "unseal"]

MAGIC = b"diffgraft-sealed-1\n"
TAG = 32
KEY = 32
"""Bytes of the tag and of the key."""


def cache_folder() -> Path:
    """Where engines and what was found out about them are kept from run to run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffgraft" / "engines"


def key_of(folder: Path) -> bytes:
    """The user's key for that cache, made at first use.

    Errors: a key that others can read or write, or that is not whole; whatever it signed is worth nothing.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "key"
    if not path.exists():
        partial = folder / f".key-{secrets.token_hex(8)}"
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY))
        try:
            os.link(partial, path)  # the first of several processes makes the key, and the others take it
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    state = path.stat()
    strange = hasattr(os, "getuid") and (state.st_mode & 0o077 or state.st_uid != os.getuid())
    key = path.read_bytes()
    if strange or len(key) != KEY:
        found = f"mode {state.st_mode & 0o777:o}, {len(key)} bytes, owner {state.st_uid}"
        raise Error(
            f"The key of the engine cache is the user's alone (mode 600, {KEY} bytes); {path} has {found}. "
            f"Remove the folder, engines are built again: rm -r {folder}"
        )
    return key


def seal(path: Path, header: Mapping[str, Any], content: bytes, folder: Path | None = None) -> None:
    """Write a sealed file in one piece. folder: of the key; the file's own unless given."""
    key = key_of(folder or path.parent)
    told = _told(header)
    body = len(told).to_bytes(8, "little") + told + content
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(MAGIC + _tag(key, body) + body)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def unseal(path: Path, header: Mapping[str, Any], folder: Path | None = None) -> bytes:
    """The content of a sealed file that was made for this header.

    Errors: a file that is unsigned, cut off, altered, signed with another key, or made for something else. It is not
    touched; nothing of its content has been used.
    """
    key = key_of(folder or path.parent)
    data = path.read_bytes()
    start = len(MAGIC) + TAG
    if not data.startswith(MAGIC) or len(data) < start + 8:
        raise Error(f"A cached file is signed; {path} is not. It was not used: remove it.")
    body = data[start:]
    if not hmac.compare_digest(data[len(MAGIC) : start], _tag(key, body)):
        raise Error(
            f"A cached file is as this user wrote it; {path} is altered or another's. It was not used: remove it."
        )
    end = 8 + int.from_bytes(body[:8], "little")
    if body[8:end] != _told(header):
        raise Error(f"A cached file is for one model on one device; {path} is for another. It was not used: remove it.")
    return body[end:]


def _tag(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, MAGIC + body, hashlib.sha256).digest()


def _told(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, allow_nan=False).encode()
