"""`python train.py -m ...`: values in folders of their own, failures listed, resumed, one table."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

from halut.cli import main
from tests.training.smoke_run import COMMON, NARROW, Run

VALUES = ("halut.width=4,8,99", "halut=integer", "policy.only=[stack3.conv2]")
QUICK = (*COMMON, *NARROW, "schedule.epochs=0", "capture.samples=16")


def last_values(folder: Path) -> dict[str, str]:
    """Status by folder of what sweep.json lists."""
    report = json.loads((folder / "sweep.json").read_text())
    return {run["run"]: run["status"] for run in report["runs"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the store of a sweep is, results/
    return tmp_path / "sweep"


def test_a_failed_value_stops_no_other_and_the_rest_is_resumed(train, folder, monkeypatch):
    command = ("-m", *QUICK, *VALUES, f"run_dir={folder}")
    threads = torch.get_num_threads()
    outcome = train(*command, "trainer.threads=1")
    assert torch.get_num_threads() == threads
    assert outcome.code == 1
    assert "error: halut.width=99: halut.width must be in 2..32, got 99" in outcome.err
    assert "Traceback" not in outcome.err
    names = {"halut.width=4", "halut.width=8", "halut.width=99"}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == names
    assert last_values(folder) == {**dict.fromkeys(names, "finished"), "halut.width=99": "failed"}
    assert "3 runs: 2 finished, 1 failed" in outcome.out
    assert "failed: halut.width=99: halut.width must be in 2..32, got 99" in outcome.out
    assert sys.argv[1:] == [*command, "trainer.threads=1"]

    # Every value is the run that its report's command makes, alone.
    report = Run(folder / "halut.width=4").report
    told = shlex.split(report["command"])[2:]
    assert "halut.width=4" in told
    again = train(*told)
    assert again.code == 0
    assert again.out.count("is finished already") == 1
    alone = folder.with_name("alone")
    single = [word.replace("4,8,99", "4") for word in command[1:-1]]
    assert train(*single, f"run_dir={alone}").code == 0
    weights = [Run(path).tensors("stage_00/weights") for path in (alone, folder / "halut.width=4")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())

    # The same command: finished values are not run again, a failed one is tried again.
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("report.json")}
    again = train(*command)
    assert again.code == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("report.json")} == times
    assert again.out.count("is finished already") == 2

    # Fewer values, another folder of jobs: the table is read from the folders alone.
    (folder / "halut.width=99" / "error.json").unlink()
    (folder / "halut.width=99").rmdir()
    assert main(["table", str(folder)]) == 0
    assert set(last_values(folder).values()) == {"finished"}


@pytest.mark.slow
def test_a_failing_sweep_value_is_reported_and_runs_again(train, folder, monkeypatch):
    import halut.training.run as running

    work = running.final_report

    def broken(context, *rest):
        if context.config.seed == 1:
            raise RuntimeError("no\nmemory")
        return work(context, *rest)

    monkeypatch.setattr(running, "final_report", broken)
    values = ("seed=1,0", *VALUES[1:])
    outcome = train("-m", *QUICK, *values, f"run_dir={folder}")
    assert outcome.code == 1
    assert last_values(folder) == {"seed=0": "finished", "seed=1": "failed"}
    assert "failed: seed=1: RuntimeError: no memory" in outcome.out
    note = json.loads((folder / "seed=1" / "error.json").read_text())
    assert "final_report" in note["traceback"]
    monkeypatch.setattr(running, "final_report", work)
    assert train("-m", *QUICK, *values, f"run_dir={folder}").code == 0
    assert not (folder / "seed=1" / "error.json").exists()
    assert last_values(folder) == {"seed=0": "finished", "seed=1": "finished"}


@pytest.mark.slow
def test_values_share_base_and_baseline_and_the_picture_is_drawn(train, folder, tmp_path):
    pytest.importorskip("matplotlib")
    cache = tmp_path / "cache"
    tuned = ("baseline=true", "schedule.epochs=1", "base.epochs=1", f"base.cache={cache}")
    command = ("-m", *COMMON, *NARROW, *VALUES[1:], *tuned, "halut.width=4,8")
    outcome = train(*command, f"run_dir={folder}")
    assert outcome.code == 0, outcome.err
    names = sorted(path.name.startswith("baseline-") for path in cache.iterdir())
    assert names == [False, True]
    runs = [Run(folder / f"halut.width={width}") for width in (4, 8)]
    tuned_weights = [run.tensors("baseline/weights") for run in runs]
    assert all(torch.equal(t, tuned_weights[1][name]) for name, t in tuned_weights[0].items())
    assert "tuned earlier" in outcome.out
    assert len({run.report["baseline"]["test_accuracy"] for run in runs}) == 1
    point = json.loads((folder / "sweep.json").read_text())["points"][0]
    assert point["values"] == {"halut.width": 4}
    assert point["mean"]["baseline_accuracy"] == runs[0].report["baseline"]["test_accuracy"]
    from PIL import Image

    with Image.open(folder / "curve.png") as image:
        assert len(image.convert("RGB").getcolors(2**20)) > 20

    # Another rate makes another baseline.
    other = train(*command, "optim.lr.rest=1e-4", f"run_dir={tmp_path / 'other'}")
    assert other.code == 0
    assert len(list(cache.iterdir())) == 3


@pytest.mark.slow
def test_without_run_dir_the_command_decides_the_folder(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train("-m", *QUICK, "halut.C=0,-1").code == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sweep-")
    assert train("-m", *QUICK, "halut.C=0,-1").code == 1
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert set(last_values(folder)) == {"halut.C=0", "halut.C=-1"}


def test_what_cannot_be_a_sweep_is_refused(train, folder, tmp_path):
    assert train("-m", *QUICK, "halut.C=4,abc", f"run_dir={folder}").code == 1
    assert not any(folder.glob("halut*"))  # refused when composed: nothing has begun
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    outcome = train("-m", *QUICK, "halut.C=4,8", f"run_dir={tmp_path / 'run'}")
    assert (outcome.code, "holds a run; give a sweep another folder" in outcome.err) == (1, True)
    outcome = train("-m", *QUICK, "halut.C=4,8", "trainer.devices=2", f"run_dir={folder}")
    assert outcome.code == 1
    assert "python train.py hydra/launcher=slurm -m" in outcome.err
    assert "torchrun --nproc-per-node=2 train.py -m" in outcome.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sweep.x=halut.Q", "sweep.x=halut.Q is unknown; choose from: halut.width; test_"),
        ("sweep.x=bites", "bytes, table_bytes"),
        ("sweep.y=halut.width", "sweep.y=halut.width is unknown"),
        ("sweep.picture=curve.gif", "sweep.picture=curve.gif: a picture's name ends in one of"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_before_anything_runs(train, folder, option, message):
    outcome = train("-m", *QUICK, *VALUES, option, f"run_dir={folder}")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert not folder.exists()
    alone = train(*QUICK, *VALUES[1:], option, f"run_dir={folder}")
    assert alone.code == 1
    assert message.partition(";")[0] in alone.err
    assert not folder.exists()


@pytest.mark.parametrize("x", ["bytes", "memory.after.codes", "halut.width", "seed"])
def test_a_sweep_over_an_option_is_drawn_over_it_or_a_figure(train, folder, x):
    pytest.importorskip("matplotlib")
    few = ("halut.width=4,8", *VALUES[1:], f"sweep.x={x}", "sweep.picture=sizes.svg")
    outcome = train("-m", *QUICK, *few, f"run_dir={folder}")
    assert outcome.code == 0, outcome.err
    assert "sweep.csv, sizes.svg" in outcome.out
    assert (folder / "sizes.svg").read_bytes().startswith(b"<?xml")
    drawn_over = "halut.width" if x == "seed" else x  # all runs have one seed: no axis
    assert json.loads((folder / "sweep.json").read_text())["x"] == drawn_over
