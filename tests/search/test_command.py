"""`halut search` on the digits: plans that train.py gives back, resumed, and refused."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from halut.analysis.plan_cost import PLAN, plan_cost
from halut.models.build import build_model
from halut.results.store import Store
from halut.search.outcome import command_of
from halut.sites.plan import Plan
from tests.training import digit_attention

ROOT = Path(__file__).parents[2]
DIGITS = ("data=digits", "base.epochs=1", "data.train_samples=300", "trainer.threads=1")
OPTIONS = ("--sites", "stack3.*", "--options", "tree C=4,16 K=4", "integer width=8")


def halut(folder, *words):
    command = [sys.executable, "-m", "halut.cli", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def search(folder, *words):
    flags = ("--samples", "100", "--rows", "1024", "--rounds", "3", *OPTIONS)
    return halut(folder, "search", *words, *DIGITS, *flags)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    ran = search(folder, "budget=bytes:110k,200k", "--random", "4")
    assert ran.returncode == 0, ran.stderr
    return folder, json.loads((folder / "runs/search/search.json").read_text()), ran.stdout


@pytest.mark.slow  # trains a network and runs its plans
def test_a_plan_is_within_its_budget_and_no_worse_than_one_option_everywhere(found):
    _, content, _ = found
    for outcome in content["budgets"]:
        assert outcome["met"]
        assert outcome["costs"]["bytes"] <= outcome["budget"]["bytes"]
        if (uniform := outcome["uniform"]) is not None:
            assert outcome["run"]["val_accuracy"] >= uniform["run"]["val_accuracy"]
            assert 0 < uniform["run"]["test_accuracy"] <= 100
    losses = [point["predicted_rise"] for point in content["fronts"]["bytes"]]
    assert losses == sorted(losses, reverse=True)


def report_of(folder, outcome):
    """What train.py reports for the outcome's command, which is run in another folder."""
    words = shlex.split(outcome["run"]["command"])
    assert words[:2] == ["python", "train.py"]
    again = [sys.executable, ROOT / "train.py", *words[2:], "run_dir=again", "base.cache=runs/base"]
    ran = subprocess.run(again, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads((folder / "again/report.json").read_text())["final"]


@pytest.mark.slow
def test_training_by_the_plan_gives_what_was_promised(found):
    folder, content, _ = found
    outcome = content["budgets"][0]
    final = report_of(folder, outcome)
    for split in ("val", "test"):
        assert final[f"{split}_accuracy"] == outcome["run"][f"{split}_accuracy"]
    plan = Plan.load(folder / outcome["plan"])
    assert [e.operator for e in Plan.load(folder / "again/plan.json")] == [e.operator for e in plan]


@pytest.mark.slow
def test_every_measured_plan_has_a_file_and_its_command(found):
    folder, content, _ = found
    assert (content["schema"], content["kind"]) == (1, "budget")
    assert content["command"].startswith("halut search budget=bytes:110k,200k")
    exact, int8, int4 = content["references"]
    assert [each["name"] for each in (exact, int8, int4)] == ["exact", "INT8", "INT4"]
    assert exact["accuracy"] == content["exact"]["accuracy"]
    assert exact["costs"]["bytes"] > int8["costs"]["bytes"] > int4["costs"]["bytes"]
    plans = [exact, int8, int4]
    for outcome in content["budgets"]:
        plans += [outcome, *outcome["tried"], *outcome["random"]["plans"]]
        if outcome["uniform"] is not None:
            plans.append(outcome["uniform"])
    for each in plans:
        plan = Plan.load(folder / each["plan"])
        assert f"plan={each['plan']}" in each["command"]
        if "options" in each:
            operators = {entry.site.name: entry.operator for entry in plan}
            for site, label in each["options"].items():
                assert label.split()[0] == operators[site]
    assert {e.operator for e in Plan.load(folder / int4["plan"]).replaced} == {"integer"}
    network = build_model("resnet8", 10, 1)
    for each in (int8, int4):
        plan = Plan.load(folder / each["plan"])
        (cost,) = plan_cost(plan, network, variants=(PLAN,))
        assert each["costs"]["bytes"] == cost.figures["bytes"]


@pytest.mark.slow
def test_a_plan_of_shared_encoders_is_trained_as_promised(tmp_path):
    network = Path(digit_attention.__file__)
    words = ("budget=bytes:20k", "model=any", f"model.name={network}:DigitAttention")
    flags = ("--sites", *digit_attention.NAMES, "--options", "tree C=4,8 K=4", "--all")
    ran = halut(tmp_path, "search", *words, *DIGITS, "policy.share=true", *flags, "--random", "2")
    assert ran.returncode == 0, ran.stderr
    (outcome,) = json.loads((tmp_path / "runs/search/search.json").read_text())["budgets"]
    final = report_of(tmp_path, outcome)
    assert final["test_accuracy"] == outcome["run"]["test_accuracy"]
    plans = [Plan.load(tmp_path / file) for file in (outcome["plan"], "again/plan.json")]
    assert [[e.shares for e in plan.replaced] for plan in plans] == [["q"] * 3] * 2
    assert "share: true" in (tmp_path / outcome["plan"]).with_suffix(".rules.yaml").read_text()
    (other,) = outcome["random"]["plans"]  # two options of one group: one plan beside the answer
    assert len(set(other["options"].values())) == 1


def stored_plans(folder):
    """Digests of the plans that the store has figures of."""
    records = Store(folder / "results").read().records
    return sorted(record.settings["plan"] for record in records if record.kind == "plan")


@pytest.mark.slow
def test_the_same_command_measures_nothing_of_what_is_stored(found):
    folder, content, _ = found
    plans = stored_plans(folder)
    assert len(plans) == len(set(plans)) > 8
    ran = search(folder, "budget=bytes:110k,200k", "--random", "4")
    assert ran.returncode == 0, ran.stderr
    assert stored_plans(folder) == plans
    said = ran.stdout + ran.stderr
    total = int(said.split(" measurements, ")[0].split()[-1])
    assert f"{total} measurements, {total} of them in results already" in said
    assert json.loads((folder / "runs/search/search.json").read_text()) == content


@pytest.mark.slow
def test_latencies_are_measured_once_and_the_plan_s_beside_their_sum(found):
    folder, _, _ = found
    contents = []
    for timed in (True, False):
        ran = search(folder, "budget=latency:1", "--out", "latency")
        assert ran.returncode == 0, ran.stderr
        assert ("latency of 4 options" in ran.stdout + ran.stderr) == timed
        contents.append(json.loads((folder / "latency/search.json").read_text()))
    assert contents[0] == contents[1]
    (outcome,) = contents[0]["budgets"]
    assert outcome["latency"]["sum"] == outcome["costs"]["latency"]
    assert 0 < outcome["latency"]["measured"] < 1
    assert all(0 < each["costs"]["latency"] < 1 for each in contents[0]["references"])
    assert (outcome["latency"]["batch"], outcome["latency"]["threads"]) == (1, 1)


@pytest.mark.slow
def test_a_budget_below_the_least_writes_the_nearest_and_fails(found):
    folder, _, _ = found
    ran = search(folder, "budget=bytes:10k", "--out", "least")
    assert ran.returncode == 1
    assert "the nearest misses by" in ran.stdout + ran.stderr
    assert Plan.load(folder / "least/plans/bytes_10000.json").replaced
    assert not json.loads((folder / "least/search.json").read_text())["budgets"][0]["met"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give budget=RESOURCE:LIMIT"),
        (("budget=bits:3",), "unknown resource 'bits'"),
        (("budget=bytes:1k", "--options", "tre C=4"), "unknown operator 'tre'"),
        (("budget=bytes:1k", "--energy", "3nm"), "3nm"),
        (("budget=bytes:1k", "--options", "tree C=999", "integer"), "no site can be tree C=999: "),
    ],
)
def test_what_is_refused_before_anything_is_trained(tmp_path, words, says):
    ran = halut(tmp_path, "search", "data=digits", *words)
    assert ran.returncode != 0
    assert says in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_of_a_run_is_the_run_s_own_with_the_plan(tmp_path):
    command = "python train.py data=digits halut=pq halut.C=4 run_dir=runs/mine schedule.epochs=3"
    (tmp_path / "report.json").write_text(json.dumps({"command": command}))
    plan = Path("plans/bytes_1.json")
    told = command_of([str(tmp_path)], plan, train=False)
    untrained = "schedule=all_at_once schedule.epochs=0 baseline=false ptq=none"
    assert told == f"python train.py data=digits plan={plan} {untrained}"
    trained = command_of([str(tmp_path)], plan, train=True)
    assert trained == f"python train.py data=digits schedule.epochs=3 plan={plan}"
