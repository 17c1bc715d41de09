"""The part of a network's run in front of one layer, kept so that it is not computed again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from halut.sites.calls import Call, tensors_of
from halut.sites.usage import Forward, forwards, same

Path = tuple[int, ...]
"""A call's place: among the calls that the network makes, then among those that this one makes."""


@dataclass
class Answers:
    """Answers of the modules that one batch had completed when the layer was called first.

    `outputs` by place; `versions` of their tensors, which tell whether one was changed in place.
    """

    batch: Call
    outputs: dict[Path, Any] = field(default_factory=dict)
    versions: dict[Path, list[int]] = field(default_factory=dict)

    def keep(self, path: Path, output: Any, children: list[Path]) -> None:
        """The answer of a call that is completed, in place of those that it called."""
        for child in children:
            self.outputs.pop(child, None)
        self.outputs[path] = output
        self.versions[path] = [t._version for t in tensors_of(output)]

    def drop_changed(self) -> None:
        """Forget what was changed in place later on: it is computed again instead."""
        for path, output in list(self.outputs.items()):
            if [t._version for t in tensors_of(output)] != self.versions[path]:
                del self.outputs[path]

    @property
    def bytes(self) -> int:
        """What the answers take; tensors that share a storage count once."""
        tensors = [t for output in self.outputs.values() for t in tensors_of(output)]
        return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


class Prefix:
    """Runs a network whose layer `name` is replaced by one module after the other.

    In the first run on a batch, answers of the modules that are completed before the layer is
    called are kept; in later runs on that batch these modules answer without computing. Modules in
    which the layer lies, and what code around modules does, run as ever. Held are at most `memory`
    bytes; further batches run in full, as do those that come in another order, and all of them
    unless `verify` has found that the network answers like this as it does as a whole.

    The network must be in evaluation mode and without gradients, and only the layer may change.
    """

    def __init__(self, network: nn.Module, name: str, memory: int = 2 << 30) -> None:
        self.network, self.name, self.memory = network, name, memory
        self.batches: dict[int, Answers] = {}
        self.size = 0
        self.verified: bool | None = None

    def verify(self, batch: Call) -> bool:
        """Whether the network answers the batch as it does as a whole."""
        first = _Replay(Answers(batch), self.name, recording=True)
        output = self._call(batch, first)
        first.answers.drop_changed()
        again = self._call(batch, _Replay(first.answers, self.name))
        self.verified = same(again, output, 1e-6)
        return self.verified

    def run(self, index: int, batch: Call) -> Any:
        """The network's answer to batch number `index`."""
        answers = self.batches.get(index)
        if answers is not None and answers.batch.equals(batch):
            return self._call(batch, _Replay(answers, self.name))
        if not self.verified or answers is not None or self.size >= self.memory:
            return batch(self.network)
        first = _Replay(Answers(batch), self.name, recording=True)
        output = self._call(batch, first)
        first.answers.drop_changed()
        if self.size + first.answers.bytes <= self.memory:
            self.batches[index] = first.answers
            self.size += first.answers.bytes
        return output

    def _call(self, batch: Call, replay: _Replay) -> Any:
        inside = f"{self.name}."
        modules = {
            name: module
            for name, module in self.network.named_modules()
            if name and not name.startswith(inside)
        }
        with forwards(modules, replay.wrap):
            return batch(self.network)


class _Replay:
    """One run of the network, in which calls in front of the layer are kept or answered."""

    def __init__(self, answers: Answers, name: str, recording: bool = False) -> None:
        self.answers, self.name, self.recording = answers, name, recording
        self.reached = False
        self.open: list[tuple[Path, list[Path]]] = [((), [])]  # calls, with those they have made
        self.counts = [0]

    def wrap(self, name: str, forward: Forward) -> Forward:
        """For `forwards`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if name == self.name:
                self.reached = True
            if self.reached:
                return forward(*args, **kwargs)
            path = (*self.open[-1][0], self.counts[-1])
            self.counts[-1] += 1
            if not self.recording and path in self.answers.outputs:
                return self.answers.outputs[path]
            children: list[Path] = []
            self.open.append((path, children))
            self.counts.append(0)
            try:
                output = forward(*args, **kwargs)
            finally:
                self.open.pop()
                self.counts.pop()
            if self.recording and not self.reached:
                self.answers.keep(path, output, children)
                self.open[-1][1].append(path)
            return output

        return run
