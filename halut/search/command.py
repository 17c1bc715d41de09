"""`halut search budget=...`: the best plan within each budget, found, measured and written."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from halut.analysis.assembly import Assembly
from halut.analysis.energy import DEFAULT, energy_tables, load_energies
from halut.analysis.network_cost import macs_outside
from halut.errors import HalutError
from halut.option import unknown
from halut.replace.sharing import same_inputs
from halut.search.budget import LATENCY, LOST, RESOURCES, Budget, budgets_of
from halut.search.budgeted import Answer, Comparison, Search
from halut.search.options import SCORES, Space, space_of
from halut.search.out import BUDGETS, check_out, write_search
from halut.search.outcome import (
    PlanFiles,
    front_of,
    outcome_of,
    uniform_label,
    verify,
)
from halut.search.references import references
from halut.studies.latency import Latencies, measured
from halut.studies.measuring import Setup, add_flags, at_least, begin, measure
from halut.studies.options import refuse_impossible
from halut.studies.plan_figures import PlanFigures
from halut.studies.ranks import Ranks
from halut.studies.sensitivity_table import remarks, show_lines
from halut.training.config.command import command_line
from halut.training.logging.progress import batches_shown, console, log
from halut.training.logging.run_progress import Part, run

EPILOG = f"""\
examples:
  halut search budget=bytes:60k,120k data=digits base.epochs=3 --options 'tree C=4,8,16 K=8,16'
  halut search budget=bytes:120k+bops:1G data=fashion_mnist model=resnet8 --options 'pq V=9' 'integer width=4'
  halut search budget=latency:300u --threads 1 runs/MINE --options 'tree V=3,9,18'
  halut search budget=lost:1.0 minimize=operations runs/MINE --options 'tree V=3,9,18'

Budgets are of: {", ".join(RESOURCES)}, for the whole network and one sample; or points lost.
Latency is measured here, in seconds (300u: microseconds): of the prepared layer of every option,
once, into the store.
Every site and option is scored once, into the store (--results), which is not measured again. The
plan of least predicted loss is solved exactly, measured, the scores are corrected by it, and it is
solved again until it stands. plans/BUDGET.json is for `python train.py plan=FILE`.
"""  # noqa: E501
NORMS = 8
"""Batches by which measured plans get statistics of batch norms: runs take `recalibrate`."""
FISHER_SAMPLES = 512
"""Calibration images whose gradients are taken, as `halut sensitivity` does by default."""


def parser() -> argparse.ArgumentParser:
    """The verb's flags."""
    flags = argparse.ArgumentParser(
        prog="halut search",
        usage="halut search budget=RESOURCE:LIMIT,... [OPTIONS] [RUN | KEY=VALUE ...]",
        description="The plan that loses least within a budget, and the trade-off.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(flags, samples=2000)
    add = flags.add_argument
    add("--score", choices=SCORES, default="loss", help="what predicts a loss (%(default)s)")
    add("--rounds", type=at_least(1), default=24, help="solutions measured at most (%(default)s)")
    text = "the best of them, which run as train.py runs them; the best run is it (%(default)s)"
    add("--verify", type=at_least(1), default=3, metavar="N", help=text)
    add("--front", type=at_least(2), default=50, help="budgets of the front (%(default)s)")
    add("--all", action="store_true", help="every site is replaced: none may stay exact")
    text = "random plans of about the same cost that are measured beside each answer (%(default)s)"
    add("--random", type=at_least(0), default=0, metavar="N", help=text)
    add("--train", action="store_true", help="train the plans by the schedule, in place of not")
    names = ", ".join(energy_tables())
    text = f"energies of operations: {names}, or a YAML file (%(default)s)"
    add("--energy", default=DEFAULT, metavar="TABLE", help=text)
    text = "samples of a batch whose latency is measured, where a budget or minimize is latency"
    add("--latency-batch", type=at_least(1), default=1, metavar="N", help=f"{text} (%(default)s)")
    add("--out", type=Path, default=Path("runs/search"), help="folder (%(default)s)")
    return flags


def main(arguments: Sequence[str]) -> int:
    """0; 1 if a budget cannot be met, and the plan that misses least is written."""
    options = parser().parse_intermixed_args(list(arguments))
    budgets, minimize, options.overrides = asked(options.overrides)
    energies = load_energies(options.energy)
    check_out(options.out, BUDGETS)
    ranks = Ranks.join()
    subject, choices, store = begin(options, ranks, refuse_impossible)
    config = subject.config
    scores = ["fisher"] if options.score == "fisher" else ["measured"]
    setup = Setup(
        "sensitivity",
        options.samples,
        config.capture.samples,
        options.rows,
        taylor_samples=FISHER_SAMPLES if options.score == "fisher" else 0,
        seed=config.seed,
    )
    records = measure(subject, [setup], choices, scores, store, options.batch, ranks)
    if ranks.rank > 0:
        return 0
    show_lines(remarks(records))
    example = torch.zeros(1, *subject.plan.model["input_shape"])
    outside = macs_outside(subject.plan, subject.network, example)
    space = space_of(
        subject.plan,
        subject.network,
        records,
        options.score,
        energies,
        not options.all,
        outside,
        same_inputs(subject.network, example) if config.policy.share else (),
    )
    show_lines(space.notes)
    latencies = Latencies(subject, store, options.latency_batch)
    if timed := _asks_latency(budgets, minimize):
        space = _with_latency(space, latencies)
    assembly = Assembly(
        subject.network,
        space.sites,
        subject.calibration(config.capture.samples, config.seed),
        subject.batches("val", options.samples, options.batch),
        options.rows,
        int(config.capture.memory_gib * 2**30),
        config.seed,
        norms=min(config.recalibrate, NORMS),
        learned=subject.learned,
    )
    figure = "lost" if options.score == "lost" else "rise"
    seed, norms = config.seed, assembly.norms
    plans = PlanFigures(
        subject, store, assembly, options.samples, config.capture.samples, options.rows, seed, norms
    )
    search = Search(space, lambda o: plans.measure(space.plan_of(o)), figure)
    begun = time.perf_counter()
    answers = []
    for budget in budgets:
        with _told(f"plans of {budget}", options.rounds) as notify:
            answers.append(search.within(budget, options.rounds, minimize, notify))
    log.info("%d plans measured in %.0f s", len(search.measured), time.perf_counter() - begun)
    files = PlanFiles(space, options.out, options.overrides)
    verified = [
        verify(answer, search, files, config, options.verify, options.train) for answer in answers
    ]
    comparisons: list[Comparison | None] = []
    for each in answers if options.random else []:
        with _told(f"random plans of {each.budget}", options.random) as notify:
            comparisons.append(search.compare(each, options.random, minimize, seed, notify))
    comparisons = comparisons or [None] * len(answers)
    outcomes = [
        outcome_of(answer, comparison, files, config, options.train, runs)
        for answer, comparison, runs in zip(answers, comparisons, verified, strict=True)
    ]
    if timed:
        for answer, outcome in zip(answers, outcomes, strict=True):
            outcome["latency"] = _latency(answer, space, assembly, latencies)
    beside = references(assembly, files, energies, outside, latencies if timed else None)
    spent = [minimize if r == LOST else r for budget in budgets for r, _ in budget.limits]
    fronts = {r: front_of(search, r, options.front) for r in dict.fromkeys(spent)}
    content = {
        "score": options.score,  # lost: predictions, predicted_rise too, are points of accuracy
        "samples": options.samples,
        "exact": assembly.exact,
        "references": beside,
        "budgets": outcomes,
        "fronts": fronts,
    }
    write_search(options.out, BUDGETS, command_line(), content)
    _show(answers, outcomes, comparisons, space)
    log.info("everything is in %s; halut report %s shows it", options.out, options.out)
    return 1 if any(answer.best is None for answer in answers) else 0


@contextmanager
def _told(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Progress over at most `total` plans; yields what is called after each."""
    run.begin([Part(title, title, total)])
    with run.part(title), batches_shown(True, title, total) as show:
        done = 0

        def notify() -> None:
            nonlocal done
            done += 1
            run.at("", done / total)
            show(title, done, total)

        try:
            yield notify
        except KeyboardInterrupt:
            log.info("the same command goes on from here: what is measured is in the store")
            raise


def _asks_latency(budgets: Sequence[Budget], minimize: str) -> bool:
    return minimize == LATENCY or any(LATENCY in dict(budget.limits) for budget in budgets)


def _with_latency(space: Space, latencies: Latencies) -> Space:
    options, exact, network = measured([group.entries for group in space.groups], latencies)
    return space.with_latency([np.array(each) for each in options], exact, network)


def _latency(
    answer: Answer, space: Space, assembly: Assembly, latencies: Latencies
) -> dict[str, float]:
    """Seconds of a batch by the answer's plan: the sum over its layers, and of all of it, measured
    in turns with the exact network."""
    chosen = answer.best or answer.nearest
    assert chosen is not None
    plan = space.plan_of(chosen.options)
    figures = latencies.of_plan(plan, lambda: assembly.assembled(plan.replaced))
    return {
        "sum": chosen.costs[LATENCY],
        "measured": figures["latency"],
        "exact": figures["exact_latency"],
        "batch": latencies.batch,
        "threads": torch.get_num_threads(),
    }


def asked(overrides: Sequence[str]) -> tuple[list[Budget], str, list[str]]:
    """The budgets, the resource to minimize, and the other words."""
    own: dict[str, list[str]] = {"budget": [], "minimize": []}
    others = []
    for word in overrides:
        key, equals, value = word.partition("=")
        if equals and key in own:
            own[key].append(value)
        else:
            others.append(word)
    budgets = [budget for text in own["budget"] for budget in budgets_of(text)]
    if not budgets:
        raise HalutError(
            f"give budget=RESOURCE:LIMIT; resources: {', '.join([*RESOURCES, LOST])} (points)"
        )
    minimize = (own["minimize"] or ["bytes"])[-1]
    if minimize not in RESOURCES:
        raise HalutError(f"minimize={minimize}: {unknown('resource', minimize, list(RESOURCES))}")
    return budgets, minimize, others


def _show(
    answers: Sequence[Answer],
    outcomes: Sequence[dict[str, Any]],
    comparisons: Sequence[Comparison | None],
    space: Space,
) -> None:
    table = Table(title="plans within the budgets, validation accuracy lost in points")
    heads = ["budget", "cost", "lost", "one option everywhere", "lost"]
    if any(each is not None for each in comparisons):
        heads += ["best of random plans", "rank correlation"]
    for head in [*heads, "plan"]:
        table.add_column(head, overflow="fold")
    for answer, outcome, comparison in zip(answers, outcomes, comparisons, strict=True):
        chosen, uniform = answer.best or answer.nearest, answer.uniform
        assert chosen is not None
        resources = [r for r, _ in answer.budget.limits if r != LOST] or ["bytes"]
        table.add_row(
            str(answer.budget),
            ", ".join(f"{chosen.costs[r]:,.6g}" for r in resources),
            f"{chosen.figures['lost']:.2f}",
            "-" if uniform is None else uniform_label(space, uniform),
            "-" if uniform is None else f"{uniform.figures['lost']:.2f}",
            *(_random_cells(comparison) if len(heads) > 5 else []),
            outcome["plan"],
        )
    console.print(table)
    for answer, outcome in zip(answers, outcomes, strict=True):
        if answer.missing is not None:
            resource, amount = answer.missing
            log.error(
                "no plan has %s: the nearest misses by %s %s",
                answer.budget,
                f"{amount:,.6g}",
                resource,
            )
        if "latency" in outcome:
            times = {k: 1e6 * outcome["latency"][k] for k in ("sum", "measured", "exact")}
            log.info(
                "%s: %.0f microseconds by the sum of its layers, %.0f measured, the exact network "
                "%.0f beside it",
                answer.budget,
                *times.values(),
            )
        if "run" in outcome:
            beside = (outcome["uniform"] or {}).get("run")
            for words, own in (("", outcome["run"]), ("one option everywhere, ", beside)):
                if own is not None:
                    log.info(
                        "%s: %s%.2f on the validation, %.2f on the test split: %s",
                        *(answer.budget, words, own["val_accuracy"], own["test_accuracy"]),
                        own["command"],
                    )


def _random_cells(comparison: Comparison | None) -> list[str]:
    """The least loss of random plans in points, of how many, and how predictions rank them."""
    if comparison is None or comparison.best is None:
        return ["-", "-"]
    correlation = comparison.rank_correlation
    return [
        f"{comparison.best.figures['lost']:.2f} of {len(comparison.plans)}",
        f"{correlation['predicted']:.2f}, corrected {correlation['corrected']:.2f}",
    ]
