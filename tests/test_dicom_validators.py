"""DICOM that is written, before those who receive it: dciodvfy, a PACS (Orthanc) and dcm2niix.

Debian and Ubuntu have them as dicom3tools, dcmtk, orthanc and dcm2niix; a tool that is absent skips its test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import math
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mr_sources
import nibabel
import numpy as np
import pydicom
import pytest
from foreign import needs, tool
from highdicom.pm.sop import pmread
from pydicom.dataset import Dataset

from toolkit.example import Annotation, Example, Provenance
from toolkit.formats.dicom import derived, synthetic
from toolkit.formats.dicom.series import Series, load_all

pytestmark = pytest.mark.slow

WORDS = {"view": ["PA", "AP", "AP Supine", "L"], "sex": ["F", "M"], "age": [0, 120]}
MADE = Provenance("synthetic", "0123456789abcdef", "generate", 7, {"steps": 20, "sampler": "dpmpp_2m", "guidance": 2.5})
EDITED = Provenance("edited", "fedcba9876543210", "counterfactual", 3, {"steps": 40, "strength": 0.5}, "sub-01")
SHARED = Path(__file__).parents[2] / "shared" / "data" / "mri"

EXEMPT = "Error - </(0008,001c)> - Attribute with an even group number is not a recognized standard attribute"
"""dciodvfy's dictionary is older than Synthetic Data, which DICOM has since 2024."""

FEWEST = 40
"""Files of each kind: two hundred together."""


PROMPT = {**os.environ, "TCP_NODELAY": "1"}
"""dcmtk waits 0.1 s for each image otherwise."""


# ------------------------------------------------------------------------------------------------------------- sources


def films() -> Iterator[Example]:
    """Every view, sex and some ages, known or not, with text and without, of several sizes."""
    wanted = itertools.product((0.0, 1.0, 2.0, 3.0, math.nan), (0.0, 1.0, math.nan), (4.0, 63.0, math.nan))
    for n, (view, sex, age) in enumerate(wanted):
        shape = (1, 64 + 8 * (n % 3), 65 if n % 7 == 0 else 64)
        image = np.random.default_rng(n).uniform(-1, 1, shape).astype(np.float32)
        text = [None, "PA view, right pleural effusion", 'Größere Ergüsse, "links" > rechts\nsecond line'][n % 3]
        labels = {"view": view, "sex": sex, "age": age}
        yield Example(f"film-{n:04d}", image, Annotation(text, labels), "someone", provenance=MADE)


def changes() -> list[Callable[[Dataset, int], Any]]:
    """What files of different scanners and de-identifiers have and lack."""

    def bare(data: Dataset, _: int) -> None:
        for keyword in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "SeriesNumber", "SeriesDescription",
                        "BodyPartExamined", "PatientPosition", "Manufacturer", "PatientBirthDate", "PatientSex"):  # fmt: skip
            delattr(data, keyword)

    def scaled(data: Dataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 0.37 + k / 100, -41.5, "US"

    def faint(data: Dataset, _: int) -> None:
        data.RescaleSlope, data.RescaleIntercept, data.PixelRepresentation = 1e-5, -1e-3, 1

    def planar(data: Dataset, _: int) -> None:
        data.ScanningSequence, data.SequenceVariant, data.MRAcquisitionType = "EP", "NONE", "2D"
        data.WindowCenter, data.WindowWidth = [400, 500], [800, 900]
        data.WindowCenterWidthExplanation = ["A", "B"]

    def gradient(data: Dataset, k: int) -> None:
        data.ScanningSequence, data.SequenceVariant, data.MRAcquisitionType = "GR", ["SP", "MP"], "3D"
        data.SpacingBetweenSlices, data.SliceLocation = 3.3, 3.3 * k
        data.PatientSex, data.PatientAge, data.PatientWeight = "O", "063Y", 70
        data.LossyImageCompression, data.LossyImageCompressionRatio = "01", 12.5
        data.LossyImageCompressionMethod = "ISO_10918_1"

    def named(data: Dataset, _: int) -> None:
        data.SpecificCharacterSet, data.PatientName = "ISO_IR 100", "Müller^Zoë"
        data.StudyDescription, data.SeriesDescription = "Schädel", "FLAIR größer"
        data.PatientIdentityRemoved, data.DeidentificationMethod = "YES", "by hand"
        data.ClinicalTrialSponsorName, data.ClinicalTrialProtocolID = "Sponsor", "Trial 1"
        data.ClinicalTrialProtocolName = data.ClinicalTrialSiteID = data.ClinicalTrialSiteName = ""
        data.ClinicalTrialSubjectID = "S-17"

    return [lambda *_: None, bare, scaled, faint, planar, gradient, named]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Series]:
    """Classic and Enhanced series of every plane, tilted or not, and real volumes where they are there."""
    root, found = tmp_path_factory.mktemp("sources"), []
    planes = [(plane, tilt) for plane in ("axial", "sagittal", "coronal") for tilt in (0.0, 17.0)]
    for n, (change, (plane, tilt)) in enumerate(itertools.product(changes(), planes)):
        array, place = mr_sources.voxels(n, (22, 20, 5)), mr_sources.affine(tilt, plane)
        if n % 6 == 5:
            mr_sources.enhanced(root / str(n), array, place, key=str(100 + n), order=[3, 0, 1, 4, 2])
        else:
            mr_sources.classic(root / str(n), array, place, key=str(100 + n), change=change)
        found += load_all(root / str(n))
    real = [
        next(iter(sorted(SHARED.glob(pattern))), None)
        for pattern in ("lgg/*/*_flair.nii.gz", "open_ms/*/*_flair.nii.gz")
    ]
    for n, path in enumerate(filter(None, real)):
        image: Any = nibabel.load(path)
        array = np.clip(np.rint(image.get_fdata()[:, :, ::6]), 0, 65535).astype(int)
        place = image.affine @ np.diag([1, 1, 6, 1])
        mr_sources.classic(root / f"real{n}", array, place, key=str(900 + n))
        found += load_all(root / f"real{n}")
    assert len(found) >= FEWEST
    return found


@dataclasses.dataclass(frozen=True)
class Written:
    """The files of each kind, and what went into those of a series: series, counterfactual, map, mask."""

    paths: dict[str, list[Path]]
    derived: list[tuple[Series, np.ndarray, np.ndarray, np.ndarray]]
    films: list[Example]


@pytest.fixture(scope="module")
def written(sources: list[Series], tmp_path_factory) -> Written:
    root = tmp_path_factory.mktemp("written")
    paths: dict[str, list[Path]] = {"mr": [], "pm": [], "seg": []}
    made, drawn = [], list(films())
    for kind in synthetic.KINDS:
        assert synthetic.write(drawn, root / kind, kind, labels=WORDS) == len(drawn)
        paths[kind] = sorted((root / kind / "dicom").iterdir())
    for n, source in enumerate(sources):
        place, chance = root / f"{n}", np.random.default_rng(n)
        healthy = (source.voxels * chance.uniform(0.5, 1.0, source.voxels.shape)).astype(np.float32)
        scores = chance.normal(size=healthy.shape).astype(np.float32) * np.float32([1, 1e-4, 30][n % 3])
        scores = np.abs(scores) if n % 2 else scores * (n != 4)  # one map finds nothing at all
        mask = scores > (np.inf if n % 5 == 4 else np.quantile(scores, 0.97))
        mask[:, :, 0] = False
        paths["mr"] += derived.write_mr_series(source, healthy, EDITED, place)
        paths["pm"].append(derived.write_parametric_map(source, scores, EDITED, place))
        paths["seg"].append(derived.write_segmentation(source, mask, EDITED, place))
        made.append((source, healthy, scores, mask))
    assert min(len(found) for found in paths.values()) >= FEWEST
    return Written(paths, made, drawn)


# ------------------------------------------------------------------------------------------------------------ dciodvfy


@needs("dciodvfy")
@pytest.mark.parametrize("kind", ["sc", "dx", "mr", "pm", "seg"])
def test_dciodvfy_has_no_complaint(kind: str, written: Written) -> None:
    """Errors are none but the exempted one, which every file must have: it shows that the validator looked."""
    complaints: Counter[str] = Counter()
    for path in written.paths[kind]:
        told = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace").stderr
        errors = [line for line in told.splitlines() if line.startswith("Error")]
        assert EXEMPT in errors, path
        complaints.update(line for line in errors if line != EXEMPT)
    assert not complaints
    print(f"{len(written.paths[kind])} {kind} files")


@needs("dciodvfy")
def test_dciodvfy_sees_what_is_wrong(written: Written, tmp_path: Path) -> None:
    data = pydicom.dcmread(written.paths["dx"][0])
    del data.ImagerPixelSpacing
    data.save_as(tmp_path / "spoilt.dcm")
    told = subprocess.run(["dciodvfy", "-new", str(tmp_path / "spoilt.dcm")], capture_output=True, text=True).stderr
    assert re.search("Error.*ImagerPixelSpacing", told)


# ------------------------------------------------------------------------------------------------------------- Orthanc


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclasses.dataclass(frozen=True)
class Pacs:
    port: int
    http: int

    def get(self, path: str, data: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", data, timeout=30) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory) -> Iterator[Pacs]:
    """An Orthanc of its own, on loopback alone."""
    root = tmp_path_factory.mktemp("orthanc")
    port, http = free_ports(2)
    (root / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "test", "StorageDirectory": str(root / "db"), "IndexDirectory": str(root / "db"),
                "DicomPort": port, "DicomAet": "TEST", "HttpPort": http, "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False, "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True, "Plugins": [],
                "OverwriteInstances": False,
            }
        )
    )  # fmt: skip
    program = tool("Orthanc")
    assert program is not None
    with (root / "log").open("wb") as log:
        server = subprocess.Popen([program, str(root / "orthanc.json")], stdout=log, stderr=log, cwd=root, env=PROMPT)
        found = Pacs(port, http)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    found.get("/system")
                    break
                assert server.poll() is None, (root / "log").read_text()
                time.sleep(0.1)
            yield found
        finally:
            server.terminate()
            server.wait(30)


def pixels(data: Dataset) -> bytes:
    return bytes(data.get("PixelData") or data.get("FloatPixelData"))


@needs("Orthanc", "storescu")
def test_a_pacs_takes_every_file_and_gives_the_same_pixels_back(written: Written, pacs: Pacs, tmp_path: Path) -> None:
    every = [path for paths in written.paths.values() for path in paths]
    for n, path in enumerate(every):
        (tmp_path / f"{n:05d}.dcm").symlink_to(path)
    send = ["storescu", "--scan-directories", "--required", "127.0.0.1", str(pacs.port), str(tmp_path)]
    for _ in range(2):  # sent again, nothing is doubled
        told = subprocess.run(send, capture_output=True, text=True, timeout=300, env=PROMPT)
        assert told.returncode == 0 and not re.search(r"^[EF]:", told.stdout + told.stderr, re.M), told.stderr[-2000:]
    stored = json.loads(pacs.get("/instances?expand"))
    assert len(stored) == len(every)
    mine = {str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path for path in every}
    for instance in stored:
        sent = pydicom.dcmread(mine.pop(instance["MainDicomTags"]["SOPInstanceUID"]))
        back = pydicom.dcmread(io.BytesIO(pacs.get(f"/instances/{instance['ID']}/file")))
        assert pixels(back) == pixels(sent) and back.SyntheticData == "YES"
    assert not mine
    patients = json.loads(pacs.get("/patients?expand"))
    synthetic_ones = [p for p in patients if p["MainDicomTags"]["PatientID"].startswith("SYN-")]
    assert len(synthetic_ones) == 2 * len(written.films) and all(len(p["Studies"]) == 1 for p in synthetic_ones)
    # Derived series lie in the study of their source, and nowhere else.
    studies = {s["MainDicomTags"]["StudyInstanceUID"] for s in json.loads(pacs.get("/studies?expand"))}
    theirs = {str(source.sources[0].StudyInstanceUID) for source, *_ in written.derived}
    assert theirs < studies and len(studies) == len(theirs) + len(synthetic_ones)


@needs("Orthanc", "storescu")
def test_a_pacs_can_show_a_film(written: Written, pacs: Pacs) -> None:
    """Orthanc renders what a viewer would: the window shows all of the levels."""
    from PIL import Image

    path, one = written.paths["sc"][0], written.films[0]
    subprocess.run(["storescu", "--required", "127.0.0.1", str(pacs.port), str(path)], check=True, capture_output=True)
    key = json.loads(pacs.get("/tools/lookup", str(pydicom.dcmread(path).SOPInstanceUID).encode()))[0]["ID"]
    shown = np.asarray(Image.open(io.BytesIO(pacs.get(f"/instances/{key}/rendered"))).convert("L"), float)
    assert np.abs(shown / 127.5 - 1 - one.image[0]).max() < 2 / 127


# ------------------------------------------------------------------------------------------------------------ dcm2niix


@needs("dcm2niix")
def test_dcm2niix_finds_the_geometry_of_the_source(written: Written, tmp_path: Path) -> None:
    """Another program's NIfTI of a written MR series has the affine and the voxels of what was written."""
    firsts = [path for path in written.paths["mr"] if path.name == "0001.dcm"]
    for n, (first, (source, healthy, _, _)) in enumerate(zip(firsts, written.derived, strict=True)):
        out = tmp_path / str(n)
        out.mkdir()
        command = ["dcm2niix", "-b", "n", "-z", "n", "-x", "n", "-f", "made", "-o", str(out), str(first.parent)]
        told = subprocess.run(command, capture_output=True, text=True)
        (made,) = out.glob("*.nii")
        image: Any = nibabel.load(made)
        assert told.returncode == 0 and sorted(image.shape) == sorted(source.voxels.shape)
        # dcm2niix may exchange axes and turn them over; the same voxel has to lie at the same place with the same value.
        turn = np.linalg.inv(image.affine) @ source.affine
        assert np.abs(turn - np.rint(turn)).max() < 2e-3
        corner = np.rint(turn).astype(int)
        ijk = np.stack(np.meshgrid(*map(np.arange, healthy.shape), indexing="ij")).reshape(3, -1)
        x, y, z = corner[:3, :3] @ ijk + corner[:3, 3:]
        found = np.asarray(image.dataobj)[x, y, z].reshape(healthy.shape)
        step = float(pydicom.dcmread(first).RescaleSlope)
        assert np.abs(found - healthy).max() <= step / 2 + 1e-3 * step + 1e-4


def test_highdicom_finds_the_map_where_its_source_is(written: Written) -> None:
    for path, (source, _, scores, _) in zip(written.paths["pm"], written.derived, strict=True):
        volume = pmread(path).get_volume()
        turn = np.linalg.inv(volume.affine) @ np.diag([-1.0, -1, 1, 1]) @ source.affine
        assert np.abs(turn - np.rint(turn)).max() < 1e-3
        ijk = np.stack(np.meshgrid(*map(np.arange, scores.shape), indexing="ij")).reshape(3, -1)
        k, row, column = np.rint(turn[:3, :3]).astype(int) @ ijk + np.rint(turn[:3, 3:]).astype(int)
        assert np.array_equal(volume.array[k, row, column].reshape(scores.shape), scores)


def test_maps_and_masks_hold_what_was_written(written: Written) -> None:
    """Every frame lies where its slice does, and holds its numbers."""
    maps, masks = written.paths["pm"], written.paths["seg"]
    for source, _, scores, mask in written.derived:
        places = (source.affine @ np.array([(0, 0, k, 1) for k in range(scores.shape[2])]).T)[:3].T * (-1, -1, 1)
        for path, values in ((maps.pop(0), scores), (masks.pop(0), mask)):
            data = pydicom.dcmread(path)
            held = np.frombuffer(data.FloatPixelData, "<f4") if "FloatPixelData" in data else data.pixel_array
            held = held.reshape(-1, data.Rows, data.Columns)
            back = np.zeros_like(values)
            for group, frame in zip(data.PerFrameFunctionalGroupsSequence, held, strict=True):
                distance = np.abs(places - np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)).sum(1)
                assert distance.min() < 1e-3
                back[:, :, distance.argmin()] = frame.T
            assert np.array_equal(back, values)
    assert not maps and not masks
