"""Layers that were learned alone, kept as files for whoever learns the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import Tensor, nn

from halut import __version__
from halut.models.weights import load_weights, save_weights
from halut.replace import swap
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry


class LearnedLayers:
    """A folder of layers under hashes of all that decides them: the exact layer's tensors, the
    operator with its options, the rows that it is learned from, the seed, and the version.

    Args:
        folder: where they are kept; it need not be there.
        salt: what else decides them, as digests of plugins.
    """

    def __init__(self, folder: Path, salt: str = "") -> None:
        self.folder, self.salt = Path(folder), salt
        self._digests: dict[int, tuple[Tensor, str]] = {}

    def place(self, network: nn.Module, entry: Entry, rows: Tensor, seed: int) -> Path:
        """The file of the layer that `entry` makes of its site in the exact network."""
        content = {
            "version": __version__,
            "salt": self.salt,
            "site": {**entry.site.to_dict(), "name": None},
            "exact": swap.digest(network.get_submodule(entry.site.name)),
            "operator": entry.operator,
            "options": entry.options,
            "rows": self._digest(rows),
            "seed": seed,
        }
        text = json.dumps(content, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def keep(self, place: Path, layer: ReplacedLayer) -> None:
        """Write a learned layer."""
        save_weights(place, layer.state_dict(), {})

    def learned(self, network: nn.Module, entry: Entry, rows: Tensor, seed: int) -> ReplacedLayer:
        """The layer, from its file or learned now; it is not put into the network."""
        layer, place = swap.build(network, entry), self.place(network, entry, rows, seed)
        if place.is_file():
            load_weights(layer, place)
        else:
            layer.calibrate(rows, seed=seed)
            self.keep(place, layer)
        return layer

    def _digest(self, rows: Tensor) -> str:
        """Of rows, of which each site's are asked for again and again."""
        known = self._digests.get(id(rows))
        if known is None or known[0] is not rows:
            known = rows, swap.state_digest({"rows": rows})
            self._digests[id(rows)] = known
        return known[1]
