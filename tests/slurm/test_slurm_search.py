"""An array of jobs shares one search by trials: every point of its grid is there, once."""

from __future__ import annotations

import json

import pytest

from tests.slurm.test_slurm_studies import halut

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

DIGITS = ("data=digits", "data.train_samples=200", "model.options.width=8", "base.epochs=1")
FAST = ("policy.only=[stack3.*]", "schedule=all_at_once", "schedule.epochs=0")
CPU = ("capture.samples=32", "trainer.threads=1", "trainer.accelerator=cpu")
SPACE = ("halut=tree,pq,integer", "halut.V=4,6,9 if halut=tree")


def test_an_array_shares_the_points_of_one_grid(jobs):
    out, name = jobs.folder / "search", "search"
    place = ("--out", str(out), "--results", str(jobs.folder / "searched"))
    cache = f"base.cache={jobs.folder / 'cache'}"
    script = halut("search", "sampler=grid", *SPACE, *DIGITS, *FAST, *CPU, cache, *place)
    job = jobs.submit(name, script, "--array=0-1", "--ntasks=1")
    for task in range(2):
        assert jobs.finished(f"{job}_{task}", name) == "COMPLETED", jobs.said(name)
    content = json.loads((out / "search.json").read_text())
    (study,) = content["studies"]
    points = [{"halut": "tree", "halut.V": v} for v in ("4", "6", "9")]
    points += [{"halut": "pq"}, {"halut": "integer"}]
    assert sorted(json.dumps(trial["params"]) for trial in study["trials"]) == sorted(
        map(json.dumps, points)
    )
    for trial in study["trials"]:
        report = json.loads((out / "trials" / trial["run"][-12:] / "report.json").read_text())
        assert trial["values"] == [report["final"]["val_accuracy"]]
    assert len(content["chosen"]) == 1
    begun = [line for line in jobs.said(name).splitlines() if " of 5: " in line]
    assert len(begun) == len(points)  # between the two of them
