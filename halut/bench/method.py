"""Benchmark method: one implementation of a case's operation, verified before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from halut.errors import HalutError


class WrongAnswer(HalutError):
    """A method does not answer what its reference does: it must not be timed."""


@dataclass
class Method:
    """`run` is timed. `answer` (the same if None) must be `reference` within `tolerance`.

    The error is |answer - reference| / |reference| in the 2-norm; tolerance 0 asks for equal bits.
    `reference` None: this method is the reference itself. `notes` go into its results.
    """

    name: str
    run: Callable[[], Any]
    reference: Tensor | None = None
    tolerance: float = 0.0
    answer: Callable[[], Tensor] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def check(self, case: str) -> float | None:
        """The error; raises WrongAnswer where it is above the tolerance or not a number."""
        if self.reference is None:
            return None
        output = (self.answer or self.run)().detach()
        expected = self.reference.detach()
        if output.shape != expected.shape:
            raise WrongAnswer(
                f"{case}: {self.name} answers {list(output.shape)}, not {list(expected.shape)}"
            )
        if self.tolerance == 0 and torch.equal(output, expected):
            return 0.0
        error = relative_error(output, expected)
        if not (error <= self.tolerance and self.tolerance > 0):
            raise WrongAnswer(
                f"{case}: {self.name} is wrong: its error is {error:.3g}, allowed are "
                f"{self.tolerance:g}; it was not timed"
            )
        return error


def relative_error(output: Tensor, expected: Tensor) -> float:
    """|output - expected| / |expected| in the 2-norm."""
    expected = expected.double()
    return float((output.double() - expected).norm() / expected.norm().clamp_min(1e-30))
