"""What every DICOM file of ours says of itself, and how it reaches the disk.

Contract. A file that was made says so in elements that survive being copied about: Synthetic Data, the equipment that
synthesized it, a description of the derivation. It holds no clock reading of the run, so that a rerun writes the same
bytes; a preamble of zeros, so that it is nothing but DICOM; and appears at its place whole or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian

from toolkit.example import Provenance
from toolkit.formats.dicom import uids

__all__ = [
    "MAKER", "UTF8", "code_item", "derivation", "equipment", "mark_synthetic", "save_dataset", "truncate", "version",
]  # fmt: skip

MAKER = "diffgraft"
UTF8 = "ISO_IR 192"
SYNTHESIZING = Code("109100", "DCM", "Synthesizing Equipment")

CLOCKS = ("InstanceCreationDate", "InstanceCreationTime", "DateOfSecondaryCapture", "TimeOfSecondaryCapture")
"""Optional elements that say when a program ran."""

ACQUISITION = "109101"

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]+")


def version() -> str:
    """Of the installed program."""
    return installed(MAKER)


def equipment(made: Provenance) -> dict[str, str]:
    """The equipment, as elements. The hash of a model is what its serial number is to a machine."""
    return {
        "Manufacturer": MAKER,
        "ManufacturerModelName": MAKER,
        "DeviceSerialNumber": made.model[:64] or "unknown",
        "SoftwareVersions": version(),
    }


def derivation(made: Provenance, what: str) -> str:
    """How it was made, in at most 1024 characters: what it is, model, procedure, seed and every setting."""
    seed = "not stated" if made.seed is None else str(made.seed)
    words = [
        f"{what} Made by {MAKER} {version()}",
        f"model {made.model}",
        f"procedure {made.procedure}",
        f"seed {seed}",
    ]
    words += [f"{name} {_told(value)}" for name, value in _flat(made.settings) if name not in ("model", "seed")]
    return truncate(", ".join(words), 1024)


def mark_synthetic(data: Dataset, made: Provenance, what: str) -> None:
    """Put into a dataset what says that it was made, by what and how; take out when the program ran."""
    for keyword in CLOCKS:
        if keyword in data:
            delattr(data, keyword)
    for keyword, value in equipment(made).items():
        setattr(data, keyword, value)
    data.SyntheticData = "YES"
    data.BurnedInAnnotation = "NO"
    told = derivation(made, what)
    if data.get("SpecificCharacterSet") != UTF8:  # that of the source, whichever it is, has ASCII
        told = told.encode("ascii", "replace").decode()
    data.DerivationDescription = told
    own = Dataset()
    for keyword, value in equipment(made).items():
        setattr(own, keyword, value)
    own.PurposeOfReferenceCodeSequence = [code_item(SYNTHESIZING)]
    own.ContributionDescription = truncate(f"{made.procedure}: {what}", 1024)
    others = list(data.get("ContributingEquipmentSequence") or [])
    for item in others:
        if item.PurposeOfReferenceCodeSequence[0].CodeValue != ACQUISITION and "ContributionDateTime" in item:
            del item.ContributionDateTime
    data.ContributingEquipmentSequence = [*others, own]


def code_item(code: Code) -> Dataset:
    """A code as the item of a sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def truncate(words: str, most: int) -> str:
    """Words without control characters, cut where an element ends."""
    clean = _CONTROL.sub(" ", words.replace("\r\n", "\n").replace("\r", "\n")).strip()
    return clean if len(clean) <= most else clean[: most - 3].rstrip() + "..."


def save_dataset(data: Dataset, path: Path) -> Path:
    """Write a dataset as a file of its own, Explicit VR Little Endian, whole or not at all."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(uids.uid("implementation"))
    meta.ImplementationVersionName = f"DIFFGRAFT_{version()}"[:16]
    data.file_meta, data.preamble = meta, b"\0" * 128
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        data.save_as(temporary, enforce_file_format=True, little_endian=True, implicit_vr=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name in sorted(settings):
        value = settings[name]
        rows += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else [(before + name, value)]
    return rows


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
