"""Parameters of a space, in the words of sweeps: `halut.V=4,8 if halut=tree,pq`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from halut.errors import HalutError

Value = str | int | float
SUBSET = "subset("


@dataclass(frozen=True)
class Choices:
    """One of these texts of values, without order."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """Numbers from `low` to `high`, both included: multiples of `step` above low, or, without one,
    all that lie between; of the logarithm, if `log`."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def values(self) -> list[Value] | None:
        """All of them, by size; None if there are infinitely many."""
        if self.whole and self.step is None:
            return list(range(int(self.low), int(self.high) + 1))
        if self.step is None:
            return None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        values = [self.low + index * self.step for index in range(count)]
        return [int(value) if self.whole else float(f"{value:.10g}") for value in values]


@dataclass(frozen=True)
class Parameter:
    """One thing that a sampler chooses.

    `keys` get its value: several share it. `when` has the values of other parameters with which
    it is there. With `element`, whether the key's list has it: such a parameter is true or false.
    """

    name: str
    keys: tuple[str, ...]
    domain: Choices | Numbers
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    element: str | None = None

    def active(self, values: Mapping[str, Value]) -> bool:
        """Whether it is there, by the values of those before it."""
        return all(name in values and str(values[name]) in own for name, own in self.when.items())


def parameters_of(key: str, text: Any) -> list[Parameter]:
    """The parameters of KEY: VALUES [if KEY=A,B [and KEY=C]]; none if VALUES is one value.

    KEY may be several, joined by +, which share their value; + or ++ in front adds keys. VALUES are
    those of sweeps: A,B; range(START,STOP,STEP); interval(LOW,HIGH), tag(log, ...), int(...); or
    subset(A,B), lists of any of these. Raises HalutError for what is none of them.

    >>> parameters_of("optim.lr.table+optim.lr.rest", "1e-3,1e-2")[0].keys
    ('optim.lr.table', 'optim.lr.rest')
    >>> parameters_of("halut.V", "4,8 if halut=tree,pq")[0].when
    {'halut': ('tree', 'pq')}
    """
    words, _, condition = text_of(text).partition(" if ")
    bare = key.lstrip("+")
    sign = key[: len(key) - len(bare)]
    names = bare.split("+")
    keys = tuple(sign + name for name in names)
    when = _when(condition, key)
    if words.strip().startswith(SUBSET):
        if len(keys) > 1:
            raise HalutError(f"{key}: a subset has one key")
        elements = _choices(_parsed(names[0], words.strip()[len(SUBSET) - 1 :][1:-1]))
        return [
            Parameter(f"{names[0]}:{each}", keys, Choices(("false", "true")), when, each)
            for each in elements
        ]
    override = _parsed(names[0], words)
    if "glob(" in words:
        raise HalutError(f"{key}={words}: write the names of the choices, not a glob")
    if not override.is_sweep_override():
        if condition:
            raise HalutError(f"{key}={text}: one value, so that there is nothing to search")
        return []
    return [Parameter("+".join(names), keys, _domain(override), when)]


def text_of(values: Any) -> str:
    """Values of a YAML file, a list of them perhaps, in the words of overrides."""
    if isinstance(values, list | tuple):
        inner = [
            f"[{text_of(each)}]" if isinstance(each, list) else text_of(each) for each in values
        ]
        return ",".join(inner)
    if isinstance(values, bool):
        return str(values).lower()
    return "null" if values is None else str(values)


def _parsed(key: str, words: str) -> Override:
    try:
        return OverridesParser.create().parse_override(f"{key}={words}")
    except HydraException as error:
        line = str(error).splitlines()[0]
        raise HalutError(f"{key}={words} cannot be read: {line}") from error


def _choices(override: Override) -> tuple[str, ...]:
    if not override.is_sweep_override():
        return (str(override.get_value_element_as_str()),)
    return tuple(dict.fromkeys(override.sweep_string_iterator()))


def _domain(override: Override) -> Choices | Numbers:
    sweep: Any = override.value()
    tags = {str(tag) for tag in getattr(sweep, "tags", ())}
    if unknown := tags - {"log"}:
        raise HalutError(f"{override.input_line}: unknown tag {sorted(unknown)[0]}; choose log")
    if isinstance(sweep, IntervalSweep):
        ends = [sweep.start or 0, sweep.end or 0]
        whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
        numbers = Numbers(ends[0], ends[1], log="log" in tags, whole=whole)
    elif isinstance(sweep, RangeSweep):
        start, stop, step = (float(each or 0) for each in (sweep.start, sweep.stop, sweep.step))
        whole = all(each.is_integer() for each in (start, step))
        last = start + step * (max(0, -(-(stop - start) // step)) - 1)
        numbers = Numbers(start, last, step, "log" in tags, whole)
    else:
        return Choices(_choices(override))
    if not math.isfinite(numbers.low) or not math.isfinite(numbers.high):
        raise HalutError(f"{override.input_line}: its ends have to be finite")
    if not numbers.low < numbers.high:
        raise HalutError(f"{override.input_line}: there is nothing to search between its ends")
    if numbers.log and (numbers.low <= 0 or numbers.step is not None):
        raise HalutError(f"{override.input_line}: tag log wants an interval above 0")
    return numbers


def _when(condition: str, key: str) -> dict[str, tuple[str, ...]]:
    when: dict[str, tuple[str, ...]] = {}
    for part in condition.split(" and ") if condition.strip() else ():
        name, equals, values = part.strip().partition("=")
        if not equals:
            raise HalutError(f"{key}: write VALUES if KEY=A,B, not if {condition}")
        when[name] = _choices(_parsed("x", values))
    return when
