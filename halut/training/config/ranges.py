"""Refusals of values that no schema can refuse."""

from __future__ import annotations

from halut.errors import HalutError
from halut.option import unknown


def choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise HalutError unless `value` is one of `choices`."""
    if value not in choices:
        raise HalutError(unknown(name, value, choices))


def between(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise HalutError unless low <= value <= high."""
    if not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"in {low}..{high}"
        raise HalutError(f"{name} must be {bounds}, got {value}")
