"""Folders that are there whole or not at all: locks, killed jobs, what is replaced, what the disk has."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.data import staging
from toolkit.example import Error

JOB = """
import sys
from toolkit.data.staging import staged_folder
with staged_folder(sys.argv[1], overwrite=True, signs=()) as folder:
    (folder / "half.txt").write_text("half")
    print("begun", flush=True)
    sys.stdin.read()
"""


def job(out: Path) -> subprocess.Popen[str]:
    """A process that has begun to write into OUT and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def write(out: Path, text: str, **settings: object) -> None:
    with staging.staged_folder(out, **settings) as folder:  # type: ignore[arg-type]
        (folder / "a.txt").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_of_two_jobs_is_refused_and_names_the_first(tmp_path):
    first = job(tmp_path / "out")
    with pytest.raises(Error, match=rf"one job at a time.*process {first.pid} on .* since 20\d\d-"):
        write(tmp_path / "out", "second", overwrite=True, signs=())
    first.communicate("")
    assert (tmp_path / "out" / "half.txt").read_text() == "half"
    assert names(tmp_path) == ["out"]


def test_jobs_with_other_outputs_do_not_meet(tmp_path):
    first = job(tmp_path / "out")
    write(tmp_path / "out2", "second")
    write(tmp_path / "ou", "third")
    first.communicate("")
    assert names(tmp_path) == ["ou", "out", "out2"]


def test_what_a_killed_job_left_is_cleared_by_the_next(tmp_path):
    for _ in range(2):
        first = job(tmp_path / "out")
        first.kill()
        first.wait()
        first.stdout.close(), first.stdin.close()
    assert not (tmp_path / "out").exists()
    assert names(tmp_path) != []
    (tmp_path / ".outer.partial-1").mkdir()  # of another output
    write(tmp_path / "out", "whole")
    assert names(tmp_path) == [".outer.partial-1", "out"]
    assert names(tmp_path / "out") == ["a.txt"]


def test_a_name_may_hold_what_a_pattern_is_made_of(tmp_path):
    (tmp_path / ".a.partial-7").mkdir()
    write(tmp_path / "[a-z]", "whole")
    write(tmp_path / "*", "whole")
    assert names(tmp_path) == ["*", ".a.partial-7", "[a-z]"]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_while_a_folder_is_replaced_loses_neither(tmp_path, monkeypatch, moment):
    out = tmp_path / "out"
    write(out, "old")
    rename, steps = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        steps.append(target)
        if (moment, len(steps)) in (("before", 1), ("between", 2)):
            raise KeyboardInterrupt
        moved = rename(self, target)
        if (moment, len(steps)) == ("after", 2):
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write(out, "new", overwrite=True, signs=("a.txt",))
    monkeypatch.undo()
    # the next job finds a whole folder, may not replace it without being told, and clears the rest away
    with pytest.raises(Error, match="new or empty folder"):
        write(out, "newer")
    assert (out / "a.txt").read_text() == ("new" if moment == "after" else "old")
    write(out, "newer", overwrite=True, signs=("a.txt",))
    assert (out / "a.txt").read_text() == "newer"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_appears_meanwhile_is_not_deleted_and_the_result_is_kept(tmp_path, overwrite):
    out = tmp_path / "out"
    with (
        pytest.raises(Error, match=r"(new or empty|Only a folder).* whose result is kept in .*out-1\."),
        staging.staged_folder(out, overwrite=overwrite) as folder,
    ):
        (folder / "a.txt").write_text("made")
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    assert (out / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "out-1" / "a.txt").read_text() == "made"
    assert names(tmp_path) == ["out", "out-1"]


def test_everything_is_on_the_disk_before_it_is_moved(tmp_path, monkeypatch):
    synced: set[int] = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), fsync(file))[1])
    with staging.staged_folder(tmp_path / "out") as folder:
        (folder / "below").mkdir()
        (folder / "below" / "a.txt").write_text("a")
        (folder / "b.txt").write_text("b")
        (folder / "link").symlink_to("b.txt")
    there = {path.stat().st_ino for path in (tmp_path / "out").rglob("*")} | {(tmp_path / "out").stat().st_ino}
    assert synced == there


def test_a_file_is_shared_as_new_files_are(tmp_path):
    path = tmp_path / "weights"
    path.touch(0o600)
    before = os.umask(0o027)
    try:
        staging.share(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OSError), staging.staged_folder(blocked / "out"):
        pytest.fail("the work has begun")


def test_a_lock_ends_with_its_process(tmp_path):
    first = job(tmp_path / "out")
    first.send_signal(signal.SIGSTOP)  # a process that hangs still has it
    with pytest.raises(Error, match="one job at a time"), staging.locked(tmp_path / "out"):
        pass
    first.kill()
    first.wait()
    first.stdout.close(), first.stdin.close()
    with staging.locked(tmp_path / "out"):
        assert (tmp_path / ".out.lock").is_file()
    assert not (tmp_path / ".out.lock").exists()
