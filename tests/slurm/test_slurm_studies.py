"""Studies and sweeps as jobs at once on one store: every record is there, once, none torn."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from halut.analysis.sensitivity import SCORES
from halut.results.store import Store
from tests.slurm.cluster import runs
from tests.slurm.test_slurm_runs import processes

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

DIGITS = ("data=digits", "data.train_samples=256", "model.options.width=4", "base.epochs=1")
SITES = ("stack1.conv1", "stack2.conv1", "stack3.conv1", "stack3.conv2")
OPTIONS = ("tree K=4,8,16", "pq K=4,8,16", "integer width=2,4")


def halut(*arguments: str) -> str:
    """A line of bash that runs the command."""
    start = [sys.executable, "-c", "from halut.cli import main; main()"]
    return shlex.join([*start, *arguments])


def study(folder: Path, store: Path) -> str:
    """Sensitivity of four sites, eight options each."""
    few = ("--samples", "64", "--rows", "512", "--calibration", "64", "--fisher-samples", "32")
    return halut(
        *("sensitivity", *DIGITS, f"base.cache={folder / 'cache'}", "trainer.accelerator=cpu"),
        *("--results", str(store), "--threads", "1", *few, "--sites", *SITES),
        *("--options", *OPTIONS),
    )


def check(store: Path) -> None:
    """Every record of the study is in the store, once but for a few that two finished at once."""
    reading = Store(store).read()
    assert all("measured again" in problem for problem in reading.problems)  # none is torn
    measured = {(r.site, r.detail["label"], r.score) for r in reading.records}
    asked = [text.partition("=") for text in OPTIONS]
    labels = [f"{key}={value}" for key, _, values in asked for value in values.split(",")]
    assert measured == set(itertools.product(SITES, labels, SCORES))
    assert len(reading.records) == len(measured)
    lines = [line for file in store.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) < 1.5 * len(measured)  # three that do not share write three times as many


def test_an_array_shares_the_sites_of_one_study(jobs):
    store, name = jobs.folder / "shared", "shared"
    job = jobs.submit(name, study(jobs.folder, store), "--array=0-2", "--ntasks=1")
    for task in range(3):
        assert jobs.finished(f"{job}_{task}", name) == "COMPLETED", jobs.said(name)
    check(store)
    writers = [file for file in store.glob("*.jsonl") if file.stat().st_size]
    assert len(writers) > 1  # not one of them did it all
    assert jobs.said(name).count("64 records in") == 3  # and each shows it all


def test_a_job_that_is_killed_loses_nothing(jobs):
    store, name = jobs.folder / "killed", "killed"
    command = study(jobs.folder, store)
    first = jobs.submit(name, command, "--ntasks=1")
    jobs.until(lambda: len(records(store)) > 2, "the first records", name)
    (process,) = [pid for pid in processes(str(store)) if runs(pid, Path(sys.executable).name)]
    os.kill(process, signal.SIGKILL)
    assert jobs.finished(first, name) == "FAILED"
    kept = records(store)
    again = [jobs.submit(f"{name}{n}", command, "--ntasks=1") for n in range(2)]
    for n, job in enumerate(again):
        assert jobs.finished(job, f"{name}{n}") == "COMPLETED", jobs.said(f"{name}{n}")
    check(store)
    assert {(r.key, r.context["time"]) for r in kept} <= {
        (r.key, r.context["time"]) for r in records(store)
    }


def test_sweeps_at_once_put_every_run_into_one_store(jobs):
    store, K = jobs.folder / "sweeps", ("4,8", "16,32")
    fast = ("capture.samples=64", "capture.rows=512", "policy.only=[stack2.conv1]", "ptq=none")
    submitted = {}
    for value in K:
        name = f"sweep{value}"
        script = halut(
            *("sweep", *DIGITS, *fast, f"base.cache={jobs.folder / 'cache'}", "--no-training"),
            *("trainer.threads=1", "trainer.accelerator=cpu", f"halut.K={value}"),
            *(f"run_dir={jobs.folder / 'runs' / value}", "--results", str(store)),
        )
        submitted[name] = jobs.submit(name, script, "--ntasks=1")
    for name, job in submitted.items():
        assert jobs.finished(job, name) == "COMPLETED", jobs.said(name)
    reading = Store(store).read()
    assert reading.problems == []
    assert sorted(r.options["K"] for r in reading.records) == [4, 8, 16, 32]


def records(store: Path) -> list:
    return Store(store).read().records if store.is_dir() else []
