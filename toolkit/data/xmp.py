"""The machine-readable mark of an image that was not acquired: an XMP packet with the IPTC's digital source type.

It tells whoever opens the file, with exiftool or in an image manager, that a model made the image (IPTC Photo Metadata
Standard 2023.2, Digital Source Type; NewsCodes scheme digitalsourcetype), and which model, procedure and seed made it.
A file without a mark may still be synthetic: metadata is easily lost. Pillow and defusedxml only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, cast
from xml.sax.saxutils import quoteattr

from defusedxml import ElementTree
from PIL import Image

from toolkit.example import Error, Provenance

__all__ = ["KEYWORD", "packet", "provenance", "read"]

KEYWORD = "XML:com.adobe.xmp"
"""Of the iTXt chunk of a PNG that holds an XMP packet (XMP specification, part 3)."""

SCHEME = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPES = {
    "synthetic": "trainedAlgorithmicMedia",
    "edited": "compositeWithTrainedAlgorithmicMedia",
    "map": "compositeWithTrainedAlgorithmicMedia",
}
"""Kind of a Provenance -> IPTC code. A map shows where a real image and what a model made of it differ."""

TOLD = {
    "synthetic": "Synthetic image, not acquired: made by",
    "edited": "Acquired image, changed by",
    "map": "Map, measured on an acquired image by",
}

NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "diffgraft": "urn:diffgraft:provenance:1",
}

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def packet(made: Provenance) -> str:
    """The XMP packet of an image with this provenance. Raises KeyError for a kind that Provenance does not know."""
    seed = "" if made.seed is None else str(made.seed)
    told = f"{TOLD[made.kind]} diffgraft; model {made.model}, procedure {made.procedure}, seed {seed or 'not stated'}"
    names = " ".join(f'xmlns:{short}="{full}"' for short, full in NAMESPACES.items())
    facts = {
        "xmp:CreatorTool": "diffgraft",
        "Iptc4xmpExt:DigitalSourceType": SCHEME + SOURCE_TYPES[made.kind],
        "diffgraft:Kind": made.kind,
        "diffgraft:Model": made.model,
        "diffgraft:Procedure": made.procedure,
        "diffgraft:Seed": seed,
    }
    written = " ".join(f"{name}={_quoted(text)}" for name, text in facts.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {names}><rdf:Description rdf:about="" {written}>'
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{_text(told)}</rdf:li></rdf:Alt></dc:description>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def read(path: str | os.PathLike[str]) -> str | None:
    """The kind of an image file that is marked as made or changed by a model, whoever marked it; None without a mark."""
    try:
        with Image.open(path) as file:
            file.load()  # a PNG may have its text after the pixels
            found = provenance(file.info)
    except Exception as problem:  # a damaged file may raise anything
        raise Error(
            f"A mark is read from an image file; '{path}' is none: {' '.join(str(problem).split())}."
        ) from problem
    return None if found is None else found.kind


def provenance(info: Mapping[Any, Any]) -> Provenance | None:
    """The provenance in the metadata of an image that Pillow loaded (`Image.info`); what a mark leaves out is "unknown".

    A packet that is no XML is no mark.
    """
    packet = info.get("xmp") or info.get(KEYWORD)
    if not packet:
        return None
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    try:
        tree = ElementTree.fromstring(re.sub(r"<\?xpacket.*?\?>", "", text).strip("\0 \r\n\t\ufeff"))
    except Exception:  # not well formed, or with the entities that defusedxml refuses
        return None
    source = _value(tree, "Iptc4xmpExt", "DigitalSourceType").removeprefix(SCHEME)
    kind = _value(tree, "diffgraft", "Kind")
    if kind not in SOURCE_TYPES:
        kind = next((kind for kind, code in SOURCE_TYPES.items() if code == source), "")
    if not kind:
        return None
    model, procedure, seed = (_value(tree, "diffgraft", name) for name in ("Model", "Procedure", "Seed"))
    number = int(seed) if re.fullmatch("[0-9]{1,20}", seed) else None
    return Provenance(cast(Any, kind), model or "unknown", procedure or "unknown", number)


def _value(tree: Any, space: str, name: str) -> str:
    """A simple property, written as an attribute, as an element's text or as its rdf:resource; "" for none."""
    full = f"{{{NAMESPACES[space]}}}{name}"
    for node in tree.iter():
        if full in node.attrib:
            return node.attrib[full].strip()
        if node.tag == full:
            return (node.attrib.get(f"{{{NAMESPACES['rdf']}}}resource") or node.text or "").strip()
    return ""


def _text(words: str) -> str:
    """Words as the text of an element, on one line; what XML 1.0 cannot hold becomes a question mark."""
    one_line = " ".join(NOT_XML.sub("?", words).split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(words: str) -> str:
    return quoteattr(" ".join(NOT_XML.sub("?", words).split()))
