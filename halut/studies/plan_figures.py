"""Accuracy and loss of whole plans without training, each measured once into a store."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from halut.analysis.assembly import Assembly
from halut.results.record import Record
from halut.results.store import Store
from halut.sites.plan import Entry, Plan
from halut.studies.measuring import learned_from
from halut.studies.subject import Subject, context


@dataclass
class PlanFigures:
    """What `Assembly.measure` finds of plans; what the store holds is not measured again.

    samples: of the validation split; `calibration` images are learned from, `rows` of a site.
    """

    subject: Subject
    store: Store
    assembly: Assembly
    samples: int
    calibration: int
    rows: int
    seed: int
    norms: int
    _known: dict[str, Record] = field(init=False)

    def __post_init__(self) -> None:
        records = self.store.read().records if self.store.path.is_dir() else []
        self._known = {record.key: record for record in records if record.kind == "plan"}

    def measure(self, plan: Plan) -> dict[str, float]:
        """Accuracy, loss, lost and rise of the network that the plan makes."""
        key = self._record(plan).key
        if key not in self._known or self._known[key].not_finite:
            begun = time.perf_counter()
            figures = self.assembly.measure(plan.replaced)
            record = self._record(plan, figures, time.perf_counter() - begun)
            if record.not_finite:
                return figures
            self.store.append(record)
            self._known[key] = record
        return {name: float(value or 0.0) for name, value in self._known[key].figures.items()}

    def _record(
        self,
        plan: Plan,
        figures: dict[str, float] | None = None,
        seconds: float | None = None,
    ) -> Record:
        """The record of a plan; without its figures, one that has its key."""
        learned = learned_from(self.subject, self.calibration, self.rows)
        settings = {**learned.pop("settings"), "plan": plan.digest, "norms": self.norms}
        return Record(
            "plan",
            self.subject.identity,
            self.subject.data_identity("val", self.samples),
            figures or {},
            seed=self.seed,
            settings=settings,
            **learned,
            detail={"plan": [_entry(each) for each in plan.replaced]} if figures else {},
            context=context(seconds) if figures else {},
        )


def _entry(entry: Entry) -> dict[str, Any]:
    """What a record's detail says of a replaced site."""
    return {"site": entry.site.name, "operator": entry.operator, "options": entry.options}
