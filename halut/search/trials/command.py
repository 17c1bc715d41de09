"""`halut search sampler=...`: trials of a space, by any number of processes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from halut.errors import HalutError
from halut.option import unknown
from halut.plugins import loading
from halut.search.budget import LOST, RESOURCES, budgets_of
from halut.search.out import TRIALS as BY_TRIALS
from halut.search.out import check_out
from halut.search.trials.effects import check_effects
from halut.search.trials.outcome import best, study_content, write_outcome
from halut.search.trials.picture import draw
from halut.search.trials.planner import Planner
from halut.search.trials.space import SiteChoices, extended, space_of
from halut.search.trials.storage import JOURNAL, optuna
from halut.search.trials.study import (
    SAMPLERS,
    SharedStudy,
    StudySpec,
    Worker,
    check_spec,
    limits_exceeded,
    shared_storage,
    suggest,
    turn,
)
from halut.search.trials.trial import Runner, TrialFailed, check_objective, failing, figures
from halut.studies.measuring import at_least, writable_store
from halut.studies.options import configs_of
from halut.training.cluster.interruption import Interrupted, signal_handler
from halut.training.config.command import command_line, override_value
from halut.training.config.search_config import SearchConfig
from halut.training.logging.progress import console, log, set_up_logging
from halut.training.parallel.distributed import print_error

KEYS = tuple(SearchConfig.__dataclass_fields__)
OWN = ("sampler", "trials", "seeds", "objective", "minimize", "budget", "prune")
"""Options of a search, as words without search. in front."""
PICTURE = "curves.png"
TRIALS = 20
"""Of a study, unless the words say another number."""
SHOWN = ("val_accuracy", "test_accuracy", "command")
EPILOG = """\
a space:
  KEY=A,B  KEY=range(1,9,2)  KEY=interval(0,1)  'KEY=tag(log,interval(1e-4,1e-1))'   as in sweeps
  'halut.V=4,8 if halut=tree,pq'       there with these values of another key alone
  optim.lr.table+optim.lr.rest=...     keys that share a value
  '+model.options.identity=subset(a,b)'   a list of any of these
  --options keep 'tree V=9' 'integer width=4,8'   what each site may become (--sites, --shared)

Every trial is a run of train.py in a folder below OUT/trials; the same command goes on where it
stopped, and, started several times (or as an array of jobs), shares the work.
optuna-dashboard OUT/journal.log shows it as it goes.
"""


@dataclass(frozen=True)
class Request:
    """What a command and its experiment ask for."""

    specs: list[StudySpec]
    out: Path
    minutes: float | None
    storage: str | None
    results: Path


def parser() -> argparse.ArgumentParser:
    """Arguments of `halut search` by trials."""
    flags = argparse.ArgumentParser(
        prog="halut search",
        usage="halut search sampler=A,B [trials=N] [seeds=0,1,2] [KEY=VALUES ...] [OPTIONS]",
        description="Trials of a space, chosen by Optuna, each a run; the best by validation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = flags.add_argument
    add("overrides", nargs="*", metavar="KEY=VALUES", help="a space, and options of train.py")
    text = "what each site may become, lists in full product; keep is one"
    add("--options", nargs="+", default=[], metavar="'OPERATOR KEY=A,B ...'", help=text)
    text = "name patterns of the sites; by default those that the policy replaces"
    add("--sites", nargs="+", default=[], metavar="PATTERN", help=text)
    add("--shared", action="store_true", help="all sites of a pattern become the same")
    add("--out", type=Path, default=Path("runs/search"), help="folder (%(default)s)")
    text = "a database, such as sqlite:///FILE; by default the journal in OUT"
    add("--storage", metavar="URL", help=text)
    add("--minutes", type=float, help="begin no trial after so many; by default no limit")
    add("--results", type=Path, default=Path("results"), help="the store (%(default)s)")
    add("--threads", type=at_least(1), help="threads of the CPU; by default trainer.threads")
    return flags


def main(arguments: Sequence[str]) -> int:
    """0; 1 if a study has no trial that came to an end; 128 and its number after a signal."""
    options = parser().parse_intermixed_args(list(arguments))
    set_up_logging()
    try:
        with signal_handler.during_run():
            return _main(options)
    except Interrupted as stop:
        print_error(f"ended by {stop}; the same command goes on")
        return 128 + stop.number


def _main(options: argparse.Namespace) -> int:
    optuna()
    check_out(options.out, BY_TRIALS)
    writable_store(options.results)
    planner = Planner()
    request = request_of(options, planner)
    for spec in {spec.curve: spec for spec in request.specs}.values():
        check_effects(extended(spec.space, [f"seed={spec.seed}"]), planner)
    runner = Runner(planner, request.out, request.results)
    storage = shared_storage(request.out, request.storage)
    studies = [
        SharedStudy(spec, storage, request.out, request.out.name, _points(spec, planner))
        for spec in request.specs
    ]
    return _search(studies, runner, request)


def request_of(options: argparse.Namespace, planner: Planner) -> Request:
    """The studies of the command line, laid over those of its experiment."""
    own, words = _own(options.overrides)
    if plugins := loading.asked_for():
        words.insert(0, f"plugins=[{','.join(map(override_value, plugins))}]")
    if options.threads:
        words.append(f"trainer.threads={options.threads}")
    experiment = [word for word in words if word.lstrip("+").startswith("experiment=")]
    settings = planner.config(experiment).search
    settings = replace(settings, **own)
    if not settings.sampler:
        raise HalutError(f"give sampler=NAME, or several; choose from: {', '.join(SAMPLERS)}")
    for sampler in settings.sampler:
        if sampler not in SAMPLERS:
            raise HalutError(f"sampler={sampler}: {unknown('sampler', sampler, SAMPLERS)}")
    check_numbers(settings)
    sites = [SiteChoices.of(entry) for entry in settings.sites]
    if options.options:
        labels = configs_of([text for text in options.options if text != "keep"])
        texts = (*(["keep"] if "keep" in options.options else []), *labels)
        patterns = options.sites or [None]
        sites = [SiteChoices(texts, pattern, options.shared) for pattern in patterns]
    elif options.sites or options.shared:
        raise HalutError("--sites and --shared say where --options are: give --options, too")
    specs = []
    for curve, entry in (settings.curves or {"": {}}).items():
        laid = _curve(str(curve), entry)
        space = space_of(
            [*words, *laid["overrides"]],
            {**settings.space, **laid["space"]},
            [*sites, *map(SiteChoices.of, laid["sites"])],
        )
        objective = laid["objective"] or settings.objective
        check_objective(objective)
        for sampler in settings.sampler:
            for seed in settings.seeds:
                specs.append(
                    StudySpec(
                        *(str(curve), sampler, seed, space, objective),
                        tuple(settings.minimize),
                        _limits(settings.budget),
                        trials=settings.trials or (None if sampler == "grid" else TRIALS),
                        prune=settings.prune,
                    )
                )
    for spec in specs:
        check_spec(spec)
    minutes = options.minutes
    if minutes is not None and not minutes > 0:
        raise HalutError(f"--minutes must be above 0, got {minutes:g}")
    return Request(specs, options.out, minutes, options.storage, options.results)


def _own(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The options of the search among the words, typed, and the other words."""
    own: dict[str, Any] = {}
    words = []
    for word in overrides:
        key, equals, text = word.partition("=")
        key = key.removeprefix("search.")
        if not equals and not word.startswith("~"):
            raise HalutError(f"{word}: neither an option KEY=VALUE nor a space KEY=A,B")
        if key not in OWN:
            words.append(word)
            continue
        values = [each.strip() for each in text.strip("[] ").split(",") if each.strip()]
        if key in ("sampler", "minimize"):
            own[key] = values
        elif key == "seeds":
            own[key] = [_whole(key, each) for each in values]
        else:
            own[key] = _whole(key, text) if key == "trials" else text
    return own, words


def _whole(key: str, text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit():
        raise HalutError(f"{key}={text}: a whole number is wanted")
    return int(text)


def check_numbers(settings: SearchConfig) -> None:
    """Raise HalutError for counts and costs that cannot be."""
    if settings.trials is not None and settings.trials < 1:
        raise HalutError(f"trials={settings.trials}: at least 1 is wanted")
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise HalutError("seeds: give at least one, each once")
    for key, names in (("sampler", settings.sampler), ("minimize", settings.minimize)):
        if len(set(names)) < len(names):
            raise HalutError(f"{key}={','.join(names)}: each once")
    for name in settings.minimize:
        if name not in RESOURCES:
            raise HalutError(f"minimize={name}: {unknown('cost', name, list(RESOURCES))}")


def _limits(budget: str | None) -> tuple[tuple[str, float], ...]:
    if budget is None:
        return ()
    budgets = budgets_of(budget)
    if len(budgets) > 1 or budgets[0].lost is not None:
        raise HalutError(f"budget={budget}: a search by trials has one, of costs, not of {LOST}")
    return budgets[0].limits


def _curve(name: str, entry: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"overrides": [], "space": {}, "sites": [], "objective": None}
    if not isinstance(entry, Mapping):
        raise HalutError(f"search.curves.{name}: give {', '.join(known)}")
    for key in entry:
        if key not in known:
            raise HalutError(f"search.curves.{name}: {unknown('key', str(key), list(known))}")
    return {**known, **entry}


def _points(spec: StudySpec, planner: Planner) -> list[Any]:
    return spec.space.points(planner.plan) if spec.sampler == "grid" else []


def _search(studies: Sequence[SharedStudy], runner: Runner, request: Request) -> int:
    until = None if request.minutes is None else time.monotonic() + 60 * request.minutes
    total = sum(study.total for study in studies)
    done = sum(len(study.finished()) for study in studies)
    log.info(
        "%d trials of %d studies, %d of them are done; in %s",
        total,
        len(studies),
        done,
        request.out,
    )
    with Worker(request.out) as worker:
        for study in studies:
            while until is None or time.monotonic() < until:
                trial = study.take(worker)
                if trial is None:
                    break
                _attempt(study, trial, runner)
                _write(studies, request)
    content = _write(studies, request)
    contents = content["studies"]
    running = sum(study.running() for study in studies)
    left = sum(
        0 if study.exhausted() else max(0, study.total - len(content["trials"]))
        for study, content in zip(studies, contents, strict=True)
    )
    if left:
        why = f"{running} of them run in other processes" if running else "the time is over"
        log.info("%d trials are left, %s; the same command goes on", left, why)
    chosen = [] if left else _chosen(studies, contents, runner)
    if chosen:
        _write(studies, request, chosen)
    try:
        objectives = [study.spec.objective for study in studies]
        draw(request.out / PICTURE, content["curves"], objectives)
    except HalutError as error:
        log.info("%s", error)
    _show(studies, contents, chosen, request)
    return 0 if all(study["best"] for study in contents) or left else 1


def _write(
    studies: Sequence[SharedStudy], request: Request, chosen: Sequence[Any] = ()
) -> dict[str, Any]:
    """Write what is found so far, one process at a time, and return it."""
    with turn(request.out):
        return write_outcome(request.out, command_line(), list(map(study_content, studies)), chosen)


def _attempt(study: SharedStudy, trial: Any, runner: Runner) -> None:
    """Run a trial and tell the study what came of it."""
    library, spec = optuna(), study.spec
    states = library.trial.TrialState
    begun = time.perf_counter()
    values: dict[str, Any] = {}
    space = extended(spec.space, [f"seed={spec.seed}"])
    try:
        with failing():
            values, overrides = space.trial(
                runner.planner.plan, lambda parameter, _: suggest(trial, parameter)
            )
        trial.set_user_attr("overrides", runner.words(overrides))
        trial.set_user_attr("command", runner.command(overrides))
        trial.set_user_attr("run", str(runner.run_dir(overrides)))
        costs = _costs(trial, spec, runner, overrides)
        with failing():
            count = len(runner.planner.stages(overrides)) if spec.prune != "none" else 0
        report = runner.run(overrides, ending_early(trial, count))
        own = {**figures(report, (spec.objective,)), **costs}
        trial.set_user_attr("figures", own)
        study.study.tell(trial, [own[name] for name in (spec.objective, *spec.minimize)])
        what = f"{own[spec.objective]:.2f}"
    except library.TrialPruned as stop:
        what = f"pruned: {stop}"
        trial.set_user_attr("reason", str(stop))
        study.study.tell(trial, state=states.PRUNED)
    except TrialFailed as error:
        what = f"failed: {error}"
        trial.set_user_attr("reason", str(error))
        study.study.tell(trial, state=states.FAIL)
    except (KeyboardInterrupt, Interrupted):
        trial.set_user_attr("interrupted", True)
        raise
    if trial.user_attrs.get("unrun"):
        return
    shown = " ".join(f"{name}={value}" for name, value in values.items()) or "-"
    log.info(
        "%s, trial %d of %d: %s: %s (%.0f s)",
        *(spec.name, len(study.finished()), study.total, shown, what, time.perf_counter() - begun),
    )


def ending_early(trial: Any, stages: int) -> Callable[[int, float], None]:
    """What ends a trial after one of its `stages` if its pruner says so; after the last one there
    is nothing left to save, and its accuracy is known."""

    def after_stage(index: int, accuracy: float) -> None:
        if index + 1 < stages:
            trial.report(accuracy, index)
            if trial.should_prune():
                raise optuna().TrialPruned(f"ended after stage {index}")

    return after_stage


def _costs(trial: Any, spec: StudySpec, runner: Runner, overrides: list[str]) -> dict[str, float]:
    """What the trial's plan costs of all that has a limit or is made small, before it is run.

    Notes how far that is above the budget. A trial above it ends unrun, unless a sampler of several
    objectives needs its figures.
    """
    resources = list(dict.fromkeys((*spec.minimize, *(name for name, _ in spec.limits))))
    with failing():
        costs = runner.planner.costs(overrides, resources) if resources else {}
    for resource, limit in spec.limits:
        trial.set_constraint(resource, costs[resource] / limit - 1)
    if exceeded := limits_exceeded(costs, spec.limits):
        reason = f"over the budget: {', '.join(exceeded)}"
        trial.set_user_attr("reason", reason)
        if not spec.minimize:
            trial.set_user_attr("unrun", spec.sampler != "grid")
            raise optuna().TrialPruned(reason)
    return costs


def _chosen(
    studies: Sequence[SharedStudy], contents: Sequence[Mapping[str, Any]], runner: Runner
) -> list[dict[str, Any]]:
    """The best of each study by validation, for which alone the test split is read, once."""
    chosen = []
    for study, content in zip(studies, contents, strict=True):
        for trial in best(content["trials"], content["minimize"]):
            report = runner.run(trial["overrides"], test=True)
            part = report["base" if study.spec.objective.startswith("base.") else "final"]
            chosen.append(
                {
                    **{key: content[key] for key in ("curve", "sampler", "seed")},
                    "number": trial["number"],
                    "val_accuracy": part["val_accuracy"],
                    "test_accuracy": part["test_accuracy"],
                    "figures": trial["figures"],
                    "command": trial["command"],
                    "run": trial["run"],
                }
            )
    return chosen


def _show(
    studies: Sequence[SharedStudy],
    contents: Sequence[Mapping[str, Any]],
    chosen: Sequence[Any],
    request: Request,
) -> None:
    table = Table(title="the best of each study, accuracy in percent", title_justify="left")
    asked = [name for study in contents for name in (*study["minimize"], *study["budget"])]
    costs = list(dict.fromkeys(("bytes", *asked)))
    for head in ("study", "trials", "validation", "test", *costs, "run"):
        table.add_column(head, overflow="fold")
    tests = {(c["curve"], c["sampler"], c["seed"], c["number"]): c["test_accuracy"] for c in chosen}
    for name, study in zip((each.spec.name for each in studies), contents, strict=True):
        key = (study["curve"], study["sampler"], study["seed"])
        states = [trial["state"] for trial in study["trials"]]
        failed = f", {states.count('fail')} failed" if "fail" in states else ""
        pruned = f", {states.count('pruned')} pruned" if "pruned" in states else ""
        unrun = f"; {study['unrun']} draws over the budget" if study["unrun"] else ""
        count = f"{len(states)} of {study['total']}{failed}{pruned}{unrun}"
        winners = [t for t in study["trials"] if t["number"] in study["best"]]
        for trial in winners:
            test = tests.get((*key, trial["number"]))
            figures = [trial["figures"].get(cost) for cost in costs]
            table.add_row(
                *(name, count, f"{trial['values'][0]:.2f}"),
                "-" if test is None else f"{test:.2f}",
                *("-" if figure is None else f"{figure:,.6g}" for figure in figures),
                trial["run"],
            )
        if not winners:
            reasons = list(dict.fromkeys(t["reason"] for t in study["trials"] if t["reason"]))
            table.add_row(name, count, "-", "-", *("-" for _ in costs), "; ".join(reasons[:2]))
    console.print(table)
    for each in chosen:
        log.info(
            "%.2f on the validation, %.2f on the test split: %s", *(each[key] for key in SHOWN)
        )
    log.info(
        "everything is in %s; optuna-dashboard %s shows it",
        request.out,
        request.storage or request.out / JOURNAL,
    )
