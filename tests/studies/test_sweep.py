"""`halut sweep`: a product or a list of configurations, trained or not, into one store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from halut.cli import main
from halut.errors import HalutError
from halut.results.store import Store
from halut.studies.sweep import command
from tests.conftest import Outcome
from tests.training.smoke_run import COMMON, NARROW

QUICK = (
    *(each for each in COMMON if each != "baseline=false"),
    *NARROW,
    "capture.samples=16",
    "policy.only=[stack3.conv2]",
)
Sweep = Callable[..., Outcome]


@pytest.fixture
def sweep(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Sweep]:
    """`halut sweep ARGS` in this process, in a folder of its own."""
    from hydra.core.global_hydra import GlobalHydra

    def run(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code = main(["sweep", *arguments])
        written = capsys.readouterr()
        return Outcome(code, written.out, written.err)

    monkeypatch.setattr(sys, "argv", ["halut"])
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)
    GlobalHydra.instance().clear()


def test_a_list_without_training_is_resumed_and_lands_in_the_store(
    sweep: Sweep, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("halut=integer halut.width=4,99\nhalut=minifloat_ieee\n")
    arguments = ("--list", "list.txt", "--no-training", *QUICK)

    outcome = sweep(*arguments)

    assert outcome.code == 1
    assert "sweep: 3 values, in runs/sweep-" in outcome.out
    assert "failed: halut=integer,halut.width=99: halut.width must be in 2..32" in outcome.out
    assert "records are in results" in outcome.out
    records = Store("results").read().records
    assert {each.operator for each in records} == {"integer", "minifloat_ieee"}
    assert all(each.settings["schedule.epochs"] == 0 for each in records)
    assert not any("baseline_accuracy" in each.figures for each in records)
    (folder,) = Path("runs").iterdir()
    report = json.loads((folder / "halut=minifloat_ieee" / "report.json").read_text())
    assert report["command"].startswith("halut train ")
    assert "halut=minifloat_ieee" in report["command"]

    (folder / "halut=integer,halut.width=99" / "error.json").unlink()
    (tmp_path / "list.txt").write_text("halut=integer halut.width=4\nhalut=minifloat_ieee\n")
    again = sweep(*arguments, f"run_dir={folder}")
    assert again.out.count("is finished already") == 2
    assert again.code == 0, again.err
    assert len(Store("results").read().records) == 2


def test_a_product_goes_to_the_store_that_is_given(sweep: Sweep) -> None:
    outcome = sweep(
        *("--results", "it's", "halut=integer", "halut.width=4,8", "--no-training", *QUICK)
    )
    assert outcome.code == 0, outcome.err
    records = Store("it's").read().records
    assert sorted(each.options["width"] for each in records) == [4, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--list", "none.txt"), "error: none.txt: cannot be read: No such file or directory"),
        (("--no-training", "schedule.epochs=3"), "error: schedule.epochs=3 contradicts --no-tr"),
        (("results=here",), "error: results=here: the store of a sweep is given as --results"),
        (("--results", "file"), "error: file: "),
        (("--epochs", "3"), "error: unknown option --epochs: options are written KEY=VALUE"),
        (("halut.D=4,8",), "error: unknown option halut.D"),
    ],
)
def test_what_cannot_be_swept_is_told_in_a_line(
    sweep: Sweep, arguments: tuple[str, ...], message: str
) -> None:
    Path("file").write_text("")
    outcome = sweep(*arguments)
    assert outcome.code != 0
    assert outcome.err.startswith(message)
    assert len(outcome.err.splitlines()) == 1
    assert not [path for path in Path().rglob("*") if path.name in ("config.json", "error.json")]


def test_an_option_without_effect_in_every_configuration_that_sets_it_is_refused(
    sweep: Sweep,
) -> None:
    Path("list.txt").write_text("halut=integer loss.temperature=2\nhalut=minifloat_ieee\n")
    outcome = sweep("--list", "list.txt", "--no-training", *QUICK)
    assert outcome.code == 1
    assert "loss.temperature=2 has no effect: no stage trains" in outcome.err
    assert not Path("runs").exists()


def test_the_command_is_that_of_a_multirun(tmp_path: Path) -> None:
    assert command(["halut.C=4,8"]) == ["-m", "halut.C=4,8", "results='results'"]
    path = tmp_path / "list.txt"
    path.write_text("halut.C=4 schedule.epochs=1\n")
    words = command(["seed=0,1"], path, results=Path("a b"))
    assert words == [
        *("-m", "hydra/sweeper=list", f"hydra.sweeper.file='{path}'", "seed=0,1"),
        "results='a b'",
    ]
    with pytest.raises(HalutError, match=r"schedule.epochs=1 contradicts --no-training"):
        command([], path, training=False)


def test_a_refused_sweep_tells_of_no_records(sweep: Sweep) -> None:
    outcome = sweep("halut=integer", "halut.wdth=4,8")
    assert outcome.code
    assert "records are in" not in outcome.out
