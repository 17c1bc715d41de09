"""`halut search sampler=...` on the digits: replayed, shared, ended early, killed, refused."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halut.results.store import Store

ROOT = Path(__file__).parents[3]
DIGITS = (
    *("data=digits", "data.train_samples=200", "base.epochs=1", "model.options.width=8"),
    *("policy.only=[stack3.*]", "schedule=all_at_once", "capture.samples=32", "trainer.threads=1"),
)
SPACE = ("halut=tree,pq", "halut.V=4,9 if halut=tree")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "halut.cli", "search", *words]


def halut(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, check=False)


def content(folder: Path) -> dict:
    return json.loads((folder / "runs/search/search.json").read_text())


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A grid of three points, ended by SIGKILL in its second trial and taken up again."""
    folder = tmp_path_factory.mktemp("grid")
    words = command("sampler=grid", *SPACE, *DIGITS)
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
    logs = folder / "runs/search/logs"
    until = time.monotonic() + 300
    while len(list(logs.glob("*.txt"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    ran = halut(folder, "sampler=grid", *SPACE, *DIGITS)
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stdout


@pytest.mark.slow  # trains networks
def test_a_killed_grid_goes_on_and_visits_every_point_once(grid):
    folder, said = grid
    (study,) = content(folder)["studies"]
    assert "3 trials of 1 studies, 1 of them is done" in said.replace("are done", "is done")
    params = sorted(json.dumps(trial["params"]) for trial in study["trials"])
    points = [{"halut": "tree", "halut.V": v} for v in ("4", "9")] + [{"halut": "pq"}]
    assert params == sorted(map(json.dumps, points))
    assert all(trial["state"] == "complete" for trial in study["trials"])
    assert len(list((folder / "runs/search/trials").iterdir())) == 3  # the killed one's was used


@pytest.mark.slow
def test_validation_selects_and_the_test_split_is_read_for_the_chosen_alone(grid):
    folder, _ = grid
    (study,) = content(folder)["studies"]
    accuracies = {trial["number"]: trial["values"][0] for trial in study["trials"]}
    (chosen,) = content(folder)["chosen"]
    assert accuracies[chosen["number"]] == max(accuracies.values()) == chosen["val_accuracy"]
    assert study["best"] == [chosen["number"]]
    for trial in study["trials"]:
        final = json.loads((folder / trial["run"] / "report.json").read_text())["final"]
        assert (final["test_accuracy"] is None) == (trial["number"] != chosen["number"])
    splits = sorted(record.data["split"] for record in Store(folder / "results").read().records)
    assert splits == ["test", "val", "val", "val"]


@pytest.mark.slow
def test_a_trial_replays_from_the_command_line(grid):
    folder, _ = grid
    (chosen,) = content(folder)["chosen"]
    words = shlex.split(chosen["command"])
    assert words[:2] == ["python", "train.py"]
    replay = [sys.executable, str(ROOT / "train.py"), *words[2:], "run_dir=again"]
    ran = subprocess.run(replay, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    final = json.loads((folder / "again/report.json").read_text())["final"]
    assert final["val_accuracy"] == chosen["val_accuracy"]
    assert final["test_accuracy"] == chosen["test_accuracy"]


@pytest.mark.slow
def test_the_table_the_picture_and_a_second_call(grid):
    folder, _ = grid
    out = folder / "runs/search"
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    trials = content(folder)["studies"][0]["trials"]
    assert [float(row["val_accuracy"]) for row in rows] == [t["values"][0] for t in trials]
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    curve, exact = content(folder)["curves"]
    assert exact["curve"] == "exact"
    best = [max(t["values"][0] for t in trials[: n + 1]) for n in range(3)]
    assert [point["mean"] for point in curve["points"]] == best
    before = content(folder)
    again = halut(folder, "sampler=grid", *SPACE, *DIGITS)
    assert again.returncode == 0
    assert "3 of them are done" in again.stdout
    assert content(folder) == before


@pytest.mark.slow
def test_what_crashes_or_is_not_finite_fails_and_the_others_go_on(tmp_path):
    """Rates that no training survives, and an option that no layer has room for."""
    space = ("optim.lr.rest+optim.lr.table=1e-3,1e30", "halut=tree", "optim.optimizer=sgd")
    ran = halut(tmp_path, "sampler=grid", *space, "schedule.epochs=2", *DIGITS)
    assert ran.returncode == 0, ran.stderr
    (study,) = content(tmp_path)["studies"]
    by_rate = {float(t["params"]["optim.lr.rest+optim.lr.table"]): t for t in study["trials"]}
    assert by_rate[1e30]["state"] == "fail"
    assert by_rate[1e30]["values"] is None
    assert "the loss is nan" in by_rate[1e30]["reason"]
    assert by_rate[1e-3]["state"] == "complete"


NETWORK = """
from torch import nn

class Plain(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        convolution = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.layers = nn.Sequential(
            convolution, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, num_classes),
        )
    def forward(self, x):
        return self.layers(x)

class Broken(Plain):
    def forward(self, x):
        raise RuntimeError("boom")

class Untrained(Plain):
    def forward(self, x):
        if self.training and len(x) > 2:
            raise KeyError("boom")
        return self.layers(x)
"""


@pytest.mark.slow
def test_a_users_network_that_raises_fails_and_the_others_go_on(tmp_path):
    (tmp_path / "mine.py").write_text(NETWORK)
    names = ",".join(f"./mine.py:{name}" for name in ("Plain", "Broken", "Untrained"))
    words = [word for word in DIGITS if not word.startswith(("model", "policy"))]
    space = ("model=any", f"model.name={names}", "policy=conv3x3")
    ran = halut(tmp_path, "sampler=grid", *space, "budget=bytes:1M", *words)
    assert ran.returncode == 0, ran.stderr
    (study,) = content(tmp_path)["studies"]
    states = {t["params"]["model.name"].rpartition(":")[2]: t for t in study["trials"]}
    assert {name: trial["state"] for name, trial in states.items()} == {
        "Plain": "complete",
        "Broken": "fail",
        "Untrained": "fail",
    }
    assert "boom" in states["Broken"]["reason"]
    assert "boom" in states["Untrained"]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_search_and_the_same_words_in_any_order_go_on(number, code, tmp_path):
    words = ("sampler=random", "trials=2", *SPACE, *DIGITS)
    process = subprocess.Popen(
        command(*words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 300
    while not list((tmp_path / "runs/search/trials").glob("*/config.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in said
    assert ("the same command goes on" in line) == (number == signal.SIGTERM)
    ran = halut(tmp_path, *words[::-1])
    assert ran.returncode == 0, ran.stderr
    (study,) = content(tmp_path)["studies"]
    assert [trial["state"] for trial in study["trials"]] == ["complete"] * 2
    runs = {trial["run"] for trial in study["trials"]}
    assert len(list((tmp_path / "runs/search/trials").iterdir())) == len(runs)


@pytest.mark.slow
def test_fewer_trials_than_there_are_leave_none(tmp_path):
    words = ("sampler=random", "halut=tree,pq", "schedule.epochs=0", *DIGITS)
    assert halut(tmp_path, *words, "trials=3").returncode == 0
    ran = halut(tmp_path, *words, "trials=1")
    assert ran.returncode == 0, ran.stderr
    assert "are left" not in ran.stdout
    assert len(content(tmp_path)["chosen"]) == 1


@pytest.mark.slow
def test_no_trial_that_comes_to_an_end_is_an_error(tmp_path):
    space = ("optim.lr.rest+optim.lr.table=1e29,1e30", "halut=tree", "optim.optimizer=sgd")
    ran = halut(tmp_path, "sampler=grid", *space, "schedule.epochs=2", *DIGITS)
    assert ran.returncode == 1
    assert content(tmp_path)["studies"][0]["best"] == []


@pytest.mark.slow
def test_draws_above_the_budget_are_not_run_and_no_trials(tmp_path):
    flags = ("--options", "keep", "tree V=4", "integer width=2")
    ran = halut(tmp_path, "sampler=random", "trials=4", "budget=bytes:60k", *DIGITS, *flags)
    assert ran.returncode == 0, ran.stderr
    (study,) = content(tmp_path)["studies"]
    assert study["unrun"] > 0
    assert f"{study['unrun']} draws over the budget" in " ".join(ran.stdout.split())
    assert len(study["trials"]) == 4
    assert all(trial["state"] == "complete" for trial in study["trials"])
    assert all(trial["figures"]["bytes"] <= 60e3 for trial in study["trials"])
    runs = {trial["run"] for trial in study["trials"]}
    assert len(list((tmp_path / "runs/search/trials").iterdir())) == len(runs)


@pytest.mark.slow
def test_a_budget_that_nothing_meets_ends_and_says_so(tmp_path):
    flags = ("--options", "keep", "tree V=4")
    ran = halut(tmp_path, "sampler=random", "trials=2", "budget=bytes:1k", *DIGITS, *flags)
    assert ran.returncode == 1
    assert content(tmp_path)["studies"][0]["best"] == []
    assert "40 draws over the budget" in " ".join(ran.stdout.split())
    assert not (tmp_path / "runs/search/trials").exists()


@pytest.mark.slow
def test_several_objectives_leave_a_front(tmp_path):
    words = ("sampler=nsga2", "trials=5", "minimize=bytes", "halut.V=range(2,12)", *DIGITS)
    ran = halut(tmp_path, *words)
    assert ran.returncode == 0, ran.stderr
    (study,) = content(tmp_path)["studies"]
    front = [trial for trial in study["trials"] if trial["number"] in study["best"]]
    assert len(content(tmp_path)["chosen"]) == len(front)
    for trial in study["trials"]:
        beaten = any(
            f["values"][0] >= trial["values"][0] and f["values"][1] <= trial["values"][1]
            for f in front
        )
        assert beaten


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sampler=tpe",), "nothing to search: give several values of a key"),
        (("sampler=annealing",), "unknown sampler 'annealing'; choose one of: tpe, grid"),
        (("sampler=tpe", "trials=0", "halut=tree,pq"), "trials=0: at least 1"),
        (("sampler=tpe", "trials=many", "halut=tree,pq"), "trials=many: a whole number"),
        (("sampler=tpe", "seeds=0,0", "halut=tree,pq"), "seeds: give at least one, each once"),
        (
            ("sampler=tpe", "objective=test_accuracy", "halut=tree,pq"),
            "choose one of: val_accuracy",
        ),
        (("sampler=tpe", "minimize=lust", "halut=tree,pq"), "unknown cost 'lust'"),
        (("sampler=tpe", "budget=bytes:1k,2k", "halut=tree,pq"), "has one, of costs"),
        (("sampler=tpe", "trials=²", "halut=tree,pq"), "trials=²: a whole number"),
        (("sampler=tpe,tpe", "halut=tree,pq"), "sampler=tpe,tpe: each once"),
        (("sampler=tpe", "minimize=bytes,bytes", "halut=tree,pq"), "minimize=bytes,bytes: each"),
        (("sampler=tpe", "halut=null,tree"), "Config group override must be a string"),
        (("sampler=tpe", "halut=tree,pq", "--minutes", "nan"), "--minutes must be above 0"),
        (("sampler=tpe", "optim.lr.rest=interval(0.1,inf)"), "its ends have to be finite"),
        (("sampler=tpe", "runs/mine", "halut=tree,pq"), "runs/mine: neither an option"),
        (("sampler=tpe", "seed=0,1"), "seed: a search sets it itself"),
        (("sampler=tpe", "model.options.wdth=4,8"), "wdth"),
        (("sampler=tpe", "trainer.devices=2", "halut=tree,pq"), "a trial runs in one process"),
        (("sampler=tpe", "--options", "keep", "tree C=999"), "no site can be tree C=999"),
        (("sampler=tpe", "--sites", "stack1.*"), "give --options, too"),
        (("sampler=tpe", "halut=tree,pq", "--minutes", "0"), "--minutes must be above 0"),
        (("sampler=tpe", "halut=tree,pq", "--storage", "nosuch://x"), "--storage nosuch://x"),
        (("experiment=nas_grid", "sampler=tpe"), "nas_grid"),
        (("experiment=fashion_mnist_resnet8",), "give sampler=NAME"),
    ],
)
def test_bad_input_is_one_line(words, says, tmp_path, capsys, monkeypatch):
    from halut.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["search", *([] if "experiment" in words[0] else DIGITS), *words]) == 1
    captured = capsys.readouterr()
    (line,) = [each for each in captured.err.splitlines() if each.startswith("error: ")]
    assert says in line
    assert not (tmp_path / "runs/search/trials").exists()


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        ({"budgets": []}, ("sampler=tpe", "halut=tree,pq"), "has a search by budgets"),
        ({"kind": "trials"}, ("budget=bytes:20k",), "has a search by trials"),
    ],
)
def test_a_search_of_the_other_kind_is_not_overwritten(
    content, words, says, tmp_path, capsys, monkeypatch
):
    from halut.cli import main

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs/search/search.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    assert main(["search", *DIGITS, *words]) == 1
    assert f"--out runs/search {says}" in capsys.readouterr().err
    assert json.loads(path.read_text()) == content


def test_a_trial_is_ended_between_stages_and_not_after_the_last():
    import optuna

    from halut.search.trials.command import ending_early

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(0))
    good = study.ask()
    for index in range(2):
        good.report(90.0, index)
    study.tell(good, 90.0)
    with pytest.raises(optuna.TrialPruned, match="ended after stage 0"):
        ending_early(study.ask(), 2)(0, 10.0)
    ending_early(study.ask(), 1)(0, 10.0)
    ending_early(study.ask(), 2)(1, 10.0)


def test_without_optuna_the_message_says_what_to_install(tmp_path, capsys, monkeypatch):
    from halut.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["search", "sampler=tpe", "halut=tree,pq"]) == 1
    assert "pip install 'halut[search]'" in capsys.readouterr().err


def test_help_tells_of_both_ways(capsys):
    from halut.cli import main

    assert main(["search", "--help"]) == 0
    said = capsys.readouterr().out
    assert "budget=RESOURCE:LIMIT" in said
    assert "sampler=NAME" in said
