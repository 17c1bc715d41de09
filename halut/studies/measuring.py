"""What the studies of single sites share: their flags, their records, and running what is left."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halut.analysis.sensitivity import Candidate, sensitivity
from halut.data.uncertainty import chance, near_chance
from halut.errors import HalutError
from halut.results.record import Record
from halut.results.store import Store
from halut.sites.find import Site
from halut.sites.plan import Plan
from halut.studies.options import Choice, choices_of, configs_of
from halut.studies.ranks import Ranks
from halut.studies.subject import Subject, context, now
from halut.training.config.needs import untrained_base
from halut.training.config.run_config import TrainConfig
from halut.training.logging.progress import batches_shown, log, set_up_logging
from halut.training.logging.run_progress import Part, run

SHAPE = ("kind", "kernel", "rows", "D", "M", "groups")
"""What a site is by: linear, conv2d or attention, rows of a sample, inputs D and outputs M."""
MAX_NAMED = 8
"""Layers that a line of the log names at most."""


def add_flags(parser: argparse.ArgumentParser, samples: int) -> None:
    """The flags of every study of single sites."""
    add = parser.add_argument
    add(
        "overrides",
        nargs="*",
        metavar="RUN | KEY=VALUE",
        help="a run folder (its options and base weights), or options of train.py",
    )
    add(
        "--options",
        nargs="+",
        default=[],
        metavar="'OPERATOR KEY=A,B ...'",
        help="operators with their options, lists in full product; by default the policy's own",
    )
    add(
        "--sites",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="name patterns of the sites; by default those that the policy replaces",
    )
    add("--samples", type=at_least(1), default=samples, help="validation images (%(default)s)")
    add("--rows", type=at_least(1), default=16_384, help="rows a site learns from (%(default)s)")
    add("--batch", type=at_least(1), help="images of a batch; by default data.eval_batch_size")
    add("--threads", type=at_least(1), help="threads of the CPU; by default trainer.threads")
    add("--results", default="results", metavar="FOLDER", help="the store (%(default)s)")


def at_least(low: int) -> Any:
    """A type of argparse: a whole number from `low` on."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low}, got {text!r}")
        return int(text)

    return number


def writable_store(folder: str | Path) -> Store:
    """The store, which need not be there yet; HalutError where nothing could be written."""
    check_place(Path(folder), f"--results {folder}")
    return Store(folder)


def check_file(path: Path, flag: str) -> None:
    """Raise HalutError where no file could be written."""
    if path.is_dir():
        raise HalutError(f"{flag} {path} is a folder: give a file")
    check_place(path.parent, f"{flag} {path}")


def check_place(folder: Path, words: str) -> None:
    """Raise HalutError, which begins with `words`, where no folder could be made or written to."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise HalutError(f"{words}: {place} is no folder")
    if not os.access(place, os.W_OK):
        raise HalutError(f"{words}: {place} cannot be written to")


def begin(
    options: argparse.Namespace,
    ranks: Ranks | None = None,
    check: Callable[[Sequence[Choice]], object] = lambda choices: None,
) -> tuple[Subject, list[Choice], Store]:
    """What the flags of a study mean: its subject, what is measured at which site, its store.

    The first of several ranks trains the exact network, and the others take it from base.cache.
    `check` is called before that, to refuse choices.
    Raises HalutError for what cannot be, before anything is trained.
    """
    ranks = ranks or Ranks()
    set_up_logging()
    configs_of(options.options)
    store = writable_store(options.results)

    def choices_at(config: TrainConfig, plan: Plan) -> list[Choice]:
        if ranks.size > 1 and config.base.cache is None and untrained_base(config) is None:
            raise HalutError(
                "base.cache=null: several ranks need a folder, in which they find the exact "
                "network that the first has trained"
            )
        choices = choices_of(plan, config.halut, options.options, options.sites)
        check(choices)
        return choices

    subject = ranks.after_first(lambda: Subject.of(options.overrides, options.threads, choices_at))
    kept = [entry.site.name for entry in subject.plan if not entry.replaced]
    if kept and not options.sites:
        more = f" and {len(kept) - MAX_NAMED} more" if len(kept) > MAX_NAMED else ""
        names = ", ".join(kept[:MAX_NAMED])
        log.info("not measured, as the policy keeps them (--sites would): %s%s", names, more)
    return subject, choices_at(subject.config, subject.plan), store


@dataclass(frozen=True)
class Setup:
    """What decides the figures beside the candidate: `kind` of study, validation `samples`, images
    learned from, `rows` of a site, samples of the Taylor score, `seed`."""

    kind: str
    samples: int
    calibration: int
    rows: int
    taylor_samples: int = 0
    seed: int = 0


def record_of(
    subject: Subject, setup: Setup, choice: Choice, score: str | None, **content: Any
) -> Record:
    """The record of one measurement; without its `content`, one that has its key."""
    entry = choice.candidate.entry
    site = entry.site
    gradients = min(setup.taylor_samples, setup.calibration)
    data = ("train", gradients) if score == "fisher" else ("val", setup.samples)
    detail = {
        "shape": shape_of(site),
        "stage": None,
        **words_of(choice),
        **content.pop("detail", {}),
    }
    return Record(
        setup.kind,
        subject.identity,
        subject.data_identity(*data),
        content.pop("figures", {}),
        site=site.name,
        operator=entry.operator,
        options=entry.options,
        seed=setup.seed,
        score=score,
        **learned_from(subject, setup.calibration, setup.rows),
        detail=detail,
        **content,
    )


def learned_from(subject: Subject, calibration: int, rows: int) -> dict[str, Any]:
    """The fields of a record that say what layers are learned from: calibration, and settings."""
    train_samples = getattr(subject.data.config, "train_samples", None)
    cut = {} if train_samples is None else {"data.train_samples": train_samples}
    return {
        "calibration": min(calibration, len(subject.data.splits["train"])),
        "settings": {"rows": rows, **cut},
    }


def shape_of(site: Site) -> dict[str, Any]:
    """What a record's detail says of a site: SHAPE, the kernel as 3x3, None of a Linear."""
    kernel = "x".join(map(str, site.geometry.kernel_size)) if site.geometry is not None else None
    return {key: kernel if key == "kernel" else getattr(site, key) for key in SHAPE}


def words_of(choice: Choice) -> dict[str, Any]:
    """What a record's detail says of how it was asked for: other words may mean the same."""
    return {"label": choice.label, "asked": choice.options}


def keys_of(
    subject: Subject, setups: Sequence[Setup], choices: Sequence[Choice], scores: Sequence[str]
) -> dict[str, Choice]:
    """Keys of all records of a study, with what each is of; a choice that its site does not support
    has one."""
    return {
        record_of(subject, setup, choice, score).key: choice
        for setup in setups
        for choice in choices
        for score in (scores if choice.candidate.reason is None else [None])
    }


def measure(
    subject: Subject,
    setups: Sequence[Setup],
    choices: Sequence[Choice],
    scores: Sequence[str],
    store: Store,
    batch: int | None = None,
    ranks: Ranks | None = None,
) -> list[Record]:
    """Measure what the store does not hold yet, and return all that was asked for, in its order.

    Several ranks divide the sites, and wait for each other; the first alone returns the records,
    the others none. HalutError if one of them is gone.

    Every record is on disk before the next is measured. What another process measures meanwhile is
    not measured here; where one is at work on the store already, this one goes through sites and
    options in an order of its own, so that they meet rarely.
    """
    ranks = ranks or Ranks()
    keys = keys_of(subject, setups, choices, scores)
    lines = [line for setup in setups for line in shortfalls(subject, setup)]
    for line in dict.fromkeys(lines if ranks.rank == 0 else []):
        log.warning(line)
    before = len(store.keys().intersection(keys))
    left = len(keys) - before
    log.info("%d measurements, %d of them in %s already", len(keys), before, store.path)
    if left:
        title = setups[0].kind
        run.begin([Part(title, title, left)])
        try:
            with (
                store.at_work() as others,
                run.part(title),
                batches_shown(True, "", left) as show,
            ):

                def notify(what: str) -> None:
                    ranks.check()
                    done = len(store.keys().intersection(keys)) - before
                    run.at(what, done / left)
                    show(what, done, left)

                own = _share(choices, ranks)
                if others and ranks.size == 1:
                    log.info("another process measures for %s: they share the work", store.path)
                    setups, own = in_own_order(setups, own)
                for record in _records(subject, setups, own, scores, store, batch, notify):
                    if record.key not in store:
                        store.append(record)
        except KeyboardInterrupt:
            log.info("the same command goes on from here: what is measured is in %s", store.path)
            raise
    ranks.finish()
    if ranks.rank > 0:
        return []
    reading = store.read()
    for problem in reading.problems:
        log.warning("%s: %s", store.path, problem)
    by_key = {record.key: record for record in reading.records}
    found = [
        replace(by_key[key], detail={**by_key[key].detail, **words_of(choice)})
        for key, choice in keys.items()
        if key in by_key
    ]
    _warn_at_chance(subject, found)
    return found


def _share(choices: Sequence[Choice], ranks: Ranks) -> list[Choice]:
    """The choices of this rank's sites."""
    sites = ranks.share(list(dict.fromkeys(choice.candidate.site.name for choice in choices)))
    return [choice for choice in choices if choice.candidate.site.name in sites]


def shortfalls(subject: Subject, setup: Setup) -> list[str]:
    """A line for each part of the data that has fewer samples than were asked for."""
    return [
        f"{wanted} {what} images were asked for, and there are {available}: all of them are taken"
        for what, part, wanted in (
            ("validation", "val", setup.samples),
            ("calibration", "train", setup.calibration),
        )
        if wanted > (available := len(subject.data.splits[part]))
    ]


def in_own_order(
    setups: Sequence[Setup], choices: Sequence[Choice]
) -> tuple[list[Setup], list[Choice]]:
    """Both shuffled, another way in every process; choices of a site stay together."""
    shuffled = random.SystemRandom().sample  # a run's seed is that of the other processes as well
    by_site: dict[str, list[Choice]] = {}
    for choice in shuffled(choices, len(choices)):
        by_site.setdefault(choice.candidate.site.name, []).append(choice)
    sites = shuffled(list(by_site), len(by_site))
    return shuffled(setups, len(setups)), [each for site in sites for each in by_site[site]]


def _warn_at_chance(subject: Subject, records: Sequence[Record]) -> None:
    """Say so if the exact network does no better than guessing: what is lost then means nothing."""
    for record in records:
        accuracy = record.figures.get("exact_accuracy")
        if accuracy is None:
            continue
        labels = subject.data.splits["val"].labels[: record.data["samples"]]
        if near_chance(accuracy, labels):
            log.warning(
                "the exact network has %.2f %% of %d validation samples right, and guessing "
                "%.2f %%: these measurements tell nothing; train it longer (base.epochs), or give "
                "weights",
                *(accuracy, len(labels), chance(labels)),
            )
        return


def _records(
    subject: Subject,
    setups: Sequence[Setup],
    choices: Sequence[Choice],
    scores: Sequence[str],
    store: Store,
    batch: int | None,
    notify: Callable[[str], None],
) -> Iterator[Record]:
    """The records that are not stored, in turn."""
    of = {id(choice.candidate): choice for choice in choices}
    batches = subject.batches("val", setups[0].samples, batch)
    where = context(run=str(subject.folder) if subject.folder is not None else None)
    for setup in setups:

        def select(candidate: Candidate, score: str | None, setup: Setup = setup) -> bool:
            return record_of(subject, setup, of[id(candidate)], score).key not in store

        def place(what: str, *_: int, setup: Setup = setup) -> None:
            images = f"{setup.calibration} images, draw {setup.seed}: "
            notify(f"{images if len(setups) > 1 else ''}{what}")

        begun = time.perf_counter()
        for each in sensitivity(
            subject.network,
            [choice.candidate for choice in choices],
            subject.calibration(setup.calibration, setup.seed),
            batches,
            scores=scores,
            select=select,
            rows=setup.rows,
            taylor_samples=setup.taylor_samples,
            memory=int(subject.config.capture.memory_gib * 2**30),
            seed=setup.seed,
            notify=place,
            learned=subject.learned,
        ):
            seconds = time.perf_counter() - begun
            yield record_of(
                subject,
                setup,
                of[id(each.candidate)],
                each.score,
                figures=each.figures,
                detail={} if each.reason is None else {"reason": each.reason},
                context={**where, "time": now(), "seconds": round(seconds, 3)},
            )
            begun = time.perf_counter()
