"""Scans, patients and masks of the layouts in which data sets of brain MRI are published and converted."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from heads import head, save

import diffgraft
from domains import brain_mri
from toolkit.example import Error, Note
from toolkit.formats import mr_scans, nifti

SCAN = np.full((4, 5, 3), 7, np.float32)
MASK = np.zeros((4, 5, 3), np.uint8)


def make(root: Path, *names: str) -> Path:
    for name in names:
        words = name.lower()
        drawn = any(w in words for w in ("mask", "wmh", "seg", "label", "consensus", "gt", ".ot.", "lesion", "truth"))
        save(root / (name if ".nii" in name else f"{name}.nii.gz"), MASK if drawn else SCAN)
    return root


Found = dict[str, tuple[str, str | None]]


def found(root: Path, contrast: str | None = "FLAIR") -> Found:
    """Label -> (patient, mask below root)."""
    scans = nifti.find(root, contrast)
    return {s.label: (s.group, s.mask.relative_to(root).as_posix() if s.mask else None) for s in scans}


def told(root: Path, contrast: str | None = "FLAIR") -> tuple[Found, list[str]]:
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        return found(root, contrast), [str(note.message) for note in notes]


LAYOUTS: dict[str, tuple[tuple[str, ...], Found]] = {
    "WMH challenge": (
        tuple(f"{p}/{name}" for p in ("0", "2") for name in ("orig/FLAIR", "orig/T1", "orig/3DT1", "wmh")),
        {"0": ("0", "0/wmh.nii.gz"), "2": ("2", "2/wmh.nii.gz")},
    ),
    "WMH challenge, sites": (
        tuple(
            f"training/{p}/{name}"
            for p in ("Utrecht/0", "Singapore/50", "Amsterdam/GE3T/100", "Singapore/0")
            for name in ("orig/FLAIR", "wmh")
        ),
        {
            "Utrecht0": ("Utrecht0", "training/Utrecht/0/wmh.nii.gz"), "Singapore0": ("Singapore0", "training/Singapore/0/wmh.nii.gz"),
            "50": ("50", "training/Singapore/50/wmh.nii.gz"), "100": ("100", "training/Amsterdam/GE3T/100/wmh.nii.gz"),
        },
    ),
    "MSLUB, its folders": (
        tuple(f"patient0{p}/{name}" for p in (1, 2) for name in ("FLAIR", "T1W", "T1WKS", "T2W", "consensus_gt", "brainmask")),
        {f"patient0{p}": (f"patient0{p}", f"patient0{p}/consensus_gt.nii.gz") for p in (1, 2)},
    ),
    "MSLUB, longitudinal": (
        ("patient01/study1_FLAIR", "patient01/study2_FLAIR", "patient02/study1_FLAIR", "patient02/gt"),
        {
            "patient01study1": ("patient01", None), "patient01study2": ("patient01", None),
            "patient02study1": ("patient02", "patient02/gt.nii.gz"),
        },
    ),
    "BraTS 2020": (
        (
            *(f"BraTS20_Training_00{p}/BraTS20_Training_00{p}_{k}" for p in (1, 2) for k in ("flair", "t1ce", "seg")),
            "BraTS20_Training_355/BraTS20_Training_355_flair", "BraTS20_Training_355/W39_1998.09.19_Segm",
        ),
        {
            "BraTS20Training001": ("BraTS20Training001", "BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz"),
            "BraTS20Training002": ("BraTS20Training002", "BraTS20_Training_002/BraTS20_Training_002_seg.nii.gz"),
            "BraTS20Training355": ("BraTS20Training355", None),
        },
    ),
    "BraTS 2023": (
        tuple(f"BraTS-GLI-00000-00{t}/BraTS-GLI-00000-00{t}-{k}" for t in (0, 1) for k in ("t2f", "t1c", "t1n", "t2w", "seg")),
        {f"BraTSGLI0000000{t}": ("BraTSGLI00000", f"BraTS-GLI-00000-00{t}/BraTS-GLI-00000-00{t}-seg.nii.gz") for t in (0, 1)},
    ),
    "UCSF-PDGM": (
        ("UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_FLAIR", "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_tumor_segmentation",
         "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_brain_segmentation"),
        {"UCSFPDGM0004": ("UCSFPDGM0004", "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_tumor_segmentation.nii.gz")},
    ),
    "ISLES 2015": (
        tuple(
            f"{p}/VSD.Brain.XX.O.{k}.{n}/VSD.Brain.XX.O.{k}.{n}.nii"
            for p, n in ((1, 70614), (2, 70620))
            for k in ("MR_Flair", "MR_DWI", "OT")
        ),
        {str(p): (str(p), f"{p}/VSD.Brain.XX.O.OT.{n}/VSD.Brain.XX.O.OT.{n}.nii") for p, n in ((1, 70614), (2, 70620))},
    ),
    "ISLES 2022": (
        ("sub-strokecase0001/ses-0001/anat/sub-strokecase0001_ses-0001_flair",
         "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk"),
        {"strokecase0001ses0001": ("strokecase0001", "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz")},
    ),
    "one name in a folder a patient": (
        ("P1/anat/FLAIR", "P1/anat/T1", "P1/lesion/mask", "P2/anat/FLAIR", "P2/lesion/mask"),
        {"P1": ("P1", "P1/lesion/mask.nii.gz"), "P2": ("P2", "P2/lesion/mask.nii.gz")},
    ),
    "sessions": (
        ("P1/ses-1/FLAIR", "P1/ses-2/FLAIR", "P2/ses-1/FLAIR", "P1/ses-2/mask"),
        {"P1ses1": ("P1", None), "P1ses2": ("P1", "P1/ses-2/mask.nii.gz"), "P2ses1": ("P2", None)},
    ),
    "dates": (
        ("P1/20210304/FLAIR", "P2/20210304/FLAIR", "P2/2021-05-04/FLAIR"),
        {"P120210304": ("P1", None), "P220210304": ("P2", None), "P220210504": ("P2", None)},
    ),
    "sessions of full names": (
        ("P1/baseline/P1_flair", "P1/followup/P1_flair", "P1/followup/P1_mask"),
        {"P1baseline": ("P1", None), "P1followup": ("P1", "P1/followup/P1_mask.nii.gz")},
    ),
    "sites that number alike": (
        ("siteA/001/001_flair", "siteB/001/001_flair", "siteB/001/001_lesion_mask"),
        {"siteA001": ("siteA001", None), "siteB001": ("siteB001", "siteB/001/001_lesion_mask.nii.gz")},
    ),
    "folders of scans and of masks": (
        ("images/FLAIR/p1_flair", "images/FLAIR/p2_flair", "lesion_masks/p1_mask", "masks/p2"),
        {"p1": ("p1", "lesion_masks/p1_mask.nii.gz"), "p2": ("p2", "masks/p2.nii.gz")},
    ),
    "a mask of many words": (
        ("a_flair", "a_lesion_mask", "b_flair", "b_wmh_seg", "c_FLAIR", "c_lesion_seg_manual_mask"),
        {"a": ("a", "a_lesion_mask.nii.gz"), "b": ("b", "b_wmh_seg.nii.gz"), "c": ("c", "c_lesion_seg_manual_mask.nii.gz")},
    ),
    "stages in the name": (
        ("a_flair_pp", "a_t1_pp", "a_mask", "b_FLAIR_preprocessed", "c_FLAIR_brain", "c_FLAIR_brain_mask"),
        {"a": ("a", "a_mask.nii.gz"), "b": ("b", None), "c": ("c", None)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_is_read(tmp_path: Path, name: str) -> None:
    files, expected = LAYOUTS[name]
    assert found(make(tmp_path / "set", *files)) == expected


def test_a_mask_that_names_another_is_not_taken_for_the_patient_s(tmp_path: Path) -> None:
    make(tmp_path, "P1/FLAIR", "P2/FLAIR", "mask")
    assert found(tmp_path) == {"P1": ("P1", None), "P2": ("P2", None)}


@pytest.mark.parametrize(
    ("scan", "mask", "paired"),
    [
        *(("sub-01_FLAIR", f"sub-01_FLAIR_{word}", True) for word in ("mask", "roi", "lesion", "seg")),
        *(("P1_FLAIR", name, True) for name in ("mask_P1_FLAIR", "ples_lpa_mP1_FLAIR")),
        *(("sub-01_FLAIR", f"sub-01_label-{t}_{s}", False) for t in ("CSF", "GM", "WM", "brain") for s in ("mask", "probseg")),
        *(("P1_FLAIR", name, False) for name in ("P1_wm_mask", "P1_FLAIR_wm_seg", "P1_aseg", "brainmask_P1_FLAIR")),
    ],
)  # fmt: skip
def test_which_masks_are_of_lesions(tmp_path: Path, scan: str, mask: str, paired: bool) -> None:
    make(tmp_path, scan)
    save(tmp_path / f"{mask}.nii.gz", MASK)
    assert [bool(each[1]) for each in found(tmp_path).values()] == [paired]


TIMES = (
    ("ses-1", "ses-2"), ("study1", "study2"), ("visit1", "visit2"), ("tp1", "tp2"), ("T0", "T1"), ("baseline", "followup"),
    ("20190101", "20200101"), ("2019-01-01", "2020-01-01"), ("pre", "post"), ("Pre-op", "Post-op"), ("MR_d0129", "MR_d0757"),
    ("20190101_101500", "20200101_111500"), ("Screening", "Month6"), ("0months", "6months"), ("week-000-1", "week-044"),
    ("V01", "V02"), ("M00", "M12"), ("Erstuntersuchung", "Kontrolle"), ("Timepoint_1", "Timepoint_2"),
)  # fmt: skip
PATIENTS = ("P01", "002_S_0413", "OAS30001", "Patient-001")


def groups(root: Path, *names: str) -> list[str]:
    make(root, *names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        scans = nifti.find(root, "FLAIR")
    assert len({scan.label for scan in scans}) == len(names)
    return [scan.group for scan in sorted(scans, key=lambda scan: scan.path)]


@pytest.mark.parametrize("patient", PATIENTS)
@pytest.mark.parametrize("times", TIMES, ids=str)
def test_times_of_a_patient_are_one_group(tmp_path: Path, patient: str, times: tuple[str, str]) -> None:
    name = "".join(filter(str.isalnum, patient))
    forms = ("{p}_{t}_FLAIR", "{p}/{t}/FLAIR", "{p}/{p}_{t}_FLAIR", "{p}/{t}/{p}_FLAIR", "{p}_{t}/{p}_{t}_FLAIR")
    # Folders of these names are a contrast and a stage.
    for k, form in enumerate(forms[:1] if times in (("T0", "T1"), ("pre", "post")) else forms):
        other = form.format(p="Q77", t=times[0])
        met = groups(tmp_path / str(k) / "set", *(form.format(p=patient, t=t) for t in times), other)
        assert sorted(met) == sorted([name, name, "Q77"]), form


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (("P01_AX_FLAIR", "P01_SAG_FLAIR"), ["P01", "P01"]),
        (("1001/1/FLAIR", "1001/2/FLAIR", "1002/1/FLAIR"), ["1001", "1001", "1002"]),
        (("UPENN-GBM-00001/1.2.3.4.5.6/1.2.3.4.5.7/FLAIR", "UPENN-GBM-00001/1.2.3.4.6.6/1.2.3.9/FLAIR"), ["UPENNGBM00001"] * 2),
        (("baseline/P01/FLAIR", "followup/P01/FLAIR", "followup/P02/FLAIR"), ["P01", "P01", "P02"]),
        (("P1/anon_FLAIR", "P2/anon_FLAIR"), ["P1", "P2"]),
        (("site1/01/FLAIR", "site1/02/FLAIR", "site2/01/FLAIR"), ["site101", "02", "site201"]),
        (("hospital_scan_001_FLAIR", "hospital_scan_002_FLAIR"), ["hospitalscan001", "hospitalscan002"]),
        (("Data2020/X_001/X_001_flair", "Data2020/X_002/X_002_flair"), ["X001", "X002"]),
    ],
)  # fmt: skip
def test_a_folder_or_a_name_states_the_patient(tmp_path: Path, names: tuple[str, ...], patients: list[str]) -> None:
    assert groups(tmp_path / "set", *names) == patients


def test_scans_that_are_joined_are_said(tmp_path: Path) -> None:
    make(tmp_path, "P01_visit1_FLAIR", "P01_visit2_FLAIR")
    assert any("taken as one, 'P01'" in note for note in told(tmp_path)[1])


# ------------------------------------------------------------------------------------------------- stages and raters


def test_of_two_stages_the_acquired_one_is_taken_and_said(tmp_path: Path) -> None:
    make(tmp_path, "0/orig/FLAIR", "0/pre/FLAIR", "0/wmh", "2/orig/FLAIR", "2/pre/FLAIR")
    scans, notes = told(tmp_path)
    assert scans == {"0": ("0", "0/wmh.nii.gz"), "2": ("2", None)}
    assert {s.path.parent.name for s in quietly(tmp_path)} == {"orig"}
    assert len(notes) == 1 and "2 files are another stage" in notes[0] and "pre/FLAIR.nii.gz' is not" in notes[0]


def quietly(root: Path, contrast: str = "FLAIR") -> list[nifti.Scan]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        return nifti.find(root, contrast)


def test_the_stage_on_the_grid_of_the_mask_is_taken(tmp_path: Path) -> None:
    """MSSEG-2016: the masks are on the grid of the preprocessed scans."""
    place = tmp_path / "Center_01" / "Patient_01"
    save(place / "Raw_Data/3DFLAIR.nii.gz", np.zeros((6, 6, 6), np.float32))
    make(
        place,
        "Preprocessed_Data/FLAIR_preprocessed",
        "Preprocessed_Data/T1_preprocessed",
        "Masks/Consensus",
        "Masks/Brain_Mask",
    )
    make(place, *(f"Masks/ManualSegmentation_{k}" for k in range(1, 8)))
    scans, notes = told(tmp_path)
    assert scans == {"Patient01": ("Patient01", "Center_01/Patient_01/Masks/Consensus.nii.gz")}
    assert {s.path.name for s in quietly(tmp_path)} == {"FLAIR_preprocessed.nii.gz"}
    assert any("raters" in note and "Consensus" in note for note in notes) and any("another stage" in n for n in notes)


def test_the_first_rater_is_taken_and_said(tmp_path: Path) -> None:
    """ISBI 2015: two raters, five times of a patient, originals beside what was made of them."""
    for t in (1, 2):
        make(
            tmp_path / "training01",
            f"preprocessed/training01_0{t}_flair_pp.nii",
            f"preprocessed/training01_0{t}_mprage_pp.nii",
        )
        make(tmp_path / "training01", f"masks/training01_0{t}_mask1.nii", f"masks/training01_0{t}_mask2.nii")
        save(tmp_path / "training01" / f"orig/training01_0{t}_flair.nii.gz", np.zeros((6, 6, 6), np.float32))
    scans, notes = told(tmp_path)
    assert scans == {f"training010{t}": ("training01", f"training01/masks/training01_0{t}_mask1.nii") for t in (1, 2)}
    assert any("2 masks are one of several" in note for note in notes)


def test_one_mask_of_a_number_is_no_choice(tmp_path: Path) -> None:
    make(tmp_path, "a_flair", "a_mask1")
    assert told(tmp_path) == ({"a": ("a", "a_mask1.nii.gz")}, [])


@pytest.mark.parametrize("names", [("x/a_flair", "y/a_flair"), ("P1/a_flair.nii", "P1/a_flair.nii.gz")])
def test_scans_that_are_no_stages_are_refused_as_ever(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(Error, match="label of its own"):
        found(make(tmp_path, *names))


def test_a_scan_alone_finds_the_mask_of_its_patient(tmp_path: Path) -> None:
    make(tmp_path, "0/orig/FLAIR", "0/wmh", "2/orig/FLAIR", "2/wmh")
    (scan,) = nifti.find(tmp_path / "2/orig/FLAIR.nii.gz", "FLAIR")
    assert (scan.label, scan.group, scan.mask) == ("2", "2", tmp_path / "2/wmh.nii.gz")


# ----------------------------------------------------------------------------------------------------------- nnU-Net


def nnunet(root: Path, **facts: object) -> Path:
    make(
        root / "Dataset001_MS",
        *(f"imagesTr/MS_00{k}_000{c}" for k in (1, 2) for c in (0, 1)),
        "labelsTr/MS_001",
        "labelsTr/MS_002",
        "imagesTs/MS_009_0000",
    )
    if facts:
        (root / "Dataset001_MS/dataset.json").write_text(json.dumps(facts))
    return root


@pytest.mark.parametrize("key", ["channel_names", "modality"])
@pytest.mark.parametrize("name", ["FLAIR", "flair", "T2-FLAIR", "t2f"])
def test_the_channel_of_nnu_net_is_named_in_dataset_json(tmp_path: Path, key: str, name: str) -> None:
    nnunet(tmp_path, **{key: {"0": name, "1": "T1w"}})
    masks = {f"MS00{k}": (f"MS00{k}", f"Dataset001_MS/labelsTr/MS_00{k}.nii.gz") for k in (1, 2)}
    assert found(tmp_path) == masks | {"MS009": ("MS009", None)}
    assert found(tmp_path, "T1w") == masks


def test_without_dataset_json_a_channel_is_unknown_and_the_refusal_says_how(tmp_path: Path) -> None:
    make(tmp_path, "imagesTr/MS_001_0000", "labelsTr/MS_001")
    with pytest.raises(Error, match=r"holds 1 unknown.*channel_names.*--contrast unknown"):
        found(tmp_path)
    assert found(tmp_path, "unknown") == {"MS001": ("MS001", "labelsTr/MS_001.nii.gz")}


def test_labels_that_are_no_lesion_are_not_counted(tmp_path: Path) -> None:
    nnunet(
        tmp_path, channel_names={"0": "FLAIR"}, labels={"background": 0, "lesion": 1, "other pathology": 2, "core": 3}
    )
    scan = nifti.find(tmp_path, "FLAIR")[0]
    assert set(scan.lesions or ()) == {1, 3}
    for folder in ("0/orig", "0/pre"):
        make(tmp_path / "wmh", f"{folder}/FLAIR")
    make(tmp_path / "wmh", "0/wmh", "9/FLAIR", "9/wmh")
    challenge, other = quietly(tmp_path / "wmh")
    assert challenge.lesions == (1,), "2 is other pathology in the WMH challenge"
    assert other.lesions is None


# ---------------------------------------------------------------------------------------------------------- dcm2niix

TIMING = {"InversionTime": 2.5, "EchoTime": 0.12, "RepetitionTime": 9.0}


def converted(root: Path, name: str, **sidecar: object) -> None:
    make(root, name)
    if sidecar:
        (root / f"{name}.json").write_text(json.dumps(sidecar))


@pytest.mark.parametrize("sidecar", [
    {}, {"SeriesDescription": "AX T2 FLAIR"}, {"ProtocolName": "AX T2 FLAIR", "SeriesDescription": "Brain routine"},
    {"ProtocolName": "AX_T2_FLAIR", **TIMING},
])  # fmt: skip
def test_the_names_of_dcm2niix_are_read(tmp_path: Path, sidecar: dict[str, object]) -> None:
    for case in ("101", "102"):
        converted(tmp_path, f"case{case}_AX_T2_FLAIR_20210304101500_5", **sidecar)
    make(tmp_path, "case101_AX_T2_FLAIR_20210304101500_5_mask", "case102_mask")
    converted(tmp_path, "case101_AX_T1_20210304101500_3")
    assert found(tmp_path) == {
        "case101": ("case101", "case101_AX_T2_FLAIR_20210304101500_5_mask.nii.gz"), "case102": ("case102", "case102_mask.nii.gz"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said", "named"),
    [
        ("Schädel FLAIR", "Schädel FLAIR", "Schadel_FLAIR"),  # ISO_IR 100
        ("Schädel FLAIR", "SchÃ¤del FLAIR", "SchA_del_FLAIR"),  # ISO_IR 192
        ("T2 FLAIR tra+fs 1/2", "T2 FLAIR tra+fs 1/2", "T2_FLAIR_tra+fs_1_2"),
        ("t2_tirm_tra_dark-fluid.4mm (1)", "t2_tirm_tra_dark-fluid.4mm (1)", "t2_tirm_tra_dark-fluid.4mm_(1)"),
    ],
)
def test_a_protocol_is_cut_off_the_name_as_dcm2niix_spells_it(
    tmp_path: Path, words: str, said: str, named: str
) -> None:
    """Sidecar and file name as dcm2niix 1.0.20260724 writes them for a DICOM description `words`."""
    for case in ("101", "102"):
        converted(tmp_path, f"case{case}_{named}_20210304101500_5", SeriesDescription=said, ProtocolName=said, **TIMING)
    assert found(tmp_path) == {f"case{case}": (f"case{case}", None) for case in ("101", "102")}


def test_a_star_that_the_name_lacks_stands_in_the_sidecar(tmp_path: Path) -> None:
    """dcm2niix 1.0.20260724 calls "T2* tra" T2_tra, and "T2 tra" of the same study and number T2_tra with a letter behind."""
    converted(tmp_path, "a_T2_tra_20210304101500_5", SeriesDescription="T2* tra")
    converted(tmp_path, "a_T2_tra_20210304101500_5a", SeriesDescription="T2 tra")
    assert [(s.label, s.contrast) for s in nifti.find(tmp_path)] == [("a", "T2starw"), ("a", "T2w")]


def test_timing_in_the_sidecar_tells_flair_without_a_word(tmp_path: Path) -> None:
    converted(tmp_path, "case1_t2_spc_sag_p2_iso_20210304101500_7", **TIMING)
    converted(tmp_path, "case2_t2_spc_sag_p2_iso_20210304101500_7", EchoTime=0.4, RepetitionTime=3.2)
    converted(tmp_path, "headscan", **TIMING)
    assert sorted(found(tmp_path)) == ["case1", "headscan"]
    assert sorted(found(tmp_path, "T2w")) == ["case2"]


def test_one_protocol_in_a_folder_a_patient(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        converted(tmp_path / patient, "AX_T2_FLAIR_5", SeriesDescription="AX T2 FLAIR", SeriesNumber=5)
    converted(tmp_path / "P2", "AX_T2_FLAIR_6", SeriesDescription="AX T2 FLAIR", SeriesNumber=6)
    assert found(tmp_path) == {"P1": ("P1", None), "P2s5": ("P2", None), "P2s6": ("P2", None)}


def test_one_input_folder_of_many_patients(tmp_path: Path) -> None:
    for time in ("20210304101500", "20210305111500"):
        converted(tmp_path, f"DICOM_AX_FLAIR_{time}_5", SeriesDescription="AX FLAIR")
    assert len(found(tmp_path)) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"EchoTime": "x", "SeriesDescription": 3}'])
def test_a_sidecar_that_says_nothing_changes_nothing(tmp_path: Path, content: str) -> None:
    make(tmp_path, "a", "b_flair")
    (tmp_path / "a.json").write_text(content)
    assert found(tmp_path, None) == {"a": ("a", None), "b": ("b", None)}
    assert list(found(tmp_path)) == ["b"]


# ------------------------------------------------------------------------------------------------------------- verbs


def test_patients_of_one_file_name_are_prepared_and_treated_apart(tmp_path: Path) -> None:
    for seed, patient in enumerate(("0", "2")):
        scan, mask = head(lesion=(25, 20, 10), seed=seed)
        save(tmp_path / "raw" / patient / "orig/FLAIR.nii.gz", scan)
        save(tmp_path / "raw" / patient / "wmh.nii.gz", mask.astype(np.uint8) * (1 + seed))
    (tmp_path / "raw/bad/orig").mkdir(parents=True)
    (tmp_path / "raw/bad/orig/FLAIR.nii.gz").write_bytes(b"no scan")
    made = diffgraft.prepare("brain_mri", tmp_path / "raw", tmp_path / "out")
    assert made.groups == 2 and "unknown" not in made.classes
    assert [name for name, _ in made.aside] == ["bad/orig/FLAIR.nii.gz"]
    examples = list(brain_mri.read(tmp_path / "raw", aside=lambda *_: None))
    sick = {e.group for e in examples if e.annotation.labels["lesion"] == 1}
    assert {e.id.partition("-")[0] for e in examples} == {"0", "2"} and sick == {"0"}, "2 is other pathology"
    scans = mr_scans.find(tmp_path / "raw", "FLAIR", lambda *_: None)
    assert [(s.label, s.name) for s in scans][:2] == [("0", "0/orig/FLAIR.nii.gz"), ("2", "2/orig/FLAIR.nii.gz")]
    assert mr_scans.load(scans[0], "refuse")[0].label == "0"
