"""Calibration rows of sites, sampled under a memory bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.ops.geometry import pad
from halut.sites.calls import Batches, feed
from halut.sites.eval_mode import eval_mode
from halut.sites.find import Site
from halut.sites.modules import call_inputs
from halut.sites.usage import Forward, forwards


class Reservoir:
    """A uniform sample of at most `capacity` rows of a stream, whoever saw which part of it.

    Every row of the stream has a random key that its place decides (seed, batch, call, row); the
    rows of the least keys are kept (bottom-k sampling: Cohen and Kaplan 2007). Reservoirs of parts
    of a stream thus merge into the very sample one reservoir would have drawn of the whole: a part
    that saw more rows keeps more, in proportion.
    """

    def __init__(self, capacity: int, width: int, seed: int) -> None:
        self.capacity, self.width, self.seed = capacity, width, seed
        self.keys = torch.empty(0, dtype=torch.int64)
        self.rows: Tensor | None = None  # allocated whole; the first len(keys) are the sample

    def propose(self, count: int, batch: int, call: int = 0) -> tuple[Tensor, Tensor]:
        """Which of `count` rows of one call with one batch may be in the sample: index [R], and
        keys [R]."""
        place = np.random.default_rng([self.seed % 2**32, batch, call])
        keys = torch.from_numpy(place.integers(2**63, size=count, dtype=np.uint64).astype(np.int64))
        index = torch.arange(count)
        if len(self.keys) == self.capacity:
            index = torch.nonzero(keys < self.keys.max()).flatten()
        if len(index) > self.capacity:
            index = index[keys[index].topk(self.capacity, largest=False).indices.sort().values]
        return index, keys[index]

    def add(self, rows: Tensor, keys: Tensor) -> None:
        """Take rows [R, width] of the keys [R], as far as they are among the least ones seen."""
        if self.rows is None:
            self.rows = rows.new_empty(self.capacity, self.width)
        size = len(self.keys)
        free = min(self.capacity - size, len(keys))
        self.rows[size : size + free] = rows[:free]
        self.keys = torch.cat([self.keys, keys[:free]])
        rows, keys = rows[free:], keys[free:]
        if not len(keys):
            return
        least = torch.cat([self.keys, keys]).topk(self.capacity, largest=False).indices
        stays = torch.zeros(self.capacity + len(keys), dtype=torch.bool)
        stays[least] = True
        places = torch.nonzero(~stays[: self.capacity]).flatten()
        new = torch.nonzero(stays[self.capacity :]).flatten()
        self.rows[places], self.keys[places] = rows[new], keys[new]

    def sample(self) -> Tensor:
        """The rows of the sample, [min(seen, capacity), width], in random order: by key."""
        if self.rows is None:
            return torch.empty(0, self.width)
        return self.rows[self.keys.argsort()]


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
    i = torch.arange(g.kernel_size[0], device=x.device) * g.dilation[0]
    j = torch.arange(g.kernel_size[1], device=x.device) * g.dilation[1]
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


def capture(
    network: nn.Module,
    sites: Sequence[Site],
    batches: Batches,
    rows: int = 65_536,
    memory: int = 2 << 30,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Rows [R <= rows, groups * D] float32 of every site's input, on the CPU, in random order.

    `batches` yields (inputs, targets, ...), inputs, mappings or halut.Calls, or is a forward loop,
    a function of the network; give them shuffled and class-balanced, in full: the sample is uniform
    over all of them. Errors and memory are those of `reservoirs_of`; raises
    HalutError also if a site saw nothing.
    """
    return sampled_rows(reservoirs_of(network, sites, batches, rows, memory, seed, progress))


def sampled_rows(reservoirs: dict[str, Reservoir]) -> dict[str, Tensor]:
    """The sample of each reservoir, which are given up one by one; HalutError if one is empty."""
    samples = {}
    for name in list(reservoirs):
        samples[name] = _rows_of(name, reservoirs.pop(name))
    return samples


def _rows_of(name: str, reservoir: Reservoir) -> Tensor:
    rows = reservoir.sample()
    if not len(rows):
        raise HalutError(f"{name} saw no calibration rows: no batches, or never called")
    return rows


def reservoirs_of(
    network: nn.Module,
    sites: Sequence[Site],
    batches: Batches,
    rows: int,
    memory: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    shard: tuple[int, int] = (0, 1),
) -> dict[str, Reservoir]:
    """A reservoir of at most `rows` rows of every site's input; see `calibrating`."""
    with calibrating(network, sites, rows, seed, memory=memory, shard=shard) as sampled:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        feed(network, batches, device, progress)
    return sampled.reservoirs


class CalibrationRows(Mapping[str, Tensor]):
    """Rows [R, groups * D] by a site's name, sampled so far; HalutError for one that saw none."""

    def __init__(self, reservoirs: dict[str, Reservoir]) -> None:
        self.reservoirs = reservoirs

    def __getitem__(self, name: str) -> Tensor:
        return _rows_of(name, self.reservoirs[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.reservoirs)

    def __len__(self) -> int:
        return len(self.reservoirs)


@contextmanager
def calibrating(
    network: nn.Module,
    sites: Sequence[Site],
    rows: int = 65_536,
    seed: int = 0,
    *,
    memory: int = 2 << 30,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[CalibrationRows]:
    """Within, every call of the network adds to a sample of at most `rows` rows of every site.

    The network is called by you, with whatever its forward takes; it is in evaluation mode without
    gradients, so that running statistics neither move nor depend on the batch, and is left in the
    modes it had. All samples together stay within `memory` bytes: each site holds fewer rows if
    they do not fit. shard = (r, n): the calls are every n-th of a stream, from its r-th on. Raises
    HalutError naming the site if an activation is NaN or infinite.

    >>> from halut.sites.find import find_sites
    >>> network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> sites, _ = find_sites(network, torch.zeros(1, 4))
    >>> with calibrating(network, sites) as rows:
    ...     _ = network(torch.ones(8, 4))
    >>> rows["2"].shape
    torch.Size([8, 4])
    """
    if not all(isinstance(site, Site) for site in sites):
        raise HalutError(
            "calibrating takes Sites: sites, unsupported = halut.find_sites(network, x)"
        )
    share = memory // max(len(sites), 1)
    reservoirs = {
        s.name: Reservoir(max(1, min(rows, share // (4 * s.D * s.groups))), s.D * s.groups, seed)
        for s in sites
    }
    # Batch and number of the next call. Hooks of the network would switch torch's fused paths off.
    calls: dict[str, tuple[int, int]] = dict.fromkeys(reservoirs, (shard[0], 0))
    number = shard[0] - shard[1]

    def counting(name: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            number += shard[1]
            calls.update(dict.fromkeys(reservoirs, (number, 0)))
            return forward(*args, **kwargs)

        return run

    layers = {s.name: network.get_submodule(s.name) for s in sites}
    notes = {s.name: _noting(s, reservoirs[s.name], calls) for s in sites}
    with (
        eval_mode(network),
        forwards({"": network}, counting),
        forwards(layers, lambda name, run: notes[name](run)),
    ):
        yield CalibrationRows(reservoirs)


def _noting(site: Site, reservoir: Reservoir, calls: dict[str, tuple[int, int]]) -> Any:
    """A forward around another that samples its input, as the layer's own hooks have left it."""

    def note(inputs: tuple[Tensor, ...]) -> None:
        x = (inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1)).detach()
        if not bool(torch.isfinite(x).all()):
            raise HalutError(f"{site.name}: the captured activations hold NaN or infinite values")
        batch, call = calls[site.name]
        calls[site.name] = batch, call + 1
        selected, keys = reservoir.propose(row_count(x, site), batch, call)
        if selected.numel():
            reservoir.add(patch_rows(x, site, selected.to(x.device)).float().cpu(), keys)

    def around(forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            note(call_inputs(args, kwargs))
            return forward(*args, **kwargs)

        return run

    return around


def expected_memory(sites: Sequence[Site], rows: int) -> int:
    """Bytes that `rows` rows of every site take."""
    return sum(4 * rows * s.D * s.groups for s in sites)
