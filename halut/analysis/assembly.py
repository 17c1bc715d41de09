"""Networks of layers that are each learned alone: any plan of them measured in one evaluation."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from halut.analysis.learned_layers import LearnedLayers
from halut.analysis.sensitivity import evaluate
from halut.analysis.taylor import Loss, cross_entropy
from halut.replace import swap
from halut.replace.recalibrate import recalibrate, running_norms
from halut.sites.calibration import capture
from halut.sites.find import Site
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry


class Assembly:
    """Measures plans of one exact network, without retraining.

    Every layer is learned once, from the exact network's activations (schedule.calibrate=original),
    and kept in host memory; a plan takes the layers of its entries. So a plan whose layers are
    known costs one evaluation.

    Args:
        network: the exact network, which stays as it is.
        sites: all sites that a plan may replace.
        calibration: batches that can be read again and again.
        batches: (inputs, targets) that accuracy and loss are measured on.
        rows: calibration rows of a site.
        memory: bytes of the calibration rows of all sites; where they take more, each has fewer.
        seed: of the sample of rows, and of learning.
        loss: loss of each sample, of the network's output and the targets.
        norms: calibration batches by which the batch norms of a plan's network get their statistics
            again, as after a swap in training; 0: they keep the exact network's.
        learned: files of layers that were learned alone, where these are looked for and kept.
    """

    def __init__(
        self,
        network: nn.Module,
        sites: Sequence[Site],
        calibration: Iterable[Any],
        batches: Iterable[tuple[Tensor, Tensor]],
        rows: int = 16_384,
        memory: int = 2 << 30,
        seed: int = 0,
        loss: Loss = cross_entropy,
        norms: int = 0,
        learned: LearnedLayers | None = None,
    ) -> None:
        self._learned = learned
        self.network, self.batches, self.loss, self.seed = network, batches, loss, seed
        self._rows = capture(network, sites, calibration, rows, memory, seed)
        self._layers: dict[str, ReplacedLayer] = {}
        self.norms = norms if running_norms(network) else 0
        self._norms = list(itertools.islice(calibration, self.norms))
        self.exact = evaluate(network, batches, loss)

    def layers(self, entries: Sequence[Entry]) -> dict[str, ReplacedLayer]:
        """The layers of entries, by site, each learned from the exact network's activations.

        Sites that share an encoder are learned together, in the order of `entries`: the first
        learns the encoder, as in training. HalutError where a layer cannot be learned.
        """
        together: dict[str, list[Entry]] = {}
        for entry in entries:
            together.setdefault(entry.shares or entry.site.name, []).append(entry)
        for group in together.values():
            if any(repr((entry, group)) not in self._layers for entry in group):
                for entry, layer in zip(group, self._learn(group), strict=True):
                    self._layers[repr((entry, group))] = layer.eval()
        return {
            entry.site.name: self._layers[repr((entry, group))]
            for group in together.values()
            for entry in group
        }

    def _learn(self, group: Sequence[Entry]) -> list[ReplacedLayer]:
        """The layers of sites that share an encoder, or of one."""
        rows = [self._rows[entry.site.name] for entry in group]
        if len(group) == 1 and self._learned is not None:
            return [self._learned.learned(self.network, group[0], rows[0], self.seed)]
        network = self._copy()
        return [
            swap.replace_site(network, entry, own, self.seed)
            for entry, own in zip(group, rows, strict=True)
        ]

    def measure(self, entries: Sequence[Entry]) -> dict[str, float]:
        """Of the network with all these sites replaced: accuracy (top-1, percent) and loss (mean);
        lost, the points of accuracy below the exact network, and rise, the loss above it."""
        figures = evaluate(self.assembled(entries), self.batches, self.loss)
        return {
            **figures,
            "lost": self.exact["accuracy"] - figures["accuracy"],
            "rise": figures["loss"] - self.exact["loss"],
        }

    def assembled(self, entries: Sequence[Entry]) -> nn.Module:
        """The network with all these sites replaced, whose tensors are not to be changed."""
        replaced = [entry for entry in entries if entry.replaced]
        layers, network = self.layers(replaced), self._copy()
        for entry in replaced:
            swap.swap(network, entry, layers[entry.site.name])
        if replaced and self._norms:
            recalibrate(network, self._norms)
        return network

    def _copy(self) -> nn.Module:
        """Another network of the same tensors, but for the statistics of its batch norms."""
        own = {id(b) for norm in running_norms(self.network) for b in norm.buffers()}
        shared = (*self.network.parameters(), *self.network.buffers())
        return copy.deepcopy(self.network, {id(p): p for p in shared if id(p) not in own})
