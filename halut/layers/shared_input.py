"""Code cache of layers that share one encoder and its input.

The first layer called with an input encodes it; the others find the codes. In training they find
the node of halut.layers.shared_product with them, through which the encoder gets its gradient once.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from halut.encoders import Encoder
from halut.layers.shared_product import SharedCodes, encode
from halut.ops import ConvGeometry


@dataclass(frozen=True, eq=False)
class Reading:
    """How a layer reads its input: rows, or a map with its geometry, in the encoder's unit.

    ste_mix is the share of the relaxed codes in the gradient, None where codes alone are asked.
    """

    encoder: Encoder
    tau: Tensor
    rows: Tensor
    geometry: ConvGeometry | None
    ste_mix: float | None

    def state(self) -> list[Tensor]:
        """Tensors that codes and their gradient depend on."""
        return [self.tau, *self.encoder.parameters(), *self.encoder.buffers()]

    def encoded(self) -> SharedCodes:
        """The codes, with the node that leads to the encoder."""
        if self.ste_mix is not None:
            return encode(self.encoder, self.rows, self.geometry, self.tau, self.ste_mix)
        codes = self.encoder.codes(self.rows.detach(), self.geometry)
        return SharedCodes(codes, self.rows.new_zeros(()), {})


class SharedInput:
    """The codes of the last input of a group of layers with one encoder; each of them holds it.

    They are for the very same tensor, unchanged since (`_version`), under the same encoder, tau and
    modes (gradients, autocast, checkpoint): anything else is encoded anew. They are dropped when
    every layer has taken them or the input is gone; the input itself, and what autograd holds, is
    not kept alive by them. No part of the state: copies of a network begin with none.
    """

    def __init__(self) -> None:
        self.members: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._last: _Remembered | None = None

    def __reduce__(self) -> tuple[type[SharedInput], tuple[()]]:
        return SharedInput, ()  # the copied layers join it (LUTLayer.__setstate__)

    def join(self, layer: nn.Module) -> None:
        """Let `layer` find what the others have encoded."""
        self.members.add(layer)
        self.forget()

    def forget(self) -> None:
        """Drop the codes, for changes that tensors do not count: those of their `data`."""
        self._last = None

    def encoded(self, layer: nn.Module, x: Tensor, read: Reading) -> SharedCodes | None:
        """The codes of x, encoded for `layer`, a member, or before for another one.

        None if it has to encode by itself: nobody shares with it, or nothing may be remembered.
        """
        readers = [one for one in self.members if one.readers is self]
        if len(readers) < 2 or layer not in self.members or not _countable(x, read):
            return None
        key = _key(x, read)
        last = self._last  # another thread may put its own there
        codes = last.encoded(x, key) if last is not None else None
        if last is None or codes is None:
            codes = read.encoded()
            last = _Remembered(x, key, codes, weakref.ref(self))
            self._last = last
        last.readers_seen.add(layer)
        if self._last is last and all(one in last.readers_seen for one in readers):
            self._last = None
        return codes


class _Remembered:
    """Codes, weakly tied to their input and to the node of the graph they were found in."""

    def __init__(
        self, x: Tensor, key: _Key, encoded: SharedCodes, owner: weakref.ref[SharedInput]
    ) -> None:
        def gone(_: Any) -> None:
            shared = owner()
            if shared is not None and shared._last is not None and shared._last.x is reference:
                shared.forget()

        self.x = reference = weakref.ref(x, gone)
        self.key, self.codes, self.parts = key, encoded.values, encoded.parts
        self.keeps_layout = encoded.keeps_layout
        # A node holds the input and all before it: the products made of it keep it, not we.
        graph = encoded.node.requires_grad
        self.node = weakref.ref(encoded.node) if graph else (lambda node=encoded.node: node)
        self.readers_seen: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def encoded(self, x: Tensor, key: _Key) -> SharedCodes | None:
        node = self.node()
        if self.x() is not x or not self.key.same(key) or node is None:
            return None
        return SharedCodes(self.codes, node, self.parts, self.keeps_layout)


@dataclass(eq=False)
class _Key:
    """All that codes and their gradient depend on beside x itself.

    Tensors are held, so that no other takes their identity, and told by identity and version.
    """

    tensors: list[Tensor]
    versions: list[int]
    modes: tuple[Any, ...]
    hook: weakref.ref[Any] | None

    def same(self, other: _Key) -> bool:
        ours, theirs = (key.hook() if key.hook is not None else None for key in (self, other))
        return (
            self.modes == other.modes
            and self.versions == other.versions
            and (self.hook is None) == (other.hook is None)
            and ours is theirs
            and all(a is b for a, b in zip(self.tensors, other.tensors, strict=True))
        )


def _key(x: Tensor, read: Reading) -> _Key:
    tensors = read.state()
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    modes = (
        read.geometry,
        read.ste_mix,
        torch.is_grad_enabled(),
        autocast and torch.get_autocast_dtype(device),
    )
    # What is saved within a checkpoint must be saved again when it is recomputed: in there codes
    # from outside do not count, nor do those from there outside.
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    hook = weakref.ref(hooks[0]) if hooks is not None else None
    return _Key(tensors, [x._version, *(one._version for one in tensors)], modes, hook)


def _countable(x: Tensor, read: Reading) -> bool:
    """True if changes of x and the encoder can be told, and nothing traces or transforms them."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch._C._functorch.peek_interpreter_stack() is None
        and type(x) in (Tensor, nn.Parameter)
        and not any(one.is_inference() for one in (x, *read.state()))  # they have no version
    )
