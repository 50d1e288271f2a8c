"""The language of chest films: what a sentence says is found, what it does not say is not, and a prompt reads back."""

from __future__ import annotations

import csv
import math
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.language import report as report_text
from toolkit.language.report import FINDINGS, Statement, compose_text
from toolkit.language.report.lexicon import GROUPS, IMPLIES

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "cxr" / "metadata.csv"

# Paraphrases of sentences as they stand in case reports and in hospital reports, annotated by reading: + present, - absent,
# ? uncertain. What follows from a finding (opacity from consolidation) is not repeated.
READ = [
    ("There is dense consolidation of the right upper lobe, and the horizontal fissure bulges.", "consolidation+"),
    ("Chest film on arrival shows patchy consolidations on both sides.", "consolidation+"),
    ("A large opacity occupies the right mid and lower zones. A small effusion is seen on the right as well.", "opacity+ effusion+"),
    ("The nasogastric tube projects over the right main bronchus.", "device+"),
    ("The lateral film shows a diffuse nodular pattern.", "nodule_or_mass+"),
    ("Follow-up film is normal, the left lower lobe pneumonia has resolved.", "normal+ pneumonia-"),
    ("The radiograph did not show any abnormal pulmonary or hilar changes.", "normal+"),
    ("Nodular pattern persists without interstitial oedema.", "nodule_or_mass+ edema-"),
    ("Necrotizing change in the right lung formed an abscess, as the chest X-ray shows.", "cavity+"),
    ("Prominent left hilum and mediastinal lymphadenopathy.", "lymphadenopathy+"),
    ("Heart size normal. Mediastinal contours normal. No pleural effusions.", "cardiomegaly- effusion-"),
    ("Fine reticular and ground glass opacities around both hila.", "interstitial+ ground_glass+"),
    ("Scattered infiltrates that migrate over the months.", "opacity+"),
    ("Prone portable PA film: airspace opacities persist, and there is cardiomegaly.", "opacity+ cardiomegaly+"),
    ("The reticular pattern and the high density are less than before, best seen in the left upper lobe.", "interstitial+ opacity+"),
    ("CXR: Normal", "normal+"),
    ("CXR: suspicious areas of consolidation.", "consolidation?"),
    ("The heart is not enlarged. Patchy consolidation is seen above both hila.", "cardiomegaly- consolidation+"),
    ("ET tube and both internal jugular lines in place. Opacification has progressed.", "device+ opacity+"),
    ("Tracheostomy. Slight regression of the left-sided airspace opacification.", "device+ opacity+"),
    ("Interstitial markings are prominent: prominent bilateral interstitial markings at the bases.", "interstitial+"),
    ("A reticular pattern in the left upper zone and an obliterated left costophrenic angle.", "interstitial+ effusion?"),
    ("Bibasal infiltrates. Blunting of the left costophrenic angle suggests a small effusion.", "opacity+ effusion?"),
    ("Lungs clear. Heart size normal.", "lungs cardiomegaly-"),
    ("Resolution of the consolidation, and the left heart border is seen again.", "consolidation-"),
    ("Bibasal atelectasis. No pleural effusion.", "atelectasis+ effusion-"),
    ("The cardiothoracic ratio is 54 %: mildly increased cardiothoracic ratio.", "cardiomegaly+"),
    ("Lungs and pleural spaces are clear, the consolidation seen previously has resolved.", "lungs pleura consolidation-"),
    ("Left lung and pleura are clear. Consolidation of the right upper lobe.", "consolidation+"),
    ("Severe ARDS; the patient is intubated.", "opacity+ device+"),
    ("Note a large cyst in the left lung.", "cavity+"),
    ("Neither consolidation nor collapse. No pneumothorax or effusion.", "consolidation- atelectasis- effusion- pneumothorax-"),
    ("Normal heart size and vasculature.", "cardiomegaly- edema-"),
    ("Heart is mildly enlarged.", "cardiomegaly+"),
    ("Marked improvement on the right, however no sign of improvement at the left base.", ""),
    ("The right basal consolidation shows almost complete regression.", "consolidation?"),
    ("Marked resolution of the opacities, and only little residual airspace opacification.", "opacity+"),
    ("Large cavitating mass in the right upper lobe.", "cavity+ nodule_or_mass+"),
    ("Ground-glass haze on both sides raises suspicion of viral pneumonia.", "ground_glass+ pneumonia?"),
    ("AP film after placing a line shows wide ground-glass opacities, as seen on the previous CT.", "ground_glass+"),
    ("Coarse lung markings at the bases, but no clear consolidation is seen.", "interstitial+ consolidation-"),
    ("First read as no abnormality. Looking back, there is faint ground glass on both sides.", "ground_glass+"),
    ("Consolidation at both bases. The heart is enlarged. A pacemaker is noted.", "consolidation+ cardiomegaly+ device+"),
    ("Study within the limits of the norm.", "normal+"),
    ("The pleural surfaces are clear. No focal collapse.", "pleura atelectasis-"),
    ("Right upper zone consolidation, which suggests pneumonia.", "consolidation+ pneumonia?"),
    ("New pneumomediastinum and a small pneumothorax on both sides; a chest drain lies on the right.",
     "pneumomediastinum+ pneumothorax+ device+"),
    ("The left pneumothorax has increased, the right pneumothorax persists. No pleural effusion.", "pneumothorax+ effusion-"),
    ("Although there is no consolidation, there is ground glass in both lungs.", "consolidation- ground_glass+"),
    ("No nodules, nodes or pleural effusions are seen.", "nodule_or_mass- effusion-"),
    ("No shift of the fissures to suggest atelectasis.", "atelectasis-"),
    ("Low volumes without focal consolidation, pleural effusion, or pneumothorax.", "consolidation- effusion- pneumothorax-"),
    ("Question of right basal atelectasis versus infiltrate.", "atelectasis? opacity?"),
    ("Negative for effusion or focal consolidation. No large pneumothorax.", "effusion- consolidation- pneumothorax?"),
    ("The lungs are hyperinflated but clear.", "emphysema+ lungs"),
    ("Minimal scarring at the apices. Scattered calcified granulomas.", "fibrosis+ nodule_or_mass+"),
    ("Hiatus hernia. Pleural thickening on the left.", "hernia+ pleural_thickening+"),
    ("Mild cardiomegaly with interstitial edema.", "cardiomegaly+ edema+"),
    ("No change in the right pleural effusion.", "effusion+"),
    ("Not only an effusion but also a pneumothorax.", "effusion+ pneumothorax+"),
    ("Pneumothorax cannot be excluded.", "pneumothorax?"),
    ("Pneumothorax: none. Effusion is absent.", "pneumothorax- effusion-"),
    ("No consolidation and bilateral effusions.", "consolidation- effusion+"),
    ("No left pleural effusion.", ""),
    ("The heart size and mediastinal contours are normal.", "cardiomegaly-"),
    ("Chest tube has been removed. Possible small pneumothorax.", "device- pneumothorax?"),
]  # fmt: skip

NOT_OF_THE_FILM = [
    "This 58-year-old man was admitted with pneumonia and sepsis.",
    "History of pneumothorax.",
    "Physical examination revealed crackles over the right lower lobe, pneumonia was suspected and treatment begun.",
    "CT showed consolidation and a large effusion. No nodules were seen.",
    "Discussion: eosinophilic pneumonia shows peripheral consolidation.",
    "Small consolidation in the right upper lobe was observed on high-resolution computed tomography.",
    "Blood cultures grew the cause of the pneumonia.",
    "If left untreated, the film may progress to consolidation.",
]


def gold(words: str) -> tuple[dict[str, float], set[str]]:
    known: dict[str, float] = {}
    for word in words.split():
        if word in ("lungs", "pleura"):
            known = dict.fromkeys(GROUPS[word], 0.0) | known
        elif not word.endswith("?"):
            known[word[:-1]] = float(word.endswith("+"))
    return report_text.imply_findings(known), {word[:-1] for word in words.split() if word.endswith("?")}


def test_there_are_enough_sentences():
    assert len(READ) >= 60


@pytest.mark.parametrize(("text", "words"), READ, ids=range(len(READ)))
def test_what_a_sentence_says(text, words):
    known, doubted = gold(words)
    assert report_text.findings(text) == known
    assert {s.finding for s in report_text.statements(text) if s.status == "uncertain"} == doubted


@pytest.mark.parametrize("text", NOT_OF_THE_FILM)
def test_history_and_other_modalities_say_nothing_of_the_film(text):
    assert report_text.findings(text) == {}


def test_a_sentence_with_the_film_after_the_story_keeps_its_end():
    text = "At diagnosis of HIV with oral candidiasis and pneumonia, the chest radiograph showed left hilar lymphadenopathy."
    assert report_text.findings(text) == {"normal": 0.0, "lymphadenopathy": 1.0}
    assert "candidiasis" not in report_text.imaging_sentences(text)[0]


def test_after_a_tomogram_the_film_has_to_be_named_again():
    text = "CT was done. A large mass is seen in the left lung. The chest X-ray shows a right effusion. The heart is enlarged."
    assert report_text.findings(text) == {"normal": 0.0, "effusion": 1.0, "cardiomegaly": 1.0}


def test_normal_denies_everything_and_an_exception_is_an_exception():
    normal = report_text.findings("Normal chest radiograph.")
    assert normal == {name: float(name == "normal") for name in FINDINGS}
    assert report_text.findings("Normal chest radiograph. Right pleural effusion.") == {"normal": 0.0, "effusion": 1.0}
    assert report_text.findings("The film is nearly normal.") == {}


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("Right pleural effusion and left pneumothorax", {"effusion": "right", "pneumothorax": "left"}),
        ("Pneumothorax, right basal consolidation", {"pneumothorax": "", "consolidation": "right"}),
        ("Consolidation in the right upper and lower lobes", {"consolidation": "right"}),
        ("Bilateral effusions", {"effusion": "bilateral"}),
        ("Opacity in both lung bases", {"opacity": "bilateral"}),
        ("Consolidation of the LUL", {"consolidation": "left"}),
        ("Effusion on the left with consolidation on the right", {"effusion": "left", "consolidation": "right"}),
        ("Diffuse opacities, especially in the left upper lobe", {"opacity": ""}),
        ("Opacity with loss of the left heart border", {"opacity": ""}),
    ],
)
def test_a_side_belongs_to_its_finding(text, sides):
    assert {s.finding: s.side for s in report_text.statements(text)} == sides


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("PA view", "PA"), ("posteroanterior chest radiograph", "PA"), ("pa view, cardiomegaly", "PA"), ("Portable PA film", "PA"),
        ("AP chest radiograph", "AP"), ("Portable chest X-ray", "AP"), ("anteroposterior film", "AP"), ("AP bedside chest X-ray", "AP"),
        ("AP supine portable CXR", "AP Supine"), ("supine study", "AP Supine"), ("Chest radiograph, AP supine, man", "AP Supine"),
        ("left lateral chest x-ray", "L"), ("Lateral projection.", "L"), ("chest radiograph, lateral view", "L"),
        ("frontal and lateral projections", ""), ("PA and lateral views", ""), ("bilateral chest drains", ""), ("frontal film", ""),
        ("spO2 85%, PAFI<250, slept in lateral position", ""), ("", ""), ("PORTABLE AP CHEST", "AP"), ("FILM: PA VIEW", "PA"),
    ],
)  # fmt: skip
def test_the_view(text, view):
    assert report_text.view(text) == view


@pytest.mark.parametrize(
    ("text", "sex", "age"),
    [
        ("A 52-year-old man", "M", 52), ("sixty-five-year-old woman. Her husband was well", "F", 65), ("45 years old", "", 45),
        ("65M, cough", "M", 65), ("70 y/o F", "F", 70), ("6-month-old girl", "F", 0.5), ("elderly lady", "F", math.nan),
        ("a middle-aged male", "M", math.nan), ("woman aged 33", "F", 33), ("patient, her lungs", "F", math.nan),
        ("3 days of fever, 14 mg of it", "", math.nan), ("Her brother is 30 years old?", "", 30), ("", "", math.nan),
    ],
)  # fmt: skip
def test_sex_and_age(text, sex, age):
    assert report_text.sex(text) == sex
    assert report_text.age(text) == pytest.approx(age, nan_ok=True)


def test_devices_that_are_in_place():
    assert report_text.devices("CVL via the left jugular vein; ETT and NGT as they should be.") == (
        "central venous line", "endotracheal tube", "nasogastric tube",
    )  # fmt: skip
    assert report_text.devices("Chest drain removed. No pacemaker. ECG leads over the chest.") == ("ecg leads",)
    assert report_text.devices("Extubated since the last film. Lungs clear.") == ()


# -------------------------------------------------------------------------------------------------------------- scrub

SECRETS = {
    "[**Hospital 7**]": "marks", "____": "marks", "<NAME>": "marks", "Dr. Okonkwo": "names", "Mrs Van Dyke": "names",
    "12/04/2019": "dates", "2019-04-12": "dates", "3 March 2020": "dates", "March 3, 2020": "dates", "MRN: 4471982": "numbers",
    "555-123-4567": "numbers", "someone@example.org": "web", "94-year-old": "ages",
}  # fmt: skip


@pytest.mark.parametrize(("secret", "kind"), SECRETS.items())
def test_what_identifies_goes_and_no_warning_repeats_it(secret, kind):
    clean, warned = report_text.scrub(f"Film of {secret} shows a right pleural effusion of 12.5 mm.")
    assert secret not in clean
    assert report_text.findings(clean)["effusion"] == 1.0
    assert "12.5 mm" in clean
    assert len(warned) == 1
    assert kind in warned[0]
    words = [word for word in secret.replace("[", " ").replace("*", " ").split() if len(word) > 3 and word.isalpha()]
    assert not any(word in warned[0] for word in words)


def test_a_clean_text_stays():
    text = (
        "A 71-year-old woman. PA film, T4 to T12, spO2 85%, 10-15 L/min: right effusion, 3 days. May represent edema."
    )
    assert report_text.scrub(text) == (text, [])


def test_lost_characters_are_mended_where_it_is_clear():
    assert report_text.scrub("fever of 39? C")[0] == "fever of 39 °C"
    assert report_text.scrub("0.12?g/l")[0] == "0.12µg/l"
    assert report_text.scrub("shows ?ground-glass opacities?, typical")[0] == 'shows "ground-glass opacities", typical'
    assert report_text.scrub("infection?")[0] == "infection?"


def test_scrubbing_twice_is_scrubbing_once():
    text = " ".join(SECRETS)
    once, _ = report_text.scrub(text)
    assert report_text.scrub(once) == (once, [])


# -------------------------------------------------------------------------------------------------------------- prompts

SIDED = [name for name in FINDINGS if name not in ("normal", "device", "cardiomegaly", "pneumomediastinum", "hernia")]


@st.composite
def films(draw):
    stated = draw(st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from([0.0, 1.0, math.nan])))
    known = report_text.imply_findings(stated)
    said = [
        Statement(name, "present", draw(st.sampled_from(["left", "right", "bilateral", ""])))
        for name in SIDED
        if known.get(name) == 1.0
    ]
    devices = draw(st.sets(st.sampled_from(["endotracheal tube", "chest drain", "pacemaker"])))
    said += [Statement("device", "present", "", (), name) for name in devices]
    view = draw(st.sampled_from(["", "PA", "AP", "AP Supine", "L"]))
    sex = draw(st.sampled_from(["", "F", "M"]))
    age = draw(st.just(math.nan) | st.integers(2, 100).map(float) | st.just(0.5))
    return view, sex, age, stated, said


@settings(max_examples=100, deadline=None)
@given(films(), st.integers(0, 2**32))
def test_a_prompt_reads_back_as_what_was_said(film, seed):
    view, sex, age, stated, said = film
    prompt = compose_text(view, sex, age, stated, said, random.Random(seed))
    known, read = report_text.imply_findings(stated), report_text.findings(prompt)
    assert {name for name, value in read.items() if value == 1.0} == {
        n for n, value in known.items() if value == 1.0
    }, prompt
    assert all(known.get(name) == value for name, value in read.items()), prompt
    assert not [s for s in report_text.statements(prompt) if s.status == "uncertain"], prompt
    assert report_text.view(prompt) in (view, ""), prompt
    assert report_text.sex(prompt) in (sex, ""), prompt
    assert report_text.age(prompt) == age or math.isnan(report_text.age(prompt)), prompt
    sides = {s.finding: s.side for s in said if s.finding != "device"}
    for statement in report_text.statements(prompt):
        if statement.status == "present" and statement.side:
            assert statement.side == sides[statement.finding], prompt
    if known.get("device") == 1.0:
        assert set(report_text.devices(prompt)) == {s.detail for s in said if s.detail}, prompt


def test_prompts_vary_and_a_generator_of_numpy_will_do():
    stated = {"effusion": 1.0, "consolidation": 1.0, "pneumothorax": 0.0}
    made = {compose_text("PA", "M", 65.0, stated, [], random.Random(seed)) for seed in range(100)}
    assert len(made) > 60
    assert compose_text("PA", "M", 65.0, stated, [], np.random.default_rng(1))
    assert compose_text("PA", "M", 65.0, stated, [], random.Random(3)) == compose_text(
        "PA", "M", 65.0, stated, [], random.Random(3)
    )
    assert compose_text("", "", math.nan, {}, [], random.Random(0))


def test_nobody_over_89_has_an_age_in_a_prompt():
    assert all(
        math.isnan(report_text.age(compose_text("", "F", 97.0, {}, [], random.Random(seed)))) for seed in range(50)
    )


# -------------------------------------------------------------------------------------------------------------- any text


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                "no",
                "not",
                "effusion",
                ",",
                ".",
                ";",
                ":",
                "?",
                "right",
                "left",
                "and",
                "or",
                "with",
                "CT",
                "film",
                "normal",
                "lungs",
            ]
        )
    ).map(" ".join)
)
def test_any_text_is_read_without_complaint(text):
    clean, _ = report_text.scrub(text)
    assert set(report_text.findings(clean).values()) <= {0.0, 1.0}
    assert report_text.view(text) in ("", "PA", "AP", "AP Supine", "L")
    assert report_text.sex(text) in ("", "M", "F")
    assert math.isnan(report_text.age(text)) or 0 <= report_text.age(text) <= 125
    assert all(sentence.strip() for sentence in [*report_text.sentences(text), *report_text.imaging_sentences(text)])
    report_text.devices(text)


@pytest.mark.parametrize("text", ["", " \n\t ", "右侧胸腔积液。", "الصدر طبيعي", "🫁🩻", "12345", "....", "?" * 50])
def test_what_cannot_be_read_states_nothing(text):
    assert report_text.findings(text) == {}
    assert report_text.imaging_sentences(text) == []


def test_capitals_and_odd_spaces_change_nothing():
    plain = "AP chest. ETT above the carina. No pneumothorax or pleural effusion. Right basal consolidation."
    loud = plain.upper().replace(" ", " \u00a0\t ")
    assert report_text.findings(loud) == report_text.findings(plain)
    assert report_text.devices(loud) == report_text.devices(plain)
    assert report_text.view(loud) == report_text.view(plain)


@pytest.mark.parametrize(
    "piece",
    [
        "no effusion, ",
        "No effusion. ",
        "consolidation and ",
        "the lungs and the heart and ",
        "word ",
        "no no ",
        "a",
        "(",
        "1.2.",
        "A. ",
    ],
)
def test_a_long_text_is_read_in_time(piece):
    text = piece * (20_000 // len(piece))
    begun = time.process_time()
    report_text.findings(report_text.scrub(text)[0])
    report_text.view(text), report_text.sex(text), report_text.age(text)
    assert time.process_time() - begun < 5


def test_what_is_implied_is_known():
    assert set(IMPLIES) < set(FINDINGS)
    assert report_text.imply_findings({"ground_glass": 1.0, "opacity": 0.0}) == {
        "normal": 0.0,
        "ground_glass": 1.0,
        "opacity": 1.0,
    }
    assert report_text.imply_findings({"opacity": 0.0})["consolidation"] == 0.0
    assert report_text.imply_findings({"effusion": math.nan}) == {}


@pytest.mark.skipif(not REAL.is_file(), reason="no real texts beside the checkout (../shared/data/cxr/metadata.csv)")
def test_real_texts_agree_with_their_table():
    with REAL.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"]]
    for row in rows:
        sex, age = report_text.sex(row["text"]), report_text.age(row["text"])
        assert sex in ("", row["sex"]) or not row["sex"]
        assert math.isnan(age) or not row["age"] or age == float(row["age"])
    told = [report_text.findings(row["text"]) for row in rows]
    assert sum(bool(known) for known in told) > 0.85 * len(rows)
    assert all(k.get("normal") != 0.0 for k, row in zip(told, rows, strict=True) if row["findings"] == "No Finding")
    named = [(report_text.view(row["text"]), row["view"]) for row in rows if row["view"]]
    said = [(mine, theirs) for mine, theirs in named if mine]
    assert sum(mine[:1] == theirs[:1] for mine, theirs in said) > 0.65 * len(said)
