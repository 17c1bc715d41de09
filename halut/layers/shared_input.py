"""What layers with one encoder remember of the input they read: its codes, until all have them.

The first layer called with an input encodes it; the others find the codes. In training they find
the node of halut.layers.shared_product with them, through which the encoder gets its gradient once.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from halut.layers.shared_product import Encoded, Parts, encode

if TYPE_CHECKING:
    from halut.layers.base import LUTLayer


class SharedInput:
    """The codes of the last input of a group of layers; it hangs at their encoder.

    They are for the very same tensor, unchanged since (`_version`), under the same encoder, tau and
    modes (gradients, autocast, checkpoint): anything else is encoded anew. They are dropped when
    every layer has taken them or the input is gone; the input itself, and what autograd holds, is
    not kept alive by them. No part of the state: copies of a network begin with none.
    """

    def __init__(self) -> None:
        self.members: weakref.WeakSet[LUTLayer] = weakref.WeakSet()
        self._last: _Remembered | None = None

    def __reduce__(self) -> tuple[type[SharedInput], tuple[()]]:
        return SharedInput, ()  # the copied layers join it (LUTLayer.__setstate__)

    def join(self, layer: LUTLayer) -> None:
        """Let `layer` find what the others have encoded."""
        self.members.add(layer)
        self.forget()

    def forget(self) -> None:
        """Drop the codes, for changes that tensors do not count: those of their `data`."""
        self._last = None

    def encoded(self, layer: LUTLayer, x: Tensor, relax: float | None) -> Encoded | None:
        """x as `layer` reads it, encoded by it or by another member; relax None: codes alone.

        None if it has to encode by itself: nobody shares with it, or nothing may be remembered.
        """
        readers = [one for one in self.members if one.encoder.shared is self]
        if len(readers) < 2 or layer not in self.members or not _countable(layer, x):
            return None
        key = _key(layer, x, relax)
        last = self._last  # another thread may put its own there
        found = last.encoded(x, key) if last is not None else None
        if last is None or found is None:
            found = _encode(layer, x, relax)
            last = _Remembered(x, key, found, weakref.ref(self))
            self._last = last
        last.taken.add(layer)
        if self._last is last and all(one in last.taken for one in readers):
            self._last = None
        return found


class _Remembered:
    """Codes, weakly tied to their input and to the node of the graph they were found in."""

    def __init__(
        self, x: Tensor, key: _Key, encoded: Encoded, owner: weakref.ref[SharedInput]
    ) -> None:
        def gone(_: Any) -> None:
            shared = owner()
            if shared is not None and shared._last is not None and shared._last.x is reference:
                shared.forget()

        self.x = reference = weakref.ref(x, gone)
        self.key, self.codes, self.parts = key, encoded.codes, encoded.parts
        # A node holds the input and all before it: the products made of it keep it, not we.
        graph = encoded.node.requires_grad
        self.node = weakref.ref(encoded.node) if graph else (lambda node=encoded.node: node)
        self.taken: weakref.WeakSet[LUTLayer] = weakref.WeakSet()

    def encoded(self, x: Tensor, key: _Key) -> Encoded | None:
        node = self.node()
        if self.x() is not x or not self.key.same(key) or node is None:
            return None
        return Encoded(self.codes, node, self.parts)


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


def _key(layer: LUTLayer, x: Tensor, relax: float | None) -> _Key:
    tensors = _state(layer)
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    modes = (
        layer.site.geometry,
        relax,
        torch.is_grad_enabled(),
        autocast and torch.get_autocast_dtype(device),
    )
    # What is saved within a checkpoint must be saved again when it is recomputed: in there codes
    # from outside do not count, nor do those from there outside.
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    hook = weakref.ref(hooks[0]) if hooks is not None else None
    return _Key(tensors, [x._version, *(one._version for one in tensors)], modes, hook)


def _state(layer: LUTLayer) -> list[Tensor]:
    return [layer.tau, *layer.encoder.parameters(), *layer.encoder.buffers()]


def _countable(layer: LUTLayer, x: Tensor) -> bool:
    """True if changes of x and the encoder can be told, and nothing traces or transforms them."""
    return (
        not torch.jit.is_tracing()
        and torch._C._functorch.peek_interpreter_stack() is None
        and type(x) in (Tensor, torch.nn.Parameter)
        and not any(one.is_inference() for one in (x, *_state(layer)))  # they have no version
    )


def _encode(layer: LUTLayer, x: Tensor, relax: float | None) -> Encoded:
    rows, geometry = layer.source(x)
    if relax is not None:
        return encode(layer.encoder, rows, geometry, layer.tau, relax)
    parts: Parts = {}
    return Encoded(layer.encoder.codes(rows.detach(), geometry), x.new_zeros(()), parts)
