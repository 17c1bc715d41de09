"""Networks of integer operations alone: bytes between all steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.export.packed.operations import Operation, Parts
from halut.inference.onednn import Grid


@dataclass(frozen=True)
class Value:
    """Bytes between two steps: their name, grid, and shape without the batch."""

    name: str
    grid: Grid
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """An operation, what it reads (a residual branch last, if there is one) and what it answers."""

    operation: Operation
    inputs: tuple[Value, ...]
    output: Value

    @property
    def name(self) -> str:
        """The name of the layer, or of the line of code."""
        return self.output.name


class IntegerNetwork(nn.Module):
    """float32 -> float32: the input becomes bytes, the bytes of the last step become numbers.

    Every sample must have the shape of the calibration's: windows have their padding in pixels.
    """

    def __init__(self, source: Value, steps: list[Step]) -> None:
        super().__init__()
        self.source, self.steps = source, steps

    @property
    def answer(self) -> Value:
        """What the last step answers."""
        return self.steps[-1].output

    def forward(self, x: Tensor) -> Tensor:
        """The numbers of the answer's bytes."""
        return self.answer.grid.dequantize(self.bytes(self.source.grid.quantize(x)))

    def bytes(self, x: Tensor) -> Tensor:
        """uint8 [B, ...] -> uint8 [B, ...]."""
        output = x
        for _, parts in self._run(x):
            output = parts["output"]
        return output

    def trace(self, x: Tensor) -> dict[str, Parts]:
        """What every step answers to the bytes x, by its name: codes, sums and output."""
        return {step.name: parts for step, parts in self._run(x)}

    def _run(self, x: Tensor) -> Iterator[tuple[Step, Parts]]:
        if x.dtype != torch.uint8 or x.shape[1:] != self.source.shape:
            shape = ", ".join(map(str, self.source.shape))
            raise HalutError(
                f"the integer network takes uint8 [B, {shape}], got {x.dtype} {list(x.shape)}"
            )
        values = {self.source.name: x}
        for step in self.steps:
            parts = step.operation.parts(*(values[value.name] for value in step.inputs))
            values[step.name] = parts["output"]
            yield step, parts
