"""One measurement, with everything that identifies it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from halut.errors import HalutError
from halut.option import unknown

SCHEMA = 1
KINDS = ("sensitivity", "sweep", "convergence", "cost", "run")
SCORES = ("measured", "fisher")


@dataclass(frozen=True)
class Record:
    """A measurement.

    What identifies it (`key`): `kind`; `network`, {"model", "options", "weights"}, weights the
    digest of its parameters and buffers; `data`, {"name", "split", "samples", "digest"}; the `site`
    and `operator` with its `options`, or none of them for a whole network; the `seed`; of how many
    images it was learned (`calibration`); by which `score`; and `settings`, whatever else decides
    the figures (dotted keys of a configuration).

    What was found: `figures`, numbers by name, accuracies and points in percent; a figure that is
    not finite is None and named in `not_finite`. `detail` is what belongs to it beside numbers, as
    the site's shape.

    Where it comes from: `context`, {"command", "commit", "versions", "machine", "time", "seconds",
    "run"}, as far as known.
    """

    kind: str
    network: Mapping[str, Any]
    data: Mapping[str, Any]
    figures: Mapping[str, float | None]
    site: str | None = None
    operator: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    calibration: int | None = None
    score: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    not_finite: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise HalutError(unknown("kind of record", self.kind, KINDS))
        if self.score is not None and self.score not in SCORES:
            raise HalutError(unknown("score", self.score, SCORES))
        bad = [k for k, v in self.figures.items() if v is not None and not math.isfinite(v)]
        if bad:
            figures = {k: None if k in bad else v for k, v in self.figures.items()}
            object.__setattr__(self, "figures", figures)
            object.__setattr__(self, "not_finite", (*self.not_finite, *bad))

    @property
    def key(self) -> str:
        """A hash of what identifies the measurement: equal for one that was made again."""
        identity = {name: getattr(self, name) for name in IDENTITY}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def line(self) -> str:
        """JSON on one line."""
        return json.dumps({"schema": SCHEMA, "key": self.key, **asdict(self)}, allow_nan=False)


IDENTITY = (
    *("kind", "network", "data", "site", "operator", "options", "seed", "calibration"),
    *("score", "settings"),
)
"""Fields of Record that identify it."""


def parse(line: str) -> Record:
    """The record of a line; HalutError where it is damaged or of a newer schema."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise HalutError(f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise HalutError(f"a record is an object, not {content!r:.40}")
    if (schema := content.get("schema")) != SCHEMA:
        raise HalutError(f"schema {schema!r}, of another version of halut; this one reads {SCHEMA}")
    names = {each.name for each in fields(Record)}
    try:
        known = {name: content[name] for name in names if name in content}
        return Record(**{**known, "not_finite": tuple(known.get("not_finite", ()))})
    except (TypeError, AttributeError) as error:
        raise HalutError(f"a damaged record: {error}") from error
