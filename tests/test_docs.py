"""The documentation is true: its commands are commands, its walks run, and its site asks nothing of the network."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import pytest

from toolkit.models.folder import hash_id, read_meta, training_ids

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DATA = ROOT.parent / "shared" / "data"
PAGES = sorted((DOCS / "users").glob("*.md"))
HISTORY = {"changelog.md", "renames.md"}
"""Pages that speak of earlier releases too."""

real_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real files beside the checkout (../shared/data)")


def texts() -> list[Path]:
    """Everything that tells a reader what to type."""
    pages = [path for path in DOCS.rglob("*.md") if path.name not in HISTORY]
    return [ROOT / "README.md", *sorted(ROOT.glob("models/*/README.md")), *sorted(pages)]


# --------------------------------------------------------------------------------------------------------- faults


def test_every_fault_of_the_field_names_a_test_that_there_is():
    rows = [line for line in (DOCS / "faults.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| in the field")]
    assert len(rows) > 90
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::([\w:]+)`", row)
        assert named, row
        for file, name in named:
            text = (ROOT / "tests" / file).read_text()
            assert all(re.search(rf"(def|class) {part}\b", text) for part in name.split("::")), (file, name)


# ------------------------------------------------------------------------------------------------------- commands


def commands(text: str) -> list[str]:
    """The diffgraft commands of a text, in blocks and between backticks, each on one line."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"^\s*(?:\.venv/bin/)?(diffgraft [a-z].*)$", text, re.MULTILINE)
    found += [" ".join(words.split()) for words in re.findall(r"(?<!`)`(diffgraft [a-z][^`]*)`(?!`)", text)]
    return [shlex.join(shlex.split(line, comments=True)) for line in found if "->" not in line]


def parse(command: str) -> None:
    """Let the command line read a command, and run nothing. Errors: what it does not know."""
    from typer.main import get_command

    from diffgraft.cli.main import app

    group, words = get_command(app), shlex.split(command)[1:]
    context = group.make_context("diffgraft", list(words))
    while hasattr(group, "resolve_command"):
        name, group, words = group.resolve_command(context, words)
        context = group.make_context(name, list(words), parent=context)
        words = [*getattr(context, "_protected_args", ()), *context.args]


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_one(path):
    text = path.read_text(encoding="utf-8")
    for command in commands(text):
        try:
            parse(command)
        except Exception as problem:
            raise AssertionError(f"{path}: {command}: {problem}") from problem
    assert "--task" not in text, f"{path} has a command of an earlier form"


def test_commands_are_found():
    found = commands(
        "```\n.venv/bin/diffgraft generate a b/ \\\n  -n 3   # three\n```\nor `diffgraft doctor`, not `diffgraft`"
    )
    assert found == ["diffgraft generate a b/ -n 3", "diffgraft doctor"]
    with pytest.raises(Exception, match="No such option"):
        parse("diffgraft generate a b/ --hieght 3")
    with pytest.raises(Exception, match="No such command"):
        parse("diffgraft genrate a b/")
    with pytest.raises(Exception, match="No such option"):
        parse("diffgraft evaluate classify a b/ --samplers euler")
    assert sum(len(commands(path.read_text(encoding="utf-8"))) for path in texts()) > 60


# ----------------------------------------------------------------------------------------------------------- site


class Loads(HTMLParser):
    """What a page fetches when it is opened: everything but the targets of its links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("canonical", "prev", "next"):
            return
        names = () if tag == "a" else ("src", "href", "srcset", "data")
        self.found += [given[name] for name in names if given.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install 'diffgraft[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env=os.environ
        | {"NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in loads.found if re.match(r"(https?:)?//", url)], page
        assert not re.search(r'class="mermaid|<math|class="arithmatex', page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(.?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_the_reference_has_every_verb_option_and_field(site):
    import dataclasses

    import diffgraft
    from diffgraft.cli.main import COMMANDS
    from diffgraft.cli.measuring import QUESTIONS

    cli = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for command in (*COMMANDS, *QUESTIONS):
        assert f" {command.run.__name__} [" in cli
        for option in command.options.values():
            for flag in () if option.positional else option.flags.replace("/", " ").split():
                assert flag in cli, (command.run.__name__, flag)
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    requests = (site / "reference" / "requests.html").read_text(encoding="utf-8")
    for name in diffgraft.__all__:
        found = getattr(diffgraft, name)
        if name.endswith(("Request", "Options")):
            assert f'id="diffgraft.requests.{name}"' in requests, name
            for field in dataclasses.fields(found):
                assert field.name in requests
        elif name not in ("Error", "__version__"):
            assert f'id="diffgraft.{name}"' in api, name


def test_the_pictures_are_small():
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".webp", ".png", ".svg", ".jpg")]
    assert sum(path.stat().st_size for path in pictures) < 1.5 * 2**20


# ----------------------------------------------------------------------------------------------------------- walks


WRAPPER = """\
#!/bin/bash
# What the pages say, shortened: trainings and experiments of a few steps, and exit code 3 (some inputs put aside) is fine.
# A model of so few steps need not pass the gate of an export: the starter model is exported in its place.
words=("$@")
case "$1 $2" in
  train*) words+=(--steps 4 --batch 4) ;;
  "evaluate classify"|"evaluate alignment"|"evaluate detect") words+=(--steps 4 --seeds 2) ;;
  "export mine") cp -r models/brain_mri starter; words[1]=starter ;;
  counterfactual*) words+=(--quality fast) ;;
  "generate mine") words+=(--steps 4); case "$*" in *--layout*) words+=(--no-filter) ;; esac ;;
esac
echo "diffgraft ${words[*]}" >&2
"%s" -m diffgraft.cli.main "${words[@]}" || { code=$?; [ $code = 3 ] || exit $code; }
echo "$SECONDS s" >&2
"""


def walk_of(page: Path) -> str:
    """The blocks that are to be run, as one script."""
    return "\n".join(re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


def lay_out(home: Path) -> None:
    """A reader's own files, few of each: `scans/`, `xrays/`, `photos/` and `pictures/`, and the starter models."""
    (home / "models").symlink_to(ROOT / "models")
    for patient in sorted(path for path in (DATA / "mri" / "lgg").iterdir() if path.is_dir())[:6]:
        (home / "scans" / patient.name).mkdir(parents=True)
        for kind in ("flair", "mask"):
            (file,) = patient.glob(f"*_{kind}.nii.gz")
            scan = nibabel.load(file)
            middle = scan.shape[2] // 2
            nibabel.save(scan.slicer[:, :, middle - 4 : middle + 5], home / "scans" / patient.name / file.name)
    seen = training_ids(read_meta(ROOT / "models" / "plant_disease")) or set()
    for folder in sorted((DATA / "plant" / "images").glob("Coffee___*")):
        (home / "photos" / folder.name).mkdir(parents=True)
        for file in [each for each in sorted(folder.iterdir()) if hash_id(each.stem) not in seen][:12]:
            shutil.copy(file, home / "photos" / folder.name)
    with (DATA / "cxr" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        films = list(csv.DictReader(file))
    # Half of them with a text of their own, and of every view; some patients have several films.
    chosen = [row for row in films if row["text"]][:24] + [row for row in films if not row["text"]][:24]
    (home / "xrays" / "images").mkdir(parents=True)
    with (home / "xrays" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, films[0])
        table.writeheader()
        table.writerows(chosen)
    for row in chosen:
        shutil.copy(DATA / "cxr" / row["filename"], home / "xrays" / "images")
    boxes = DATA / "boxes" / "bccd" / "Annotations"
    # Those without a white cell first: a picture is known by its rarest class, and there have to be two.
    chosen = sorted(boxes.iterdir(), key=lambda file: ("WBC" in file.read_text(encoding="utf-8"), file.name))[:40]
    for folder in ("JPEGImages", "Annotations"):
        (home / "pictures" / folder).mkdir(parents=True)
    for file in chosen:
        shutil.copy(file, home / "pictures" / "Annotations")
        shutil.copy(boxes.parent / "JPEGImages" / f"{file.stem}.jpg", home / "pictures" / "JPEGImages")


@real_data
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_walk_of_a_page_runs(page, tmp_path):
    home, tools = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    tools.mkdir()
    lay_out(home)
    (tools / "diffgraft").write_text(WRAPPER % sys.executable, encoding="utf-8")
    (tools / "diffgraft").chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", walk_of(page)],
        cwd=home,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
