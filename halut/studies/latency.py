"""Latency of sites' options and of networks on this machine, each measured once into a store."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from halut.analysis.plan_cost import EXACT, PLAN
from halut.analysis.plan_latency import networks_latency, options_latency
from halut.results.record import Record
from halut.results.store import Store
from halut.sites.plan import KEEP, Entry, Plan
from halut.studies.measuring import shape_of
from halut.studies.subject import Subject, context
from halut.training.logging.progress import log


class Latencies:
    """Median seconds of batches on this machine; what the store holds is not measured again.

    A record is of an entry, or of those of sites that read one input, with the shapes that the
    network's inputs give them, or of a whole plan; on this machine, by this number of threads, for
    batches of `batch` samples. Weights do not matter.
    """

    def __init__(self, subject: Subject, store: Store, batch: int) -> None:
        self.subject, self.store, self.batch = subject, store, batch
        records = store.read().records if store.path.is_dir() else []
        self._known = {r.key: r for r in records if r.kind == "latency"}
        self._network = subject.network

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the network's input, less the batch."""
        return tuple(self.subject.plan.model["input_shape"])

    def of_options(self, options: Sequence[tuple[Entry, ...]]) -> list[float]:
        """Seconds of each of a group's options; those that are not stored are timed in turns."""
        records = [self._record(entries) for entries in options]
        missing = {
            record.key: (record, entries)
            for record, entries in zip(records, options, strict=True)
            if record.key not in self._known
        }
        if missing:
            begun = time.perf_counter()
            every = [entries for _, entries in missing.values()]
            names = ", ".join(entry.site.name for entry in every[0])
            log.info("%s: latency of %d options", names, len(every))
            seconds = options_latency(self._network, self.input_shape, every, self.batch)
            spent = (time.perf_counter() - begun) / len(every)
            for (_, entries), latency in zip(missing.values(), seconds, strict=True):
                self._append(self._record(entries, {"latency": latency}, spent))
        return [float(self._known[record.key].figures["latency"] or 0.0) for record in records]

    def of_exact(self) -> float:
        """Seconds of the whole exact network."""
        record = self._record(settings={"variant": EXACT})
        if record.key not in self._known:
            begun = time.perf_counter()
            figures = networks_latency({EXACT: self._network}, self.input_shape, self.batch)
            seconds = time.perf_counter() - begun
            settings = {"variant": EXACT}
            self._append(self._record((), {"latency": figures[EXACT]}, seconds, settings))
        return float(self._known[record.key].figures["latency"] or 0.0)

    def of_plan(self, plan: Plan, network: Callable[[], nn.Module]) -> dict[str, float]:
        """Seconds of the network that the plan has made, as `latency`, and in turns with it of the
        exact one, as `exact_latency`."""
        settings = {"variant": PLAN, "plan": plan.digest}
        record = self._record(settings=settings)
        if record.key not in self._known:
            begun = time.perf_counter()
            networks = {EXACT: self._network, PLAN: network()}
            times = networks_latency(networks, self.input_shape, self.batch)
            figures = {"latency": times[PLAN], "exact_latency": times[EXACT]}
            self._append(self._record((), figures, time.perf_counter() - begun, settings))
        return {name: float(v or 0.0) for name, v in self._known[record.key].figures.items()}

    def _append(self, record: Record) -> None:
        self.store.append(record)
        self._known[record.key] = record

    def _record(
        self,
        entries: tuple[Entry, ...] = (),
        figures: dict[str, float] | None = None,
        seconds: float | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Record:
        """The record of a measurement; without its figures, one that has its key."""
        model = self.subject.plan.model
        first = entries[0] if entries else None
        more = [entry.site.name for entry in entries[1:]]
        own = {
            "machine": f"{platform.node()}, {platform.machine()}",
            "threads": torch.get_num_threads(),
            "batch": self.batch,
            **({"beside": more, "shares": first.shares is not None} if first and more else {}),
            **(settings or {}),
        }
        return Record(
            "latency",
            {"model": model.get("name"), "options": model.get("options", {}), "weights": None},
            {
                "name": None,
                "split": None,
                "samples": 0,
                "digest": None,
                "input_shape": list(self.input_shape),
            },
            figures or {},
            site=first.site.name if first else None,
            operator=first.operator if first else None,
            options=first.options if first else {},
            settings=own,
            detail={"shape": shape_of(first.site)} if first else {},
            context=context(seconds) if figures else {},
        )


def measured(
    groups: Sequence[Sequence[tuple[Entry, ...]]], latencies: Latencies
) -> tuple[list[list[float]], list[float], float]:
    """Seconds of the options of each group, of each group's exact layers, and of the exact network.

    Exact layers are timed in turns with the options beside which they stand.
    """
    options, exact = [], []
    for group in groups:
        kept = tuple(Entry(entry.site, KEEP) for entry in group[0])
        replaced = [each for each in group if each[0].replaced]
        first, *others = latencies.of_options([kept, *replaced])
        exact.append(first)
        of = iter(others)
        options.append([next(of) if each[0].replaced else first for each in group])
    return options, exact, latencies.of_exact()
