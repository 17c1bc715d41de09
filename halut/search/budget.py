"""Budgets: what may be spent of which resource, in words as `bytes:120000`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from halut.errors import HalutError
from halut.option import unknown

RESOURCES = {
    "bytes": "bytes of the whole network",
    "table_bytes": "bytes of look-up tables",
    "operations": "operations of a sample",
    "bops": "bit operations of a sample",
    "energy": "joules of a sample, by a table of energies",
    "latency": "seconds of a batch, measured on this machine (300u: 300 microseconds)",
}
"""What a plan costs, by name, in words."""
LATENCY = "latency"
COUNTED = tuple(name for name in RESOURCES if name != LATENCY)
"""Those that are counted (halut.analysis.plan_cost), and not measured."""
LOST = "lost"
"""The budget in points of accuracy: `minimize` is then what is made as small as it can be."""
SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True)
class Budget:
    """At most `limits[r]` of each resource r; or at most so many points lost."""

    limits: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        """A name for files: bytes_120000."""
        return "_".join(f"{resource}_{limit:.10g}" for resource, limit in self.limits)

    @property
    def lost(self) -> float | None:
        """The points that may be lost, if that is the budget."""
        return dict(self.limits).get(LOST)

    def __str__(self) -> str:
        return ", ".join(f"{resource} <= {limit:,.10g}" for resource, limit in self.limits)


def budgets_of(text: str) -> list[Budget]:
    """The budgets of RESOURCE:LIMIT,LIMIT...; several resources joined by + are one budget.

    Limits take the suffixes k, M, G, m, u and n. Raises HalutError for what is none.

    >>> [budget.name for budget in budgets_of("bytes:60k,120k")]
    ['bytes_60000', 'bytes_120000']
    >>> str(budgets_of("bytes:60k+bops:1G")[0])
    'bytes <= 60,000, bops <= 1,000,000,000'
    """
    names = [*RESOURCES, LOST]
    parts = []
    for part in text.split("+"):
        resource, colon, values = part.strip().partition(":")
        if not colon:
            raise HalutError(f"budget={text}: write RESOURCE:LIMIT; resources: {', '.join(names)}")
        if resource not in names:
            raise HalutError(f"budget={text}: {unknown('resource', resource, names)}")
        parts.append((resource, [_number(value, text) for value in values.split(",")]))
    if len({resource for resource, _ in parts}) < len(parts):
        raise HalutError(f"budget={text}: a resource stands there twice")
    if len(parts) == 1:
        resource, numbers = parts[0]
        return [Budget(((resource, number),)) for number in dict.fromkeys(numbers)]
    if any(len(values) > 1 for _, values in parts):
        raise HalutError(f"budget={text}: of several resources each has one limit")
    if any(resource == LOST for resource, _ in parts):
        raise HalutError(f"budget={text}: lost stands alone; minimize= says what is to be small")
    return [Budget(tuple((resource, values[0]) for resource, values in parts))]


def _number(word: str, text: str) -> float:
    word = word.strip()
    factor = SUFFIXES.get(word[-1:], 1.0)
    try:
        value = float(word[:-1] if word[-1:] in SUFFIXES else word) * factor
    except ValueError as error:
        raise HalutError(
            f"budget={text}: {word!r} is no number (suffixes: {', '.join(SUFFIXES)})"
        ) from error
    if not math.isfinite(value) or value <= 0:
        raise HalutError(f"budget={text}: a limit is above 0, got {word}")
    return value
