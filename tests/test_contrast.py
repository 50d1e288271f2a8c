"""What an MR series shows: names of the makers' sequences, and timing, which overrules them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicoms import affine_of, classic, enhanced, voxels_of
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from toolkit.formats.contrast import Timing, shown_contrast
from toolkit.formats.dicom import series as mr

NAMES = {
    "t2_spc_da-fl_sag_p2_iso": "FLAIR", "t2_spc_da-fl_irprep_sag": "FLAIR", "t2_spc_ir_sag_p2": "FLAIR",
    "t2_space_dark-fluid_sag_p2_iso": "FLAIR", "t2_tirm_tra_dark-fluid_4mm": "FLAIR", "t2_blade_tra_dark fluid": "FLAIR",
    "T2 DARK FLUID": "FLAIR", "t2_tse_darkfluid_tra": "FLAIR", "t2_qtse_dark-fl_tra": "FLAIR", "Ax T2 FLAIR PROPELLER": "FLAIR",
    "Sag CUBE T2 FLAIR": "FLAIR", "CUBE FLAIR": "FLAIR", "3D VISTA FLAIR": "FLAIR", "sT2W_FLAIR_SENSE": "FLAIR",
    "3D_Brain_VIEW_FLAIR_SHC": "FLAIR", "3DFLAIR": "FLAIR", "T2W_FLAIRtra": "FLAIR", "WIP fFLAIR": "FLAIR", "FLAIR post Gd": "FLAIR",
    "fluid attenuated inversion recovery": "FLAIR", "Sag T2 Cube": "T2w", "t2_spc_sag_p2_iso": "T2w", "AxT2": "T2w",
    "sT2W_TSE": "T2w", "t1_tirm_tra_dark-fluid": "T1w", "Ax T1 FLAIR PROPELLER": "T1w", "T1FLAIR": "T1w", "T1W_FLAIR": "T1w",
    "sT1W_3D_TFE": "T1w", "Ax FSPGR 3D": "T1w", "mp2rage": "T1w", "t1_fl3d_tra": "T1w", "t1_fl2d_tra +C": "T1gd",
    "t2_spc_dir_ns_sag": "DIR", "DTI_30dir": "dwi", "DTI 64 dir": "dwi", "eADC (10^-6 mm²/s)": "ADC", "SWI_Images": "swi",
    "localizer": "unknown", "Survey": "unknown", "STIR": "unknown", "t2_flash": "T2w",
}  # fmt: skip
"""Descriptions as the makers' consoles and dcm2niix give them."""

FLUID = {
    "Siemens SPACE 3 T": (1800, 390, 5000), "Siemens SPACE 1.5 T": (2200, 335, 6000), "Siemens TIRM": (2500, 85, 9000),
    "GE CUBE": (1624, 113, 6000), "GE 2-D": (2250, 125, 10000), "Philips VISTA": (1650, 340, 4800), "Philips 2-D": (2800, 125, 11000),
}  # fmt: skip
"""Inversion, echo and repetition time of FLAIR protocols, ms."""

TISSUE = {"GE T1 FLAIR": (860, 24, 2500), "Siemens T1 TIRM": (800, 9.4, 2000), "MPRAGE": (900, 2.3, 2300)}
FAT = {"STIR": (160, 60, 5000), "STIR at 3 T": (220, 90, 6000)}


@pytest.mark.parametrize("words", NAMES)
def test_a_name_tells_the_contrast(words: str) -> None:
    assert shown_contrast([words]) == NAMES[words]


@pytest.mark.parametrize("times", FLUID.values(), ids=FLUID)
@pytest.mark.parametrize("words", ["", "t2_spc_sag_p2_iso", "Sag T2 Cube", "PD", "t2_tirm_tra", "3D brain", "GRE"])
def test_timing_that_nulls_fluid_is_flair_though_it_is_named_t2(words: str, times: tuple[float, float, float]) -> None:
    assert shown_contrast([words], Timing(*times)) == "FLAIR"


@pytest.mark.parametrize("words", ["t2_spc_dir_ns_sag", "ep2d_diff_b1000_flair", "ADC", "SWI", "AX T1"])
def test_timing_does_not_overrule_what_is_certain(words: str) -> None:
    assert shown_contrast([words], Timing(2250, 100, 9000)) == shown_contrast([words]) != "FLAIR"


@pytest.mark.parametrize("times", TISSUE.values(), ids=TISSUE)
def test_flair_by_name_with_the_timing_of_t1_is_t1(times: tuple[float, float, float]) -> None:
    assert shown_contrast(["Ax FLAIR"], Timing(*times)) == "T1w"
    assert shown_contrast(["Ax FLAIR"], Timing(*times), agent=True) == "T1gd"
    assert shown_contrast([""], Timing(*times)) == "unknown"


@pytest.mark.parametrize("times", FAT.values(), ids=FAT)
def test_a_stir_is_no_flair(times: tuple[float, float, float]) -> None:
    assert shown_contrast(["t2_tirm_cor"], Timing(*times)) == "T2w"
    assert shown_contrast(["tirm_cor"], Timing(*times)) == "unknown"
    assert shown_contrast(["t2_spc_ir_cor"], Timing(*times)) == "T2w"


def test_the_first_description_with_a_known_word_counts() -> None:
    assert shown_contrast(["series 5", "t2_tirm_tra_dark-fluid"]) == "FLAIR"
    assert shown_contrast(["AX T2", "FLAIR"]) == "T2w"


NUMBER = st.one_of(st.none(), st.floats())


@given(words=st.text(), times=st.tuples(NUMBER, NUMBER, NUMBER))
def test_any_words_and_numbers_have_an_answer(words: str, times: tuple) -> None:
    assert shown_contrast([words], Timing(*times)) in {*NAMES.values(), "PDw", "T2starw"}


@pytest.mark.parametrize("times", FLUID.values(), ids=FLUID)
def test_a_classic_and_an_enhanced_series_say_it_in_their_own_elements(tmp_path: Path, times: tuple) -> None:
    inversion, echo, repetition = times
    name = {"SeriesDescription": "t2_spc_sag", "ProtocolName": "t2_spc_sag"}
    paths = classic(tmp_path / "c", voxels_of(), affine_of((0, 0, 0), (1, 1, 5)), **name)
    import pydicom

    for path in paths:
        data = pydicom.dcmread(path)
        data.InversionTime, data.EchoTime, data.RepetitionTime = inversion, echo, repetition
        data.save_as(path)
    path = enhanced(tmp_path / "e" / "x.dcm", voxels_of(), affine_of((0, 0, 0), (1, 1, 5)), **name)
    data = pydicom.dcmread(path)
    item, shared = Dataset(), data.SharedFunctionalGroupsSequence[0]
    item.InversionTimes, item.EffectiveEchoTime, item.RepetitionTime = [float(inversion)], float(echo), repetition
    for sequence in ("MRModifierSequence", "MRTimingAndRelatedParametersSequence"):
        setattr(shared, sequence, Sequence([item]))
    for group in data.PerFrameFunctionalGroupsSequence:  # as Philips does
        group.MREchoSequence = Sequence([item])
    data.save_as(path)
    for root in ("c", "e"):
        (found,) = mr.find(tmp_path / root)
        assert found.contrast == "FLAIR"
    item.InversionTimes = [3000.0, 450.0]
    for sequence in ("MRModifierSequence",):
        setattr(shared, sequence, Sequence([item]))
    data.save_as(path)
    assert mr.find(tmp_path / "e")[0].contrast == "T2w", "two inversions are no FLAIR"


def test_damaged_times_leave_the_name(tmp_path: Path) -> None:
    data = Dataset()
    data.SeriesDescription = "t2_spc_da-fl_sag"
    data.InversionTime, data.EchoTime = ["1800", "5"], float(np.inf)
    assert mr.contrast_of(data) == "FLAIR"
