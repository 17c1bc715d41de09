"""One measurement, with everything that identifies it."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from halut.errors import HalutError
from halut.option import unknown

SCHEMA = 1
DIGEST_LENGTH = 16
"""Digits of the digests of weights and data, and of keys."""
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By schema: what makes of a record of that schema, as JSON has it, one of the next."""
KINDS = ("sensitivity", "convergence", "plan", "cost", "latency", "run")
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

    Mappings are kept as JSON has them: tuples as lists, keys as text, numbers that are not finite
    as None. Raises HalutError for an unknown kind or score and for what JSON has no word for.

    >>> record = Record(
    ...     "sensitivity",
    ...     {"model": "resnet8", "options": {}, "weights": "5f70bf18a086"},
    ...     {"name": "digits", "split": "val", "samples": 270, "digest": "2c26b46b68ff"},
    ...     {"lost": 0.4, "normalized_mse": 0.02},
    ...     site="stack3.conv2",
    ...     operator="tree",
    ...     options={"C": 16, "K": 16},
    ... )
    >>> record.figures["lost"]
    0.4
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
        object.__setattr__(self, "not_finite", (*self.not_finite, *bad))
        for name in MAPPINGS:
            object.__setattr__(self, name, _plain(getattr(self, name), name))

    @cached_property
    def key(self) -> str:
        """A hash of what identifies the measurement: equal for one that was made again."""
        identity = {name: getattr(self, name) for name in IDENTITY}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[
            :DIGEST_LENGTH
        ]

    def line(self) -> str:
        """JSON on one line."""
        return json.dumps({"schema": SCHEMA, "key": self.key, **asdict(self)}, allow_nan=False)


IDENTITY = (
    *("kind", "network", "data", "site", "operator", "options", "seed", "calibration"),
    *("score", "settings"),
)
"""Fields of Record that identify it."""


MAPPINGS = ("network", "data", "figures", "options", "settings", "detail", "context")

PLAIN = (str, int, bool, type(None))
"""Types of values that JSON has as they are."""


def parse(line: str | bytes) -> Record:
    """The record of a line.

    HalutError where it is damaged, of a newer schema, or of an older one that nothing migrates.
    """
    try:
        content = json.loads(line if isinstance(line, str) else line.decode())
    except (ValueError, RecursionError) as error:
        raise HalutError(f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise HalutError(f"a record is an object, not {content!r:.40}")
    content, schema = migrated(content)
    key = content.pop("key", None)
    names = [each.name for each in fields(Record)]
    if more := sorted(content.keys() - {*names, "schema"}):
        raise HalutError(f"a damaged record: unknown field {more[0]!r}")
    _check_types(content)
    content = {name: content[name] for name in names if name in content}
    try:
        record = Record(**{**content, "not_finite": tuple(content.get("not_finite", ()))})
    except (TypeError, AttributeError, OverflowError) as error:
        raise HalutError(f"a damaged record: {error}") from error
    if schema == SCHEMA and key != record.key:
        raise HalutError(f"a damaged record: its key is {key!r}, and of what it says {record.key}")
    return record


def migrated(content: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A record as this version's schema has it, and the schema that it was written in."""
    source = content.get("schema")
    if not isinstance(source, int) or isinstance(source, bool):
        raise HalutError(f"a damaged record: its schema is {source!r}")
    if source > SCHEMA:
        raise HalutError(f"schema {source}, of a newer version of halut; this one reads {SCHEMA}")
    for schema in range(source, SCHEMA):
        if schema not in MIGRATIONS:
            raise HalutError(f"schema {source}, which nothing brings to schema {SCHEMA}")
        try:
            content = MIGRATIONS[schema](content)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise HalutError(f"a damaged record of schema {source}: {error!r}") from error
    return content, source


def timestamp(seconds: float) -> str:
    """A time in seconds since 1970 as records have it: ISO 8601 in UTC, with milliseconds."""
    time = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return time.isoformat(timespec="milliseconds")


def _check_types(content: Mapping[str, Any]) -> None:
    for name in ("kind", "network", "data", "figures"):
        if name not in content:
            raise HalutError(f"a damaged record: no {name}")
    for name, value in content.items():
        if name in MAPPINGS:
            fits = isinstance(value, dict)
        elif name == "not_finite":
            fits = isinstance(value, list)
        elif name in ("seed", "calibration"):
            fits = (value is None and name != "seed") or isinstance(value, int)
        else:
            fits = name == "schema" or value is None or isinstance(value, str)
        if not fits:
            raise HalutError(f"a damaged record: {name} is {value!r:.40}")
    for name, value in content["figures"].items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise HalutError(f"a damaged record: the figure {name} is {value!r:.40}")


def _plain(value: Any, path: str) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {
            str(key): each if type(each) in PLAIN else _plain(each, f"{path}.{key}")
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(each, path) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise HalutError(f"{path} of a record is {type(value).__name__}: numbers and text are kept")
