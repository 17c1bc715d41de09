"""Nodes of a model in the place of modules, while torch.onnx traces the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from onnx import FunctionProto
from torch import Tensor, nn

from halut.export.onnx.body import VERSION


class Function(Protocol):
    """What a node of a domain other than ONNX's own stands for."""

    @property
    def domain(self) -> str:
        """Of its name."""

    @property
    def name(self) -> str:
        """One body, one name."""

    def proto(self, opset: int) -> FunctionProto:
        """Its body by standard operators of that opset."""


class Nodes(nn.Module):
    """A module that answers by nodes: shapes alone, no values.

    `functions` are those that its nodes name.
    """

    functions: tuple[Function, ...] = ()


def function_node(
    function: Function,
    inputs: Sequence[Tensor],
    shape: Sequence[Any],
    attributes: Mapping[str, Any] | None = None,
) -> Tensor:
    """A node of a function, float32 [*shape]."""
    return _node(f"{function.domain}::{function.name}", inputs, shape, attributes, VERSION)


def standard_node(
    operator: str,
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    attributes: Mapping[str, Any] | None = None,
) -> Tensor:
    """A node of a standard operator that torch has no operator for, of its first input's shape."""
    return _node(f"::{operator}", inputs, inputs[0].shape, attributes, None, dtype)


def _node(
    name: str,
    inputs: Sequence[Tensor],
    shape: Sequence[Any],
    attributes: Mapping[str, Any] | None,
    version: int | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    return torch.onnx.ops.symbolic(
        name, inputs, dict(attributes or {}), dtype=dtype, shape=shape, version=version
    )
