"""Calibration rows: what the sites of a network see, sampled by hooks under a memory bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halut.errors import HalutError
from halut.geometry import pad
from halut.modes import evaluating
from halut.sites import Site


class Reservoir:
    """A uniform sample of at most `capacity` rows of a stream (Vitter 1985, algorithm R).

    Every row offered has the same chance to be held at the end, whatever its batch.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.seen = 0
        self.rows: Tensor | None = None
        self.generator = torch.Generator().manual_seed(seed)

    def places(self, count: int) -> Tensor:
        """Where the next `count` rows of the stream go, [count]; -1: nowhere."""
        index = torch.arange(self.seen, self.seen + count)
        drawn = (
            torch.rand(count, generator=self.generator, dtype=torch.float64) * (index + 1)
        ).long()
        places = torch.where(index < self.capacity, index, drawn)
        self.seen += count
        return torch.where(places < self.capacity, places, -1)

    def add(self, rows: Tensor, places: Tensor) -> None:
        """Store rows [R, D] at places [R]; of two rows for one place the later stays."""
        if self.rows is None:
            self.rows = rows.new_empty(self.capacity, rows.shape[1])
        last: dict[int, int] = {int(place): i for i, place in enumerate(places)}
        keep = torch.tensor(list(last.values()), dtype=torch.long)
        self.rows[torch.tensor(list(last), dtype=torch.long)] = rows[keep]

    def held(self) -> Tensor:
        """The rows held, [min(seen, capacity), D], in random order."""
        if self.rows is None:
            return torch.empty(0, 0)
        count = min(self.seen, self.capacity)
        order = torch.randperm(count, generator=self.generator)
        return self.rows[:count][order]


def patch_rows(x: Tensor, site: Site, index: Tensor) -> Tensor:
    """Rows `index` [R] of the site's product for input x, [R, groups * D].

    Rows of a convolution are its im2col rows in the order (image, y, x), channel-major; only the
    asked ones are built.
    """
    g = site.geometry
    if g is None:
        return x.reshape(-1, site.groups * site.D)[index]
    padded = pad(x, g)
    height, width = g.output_size(x.shape[2], x.shape[3])
    image = index // (height * width)
    top = index // width % height * g.stride[0]
    left = index % width * g.stride[1]
    i = torch.arange(g.kernel[0], device=x.device) * g.dilation[0]
    j = torch.arange(g.kernel[1], device=x.device) * g.dilation[1]
    patches = padded[
        image[:, None, None], :, (top[:, None] + i)[:, :, None], (left[:, None] + j)[:, None, :]
    ]  # [R, kh, kw, C_in]
    return patches.permute(0, 3, 1, 2).flatten(1)


def row_count(x: Tensor, site: Site) -> int:
    """Rows the site's product has for input x."""
    if site.geometry is None:
        return x.numel() // (site.groups * site.D)
    height, width = site.geometry.output_size(x.shape[2], x.shape[3])
    return x.shape[0] * height * width


@torch.no_grad()
def capture(
    network: nn.Module,
    sites: Sequence[Site],
    batches: Iterable[Any],
    rows: int = 65_536,
    memory: int = 2 << 30,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Rows [R <= rows, groups * D] float32 of every site's input, on the CPU.

    `batches` yields (images, labels) or images; give them shuffled and class-balanced, in full:
    the sample is uniform over all of them. The network runs in evaluation mode, so that running
    statistics neither move nor depend on the batch, and is left in the modes it had. All
    reservoirs together stay within `memory` bytes: each site holds fewer rows if they do not fit.
    Raises HalutError naming the site if an activation is NaN or infinite.
    """
    share = memory // max(len(sites), 1)
    reservoirs = {
        s.name: Reservoir(max(1, min(rows, share // (4 * s.D * s.groups))), seed) for s in sites
    }
    handles = [
        network.get_submodule(s.name).register_forward_pre_hook(_hook(s, reservoirs[s.name]))
        for s in sites
    ]
    with evaluating(network, handles) as device:
        for batch in batches:
            network((batch[0] if isinstance(batch, tuple | list) else batch).to(device))
            if progress is not None:
                progress(1)
    for site in sites:
        if reservoirs[site.name].seen == 0:
            raise HalutError(f"{site.name} saw no calibration rows: no batches, or never called")
    return {name: reservoir.held() for name, reservoir in reservoirs.items()}


def _hook(site: Site, reservoir: Reservoir) -> Any:
    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = (inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1)).detach()
        if not bool(torch.isfinite(x).all()):
            raise HalutError(f"{site.name}: the captured activations hold NaN or infinite values")
        places = reservoir.places(row_count(x, site))
        taken = torch.nonzero(places >= 0).flatten()
        if taken.numel():
            found = patch_rows(x, site, taken.to(x.device)).float().cpu()
            reservoir.add(found, places[taken])

    return note


def expected_memory(sites: Sequence[Site], rows: int) -> int:
    """Bytes that `rows` rows of every site take."""
    return sum(4 * rows * s.D * s.groups for s in sites)


def unfolded(x: Tensor, site: Site) -> Tensor:
    """All rows of a site's input by torch's own unfold: the slow, obvious form of patch_rows."""
    g = site.geometry
    if g is None:
        return x.reshape(-1, site.D)
    columns = F.unfold(pad(x, g), g.kernel, g.dilation, 0, g.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])
