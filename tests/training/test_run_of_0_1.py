"""A run and its bundle that were made before the files of the library moved to their rooms.

tests/fixtures/run_0_1 was left by the command in its bundle's report: six operators in one network,
on the digits. `answers.safetensors` has what the network answered then.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from halut.bundle import load_bundle
from halut.inference import prepare

RUN = Path(__file__).parents[1] / "fixtures" / "run_0_1"
DEFAULTS_OF_0_1 = (
    *("halut.output_metric=false", "halut.boosting=0", "schedule.calibrate=replaced"),
    *("schedule.refit=false", "loss.distill=0.5", "loss.temperature=2", "optim.floor=0.01"),
    *(f"optim.lr.{role}=0.001" for role in ("table", "prototypes", "thresholds", "rest")),
)
OPERATORS = {"tree", "pq", "decision_tree", "integer", "abcnet"}


def test_its_bundle_answers_as_it_did():
    network, plan, report = load_bundle(RUN)
    assert {entry.operator for entry in plan.replaced} == OPERATORS
    answers = load_file(RUN / "answers.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(network(answers["x"]), answers["y"])
        prepared = prepare(network, answers["x"])(answers["x"])
    torch.testing.assert_close(prepared, answers["y"], rtol=1e-4, atol=1e-4)
    assert report["final"]["test_accuracy"] == pytest.approx(31.7549)


def test_the_same_command_goes_on_where_it_stopped(train, tmp_path):
    """The stage is done, the report is not there: nothing is trained again."""
    run = tmp_path / "run"
    shutil.copytree(RUN, run, ignore=shutil.ignore_patterns("bundle", "answers.safetensors"))
    before = json.loads((RUN / "bundle" / "report.json").read_text())
    rules = next(word for word in before["command"].split("'") if word.startswith("policy.rules"))
    options = before["command"].split(" 'policy.rules")[0].split()[3:]
    outcome = train(f"run_dir={run}", *options, rules)
    assert "it differs in halut.boosting, halut.output_metric, loss.distill" in outcome.err
    outcome = train(f"run_dir={run}", *options, *DEFAULTS_OF_0_1, rules)
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "report.json").read_text())["final"] == before["final"]
    assert (run / "bundle" / "model.safetensors").exists()


def test_its_evaluation_finds_the_accuracy_of_its_report(tmp_path):
    from halut.training.evaluate import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["evaluate.py", f"run={RUN}"])
        patch.chdir(tmp_path)
        main()
