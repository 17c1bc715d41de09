"""Studies: how many trials, whose, and what becomes of those that a killed process left."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend

from halut.errors import HalutError
from halut.search.trials.space import SiteChoices, TrialSpace, Values, space_of
from halut.search.trials.storage import JOURNAL, open_storage
from halut.search.trials.study import (
    DEATHS,
    SharedStudy,
    StudySpec,
    Worker,
    check_spec,
    shared_storage,
    suggest,
)
from halut.sites.plan import Plan

SPACE = space_of(["x=range(4)", "y=a,b,c"], {}, [])
SPEC = StudySpec("", "random", 0, SPACE, "val_accuracy", (), (), trials=5)
POINTS = SPACE.points(lambda overrides: Plan(()))


def study(folder: Path, spec: StudySpec = SPEC, url: str | None = None) -> SharedStudy:
    points = POINTS if spec.sampler == "grid" else []
    return SharedStudy(spec, open_storage(folder, url), folder, "test", points)


def suggested(space: TrialSpace, trial: Any) -> Values:
    return space.trial(lambda overrides: Plan(()), lambda p, _: suggest(trial, p))[0]


def work(folder: Path, spec: StudySpec = SPEC, limit: int = 1000) -> list[dict[str, object]]:
    """Take trials until there are no more; their values."""
    shared, values = study(folder, spec), []
    with Worker(folder) as worker:
        while len(values) < limit and (trial := shared.take(worker)) is not None:
            own = suggested(spec.space, trial)
            shared.study.tell(trial, float(own["x"]) + len(values) / 100)
            values.append(own)
    return values


def test_a_study_has_its_number_of_trials_and_goes_on_with_new_draws(tmp_path):
    first = work(tmp_path, limit=3)
    rest = work(tmp_path)
    assert len(first) + len(rest) == 5
    assert work(tmp_path) == []
    assert first + rest == work(tmp_path / "at_once")  # as if it had not been interrupted
    assert len(work(tmp_path, replace(SPEC, trials=7))) == 2


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "cmaes"])
def test_samplers_repeat_their_draws_by_the_seed(tmp_path, sampler):
    words = ["x=range(4)", "lr=tag(log,interval(1e-3,1))"]
    spec = replace(SPEC, sampler=sampler, space=space_of(words, {}, []), trials=12)
    check_spec(spec)
    one, again = (work(tmp_path / name, spec) for name in ("one", "again"))
    other = work(tmp_path / "other", replace(spec, seed=1))
    assert one == again != other
    assert all(1e-3 <= values["lr"] <= 1 and values["x"] in range(4) for values in one)


def test_a_grid_visits_every_point_once_in_an_order_by_the_seed(tmp_path):
    spec = replace(SPEC, sampler="grid", trials=None)
    orders = [work(tmp_path / str(seed), replace(spec, seed=seed)) for seed in (0, 1)]
    for order in orders:
        assert sorted(map(repr, order)) == sorted(repr(values) for values, _ in POINTS)
    assert orders[0] != orders[1]
    part = work(tmp_path / "part", replace(spec, trials=7))
    assert part == orders[0][:7]


def test_a_grid_that_gets_more_trials_goes_on_with_other_points(tmp_path):
    grid = replace(SPEC, sampler="grid")
    first = work(tmp_path, replace(grid, trials=3))
    rest = work(tmp_path, replace(grid, trials=None))
    assert sorted(map(repr, first + rest)) == sorted(repr(values) for values, _ in POINTS)


@pytest.mark.parametrize("writes", range(1, 8))
def test_a_grid_loses_no_point_wherever_its_process_ends(tmp_path, writes, monkeypatch):
    """The process ends before one of the entries that it makes in the journal."""
    spec = replace(SPEC, sampler="grid", trials=None)
    work(tmp_path, spec, limit=1)
    left = study(tmp_path, spec)
    worker = Worker(tmp_path).__enter__()
    left.take(worker)
    worker.__exit__()
    append, made = JournalFileBackend.append_logs, []

    def ending(self, logs):
        made.append(logs)
        if len(made) == writes:
            raise KeyboardInterrupt
        append(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", ending)
    with contextlib.suppress(KeyboardInterrupt), Worker(tmp_path) as worker:
        study(tmp_path, spec).take(worker)
    monkeypatch.undo()
    work(tmp_path, spec)
    finished = study(tmp_path, spec).finished()
    assert sorted(repr(t.params) for t in finished) == sorted(repr(v) for v, _ in POINTS)


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_a_trial_at_which_processes_die_fails_in_the_end(tmp_path, sampler):
    spec = replace(SPEC, sampler=sampler, trials=2)
    shared = study(tmp_path, spec)
    for _ in range(DEATHS):
        with Worker(tmp_path) as worker:
            trial = shared.take(worker)
            values = suggested(spec.space, trial)
    assert values not in work(tmp_path, spec)
    failed, _ = shared.finished()
    assert failed.state.name == "FAIL"
    assert failed.params == values
    assert failed.user_attrs["reason"] == f"its process was killed {DEATHS} times"


def test_a_trial_that_was_interrupted_is_begun_again_as_often_as_need_be(tmp_path):
    shared = study(tmp_path)
    for _ in range(DEATHS + 2):
        with Worker(tmp_path) as worker:
            trial = shared.take(worker)
            values = suggested(SPACE, trial)
            trial.set_user_attr("interrupted", True)
    assert values in work(tmp_path)


def _work(folder: Path) -> None:
    work(folder, replace(SPEC, sampler="grid", trials=None))


def _open(folder: Path) -> None:
    shared_storage(folder, f"sqlite:///{folder / 'studies.db'}")


def at_once(target: Callable[[Path], None], folder: Path) -> None:
    """Three processes that begin together, and all come to a good end."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(folder,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


@pytest.mark.slow  # starts processes
def test_processes_that_begin_at_once_open_a_new_database(tmp_path):
    at_once(_open, tmp_path)


@pytest.mark.slow  # starts processes
def test_processes_share_a_grid(tmp_path):
    at_once(_work, tmp_path)
    finished = study(tmp_path, replace(SPEC, sampler="grid", trials=None)).finished()
    assert sorted(repr(t.params) for t in finished) == sorted(repr(v) for v, _ in POINTS)


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_a_killed_processs_trial_is_begun_again_and_counts_once(tmp_path, sampler):
    program = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from dataclasses import replace
        from tests.search.trials.test_study import SPEC, study, suggest, Worker
        folder = Path({str(tmp_path)!r})
        spec = replace(SPEC, sampler={sampler!r})
        shared = study(folder, spec)
        worker = Worker(folder).__enter__()
        trial = shared.take(worker)
        print({{p.name: suggest(trial, p) for p in spec.space.parameters}}, flush=True)
        time.sleep(600)
    """)
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    values = eval(process.stdout.readline())
    spec = replace(SPEC, sampler=sampler)
    assert study(tmp_path, spec).running() == 1
    others = work(tmp_path, spec, limit=1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    rest = work(tmp_path, spec)
    assert values in rest
    assert len(others) + len(rest) == 5
    assert len(study(tmp_path, spec).finished()) == 5


def test_a_journal_that_was_torn_in_its_last_line_goes_on(tmp_path):
    work(tmp_path, limit=2)
    journal = tmp_path / JOURNAL
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_id": "half of')
    assert len(work(tmp_path)) == 3
    assert len(study(tmp_path).finished()) == 5


def test_a_file_that_is_no_journal_is_named(tmp_path):
    (tmp_path / JOURNAL).write_text("plain\n")
    with pytest.raises(HalutError, match=r"journal\.log: line 1 is no entry of a journal"):
        open_storage(tmp_path)


def test_another_space_in_the_storage_is_refused(tmp_path):
    work(tmp_path, limit=1)
    for changed, says in (
        (replace(SPEC, space=space_of(["x=range(5)"], {}, [])), "another space"),
        (replace(SPEC, space=space_of(["x=range(4)", "y=a,b,c", "z=1"], {}, [])), "overrides"),
        (replace(SPEC, objective="base.val_accuracy"), "objective"),
        (replace(SPEC, limits=(("bytes", 10.0),)), "budget"),
    ):
        with pytest.raises(HalutError, match=f"of another .*{says.split()[-1]}.*another --out"):
            study(tmp_path, changed)
    study(tmp_path, replace(SPEC, sampler="tpe"))  # a study of its own


def test_the_order_of_words_is_no_difference_but_that_of_costs_is(tmp_path):
    words = ["x=range(4)", "y=a,b,c", "z=1", "w=2"]
    spec = replace(SPEC, space=space_of(words, {}, []), sampler="grid")
    assert len(work(tmp_path, spec, limit=4)) == 4
    assert len(work(tmp_path, replace(spec, space=space_of(words[::-1], {}, [])))) == 1
    costs = replace(SPEC, sampler="nsga2", minimize=("bytes", "energy"))
    study(tmp_path, costs)
    with pytest.raises(HalutError, match="of another minimize"):
        study(tmp_path, replace(costs, minimize=("energy", "bytes")))


def test_a_database_keeps_the_studies_of_two_folders_apart(tmp_path):
    """Whether a process of another folder lives cannot be seen: its trials would be taken over."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    study(tmp_path / "one", url=url)
    with pytest.raises(HalutError, match="of another folder"):
        study(tmp_path / "two", url=url)
    (tmp_path / "one").rename(tmp_path / "moved")
    study(tmp_path / "moved", url=url)


def test_a_database_holds_studies_too_and_a_bad_url_is_one_line(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    shared = study(tmp_path, url=url)
    with Worker(tmp_path) as worker:
        assert shared.take(worker) is not None
    assert study(tmp_path, url=url).running() == 0  # its worker is gone
    with pytest.raises(HalutError, match="--storage nosuch://x"):
        open_storage(tmp_path, "nosuch://x")


def test_several_objectives_and_constraints_reach_the_sampler(tmp_path):
    spec = replace(SPEC, sampler="nsga2", minimize=("bytes",), trials=20)
    shared = study(tmp_path, spec)
    with Worker(tmp_path) as worker:
        while (trial := shared.take(worker)) is not None:
            x = suggest(trial, SPACE.parameters[0])
            trial.set_constraint("bytes", x - 2)
            shared.study.tell(trial, [float(x), float(x)])
    assert {t.values[0] for t in shared.study.best_trials} <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prune": "early"}, "unknown pruner 'early'; choose one of: none, median, halving"),
        ({"prune": "median", "minimize": ("bytes",)}, "no trial is worse than another"),
        ({"sampler": "cmaes"}, "y is a list: .*another sampler: tpe, grid, random, nsga2"),
        (
            {"sampler": "cmaes", "space": space_of([], {}, [SiteChoices(("keep", "tree"))])},
            "options of sites is a list",
        ),
        (
            {"sampler": "cmaes", "space": space_of(["x=range(4)"], {}, []), "minimize": ("bytes",)},
            "cmaes has one objective",
        ),
        ({"sampler": "grid", "space": space_of(["x=interval(0,1)"], {}, [])}, "no list of x"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, says):
    with pytest.raises(HalutError, match=says):
        check_spec(replace(SPEC, **changes))


@pytest.mark.slow  # starts processes
def test_a_turn_of_a_process_that_is_gone_is_taken(tmp_path):
    program = f"""
import os
from pathlib import Path
from halut.search.trials.study import turn
mine = turn(Path({str(tmp_path)!r}))
mine.__enter__()
os._exit(9)
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert (tmp_path / "turn" / "run.lock").exists()
    begun = time.monotonic()
    assert len(work(tmp_path)) == 5
    assert time.monotonic() - begun < 60
