"""Damaged files, full disks, refusals of libraries: one line, a code, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from halut import io
from halut.cli import main as cli
from halut.errors import HalutError, reason
from tests.training.damage import checkpoints, contents, values

OPTIONS = (
    "debug=smoke", "debug.traceback=false", "model.options.width=4", "data.batch_size=16",
    "policy.only=[stack3.conv1,stack3.conv2]", "policy.keep_last=false", "capture.samples=32",
    "base.epochs=1", "schedule.epochs=2", "schedule.order=by_sensitivity", "ptq=[8]",
    "schedule.sensitivity_samples=16", "trainer.checkpoint_every=1", "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with every file that a run reads again."""
    run = tmp_path_factory.mktemp("finished") / "run"
    program = [sys.executable, "train.py", *OPTIONS, f"run_dir={run}"]
    done = subprocess.run(program, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def run(finished, tmp_path):
    """The run as it was while its second stage trained."""
    copy = shutil.copytree(finished, tmp_path / "run")
    for name in ("report.json", "stage_01/stage.json", "stage_01/weights.safetensors"):
        (copy / name).unlink()
    return copy


def one_line(outcome) -> None:
    """Either the run went well, or one line says why not."""
    assert outcome.code in (0, 1)
    assert "Traceback" not in outcome.out + outcome.err, outcome.err
    if outcome.code:
        assert outcome.err.startswith("error: ")
        assert len(outcome.err.splitlines()) == 1, outcome.err
        assert len(outcome.err) < 2000


STATE = (
    "config.json", "base/base.json", "base/weights.safetensors", "stage_00/stage.json",
    "stage_00/weights.safetensors", "stage_01/swap.json", "stage_01/swapped.safetensors",
    "stage_01/last.ckpt", "stage_01/best.safetensors", "sensitivity.json", "baseline/stage.json",
    "baseline/ptq.json", "metrics.csv", "state.json", "error.json", "plan.json",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STATE)
def test_a_run_with_a_corrupt_file_resumes_or_reports_one_error(train, run, name):
    spoils = list(contents())
    if name.endswith(".json") and (run / name).exists():
        spoils += values(run / name, 12)
    if name.endswith(".ckpt"):
        spoils += checkpoints()
    whole = shutil.copytree(run, run.with_name("whole"))
    for label, spoil in spoils:
        print(name, label)  # shown if it fails
        (run / name).parent.mkdir(exist_ok=True)
        if name == "error.json":
            (run / name).write_text("{}")
        spoil(run / name)
        one_line(train(*OPTIONS, f"run_dir={run}"))
        shutil.rmtree(run)
        shutil.copytree(whole, run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[]"),
        ("base/base.json", b'{"origin": 3}'),
        ("stage_00/stage.json", b"\xff"),
        ("stage_00/stage.json", b'{"steps": 1}'),
        ("stage_00/weights.safetensors", b""),
        ("stage_01/swap.json", b"null"),
        ("sensitivity.json", b"{}"),
        ("state.json", b"[1]"),
        ("stage_00/stage.json", None),
    ],
)
def test_a_corrupt_file_is_named(train, run, name, content):
    path = run / name
    path.unlink(missing_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)
    outcome = train(*OPTIONS, f"run_dir={run}")
    one_line(outcome)
    assert outcome.code == 1
    assert str(path) in outcome.err


@pytest.mark.parametrize("label", ["torch {}", "loops={}", "optimizer_states=[1]"])
def test_a_checkpoint_of_something_else_is_named(train, run, label):
    dict(checkpoints())[label](run / "stage_01" / "last.ckpt")
    outcome = train(*OPTIONS, f"run_dir={run}")
    one_line(outcome)
    assert "stage_01/last.ckpt: damaged, or the checkpoint of another run" in outcome.err
    assert (run / "stage_01" / "last.ckpt").exists()


def test_damaged_lines_of_metrics_are_dropped_and_the_run_goes_on(train, run):
    path = run / "metrics.csv"
    rows = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([b"\xff\xfe", *rows[1:4], "²,a,b,1".encode(), b"1" * 99]))
    assert train(*OPTIONS, f"run_dir={run}").code == 0
    lines = path.read_text().splitlines()
    assert lines[0] == "step,stage,key,value"
    assert all(len(line.split(",")) == 4 and line[0].isdigit() for line in lines[1:])


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"base": 3}', b"\xff", b'{"base": {}}'])
def test_a_corrupt_report_is_named(train, finished, tmp_path, content):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "report.json").write_bytes(content)
    outcome = train(*OPTIONS, f"run_dir={run}")
    one_line(outcome)
    assert f"{run}/report.json: damaged" in outcome.err


def test_table_lists_corrupt_runs_beside_the_others(finished, tmp_path, capsys):
    names = ("report.json", "config.json", "error.json", "state.json")
    good = shutil.copytree(finished, tmp_path / "runs" / "good")
    for file in names:
        spoils = [*contents(), *(values(good / file, 12) if (good / file).exists() else ())]
        for index, (_, spoil) in enumerate(spoils):
            folder = tmp_path / "runs" / f"{file}{index}"
            folder.mkdir()
            for name in names[:2]:
                shutil.copy(good / name, folder)
            if (good / file).exists():
                shutil.copy(good / file, folder)
            (folder / file).touch()
            if file == "state.json":
                (folder / "report.json").unlink()
            spoil(folder / file)
    code = cli(["table", str(tmp_path / "runs")])
    written = capsys.readouterr()
    assert (code, written.err) == (1, "")
    counts = json.loads((tmp_path / "runs" / "sweep.json").read_text())["counts"]
    assert counts["finished"] >= 1
    assert counts["failed"] > 30
    assert "damaged" in written.out


# -- the operating system --------------------------------------------------------------------------


def full(*words: str):
    """os.fsync of a disk that is full once a file with one of the words is written."""
    original = os.replace

    def replace(source, target):
        if any(word in str(target) for word in words):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(source, target)

    return replace


@pytest.mark.parametrize(
    "word", ["config.json", "metrics.csv", "base.json", "last.ckpt", "swapped", "plan.json"]
)
def test_a_full_disk_is_one_line_and_the_run_continues(train, run, tmp_path, monkeypatch, word):
    new = tmp_path / "new"
    monkeypatch.setattr(io.os, "replace", full(word, "error.json"))
    outcome = train(*OPTIONS, f"run_dir={new}")
    one_line(outcome)
    assert outcome.code == 1
    assert word in outcome.err
    assert "No space left on device" in outcome.err
    assert not list(tmp_path.rglob(".halut-*"))
    monkeypatch.undo()
    assert train(*OPTIONS, f"run_dir={new}").code == 0


def test_a_disk_full_at_the_end_still_shows_the_result(train, run, monkeypatch):
    monkeypatch.setattr(io.os, "replace", full("report.json"))
    outcome = train(*OPTIONS, f"run_dir={run}")
    one_line(outcome)
    assert outcome.code == 1
    assert "accuracy in percent" in outcome.out


def test_a_table_that_cannot_be_written_is_printed(finished, tmp_path, capsys, monkeypatch):
    runs = shutil.copytree(finished.parent, tmp_path / "runs")
    monkeypatch.setattr(io.os, "replace", full("sweep.json"))
    assert cli(["table", str(runs)]) == 1
    written = capsys.readouterr()
    assert "1 run: 1 finished" in written.out
    assert written.err == f"error: {runs}/sweep.json cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file/run", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("/proc/halut/run", "No such file"),
        ("a\udcff", "the name is no UTF-8"),
    ],
)
def test_places_that_cannot_be_are_one_line(train, tmp_path, place, says):
    (tmp_path / "file").write_text("")
    outcome = train(*OPTIONS, f"run_dir='{tmp_path / place}'")
    one_line(outcome)
    assert outcome.code == 1
    assert says in outcome.err


def test_a_full_standard_output_is_one_line(tmp_path):
    program = [sys.executable, "-m", "halut.cli", "env"]
    root = Path(__file__).parents[2]
    with open("/dev/full", "w") as out:
        done = subprocess.run(program, stdout=out, stderr=subprocess.PIPE, text=True, cwd=root)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("No space left on device\n")
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupt_is_one_line_wherever_it_comes(tmp_path):
    root = Path(__file__).parents[2]
    for program in ("train.py", "evaluate.py"):
        early = (
            f"import os, signal, runpy, sys; sys.argv = ['{program}', '--help']\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell may ignore it
        )
        hook = "import builtins; real = builtins.__import__\n" + (
            "def fake(name, *a, **k):\n"
            "    if name == 'hydra': os.kill(os.getpid(), signal.SIGINT)\n"
            "    return real(name, *a, **k)\n"
            "builtins.__import__ = fake\n"
        )
        code = f"{early}\n{hook}\nrunpy.run_path('{program}', run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_an_interrupted_verb_ends_with_130(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("halut.cli.env", interrupted)
    assert cli(["env"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


# -- what is told of an error ----------------------------------------------------------------------


def raised(call) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_refusals_are_one_line_and_faults_have_a_traceback():
    assert reason(HalutError("two\n lines")) == "two lines"
    assert reason(raised(Path("/proc/none").read_text)) == "/proc/none: No such file or directory"
    assert "text that cannot be" in reason(raised(lambda: b"\xff".decode()))
    assert "out of memory" in reason(raised(lambda: torch.empty(1 << 60)))
    assert "out of memory" in reason(MemoryError())
    torch_s = reason(raised(lambda: torch.ones(2) @ torch.ones(3)))
    assert torch_s.startswith("RuntimeError: ")
    assert torch_s.endswith("(debug=traceback shows where)")
    long = reason(RuntimeError("x" * 5000))
    assert len(long) < 700
    assert reason(raised(lambda: io.write_json(Path("/proc/x"), {1: object()}))) is not None
    assert reason(raised(lambda: io._finite())) is not None  # a test called it wrongly


def test_a_fault_of_this_program_keeps_its_traceback(train, tmp_path, monkeypatch):
    from halut.training import run as life

    monkeypatch.setattr(life, "make_plan", lambda *arguments: None)
    outcome = train(*OPTIONS, f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: ")
    monkeypatch.undo()

    def refuse(*arguments):
        raise RuntimeError("torch\nsays no")

    monkeypatch.setattr(life, "make_plan", refuse)
    one_line(train(*OPTIONS, f"run_dir={tmp_path / 'run'}"))
    outcome = train(*OPTIONS, "debug.traceback=true", f"run_dir={tmp_path / 'run'}")
    assert "Traceback" in outcome.err


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        io.write_json(tmp_path / "new" / "a.json", {})
        io.write_bytes(tmp_path / ("n" * 255), b"")  # as long as a name can be
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {mode}
