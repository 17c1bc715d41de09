"""Calibration rows: the right columns, a fair sample, a bound on memory, an untouched network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from halut.errors import HalutError
from halut.ops.geometry import ConvGeometry
from halut.sites.calibration import (
    Reservoir,
    capture,
    expected_memory,
    patch_rows,
    reservoirs_of,
    row_count,
)
from halut.sites.find import Site, find_sites
from tests.oracles.im2col import im2col_reference

sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=80, deadline=None)
@given(
    kernel=sizes,
    stride=sizes,
    dilation=sizes,
    padding=st.one_of(st.just("same"), st.tuples(*[st.integers(0, 3)] * 4)),
    channels=st.sampled_from([(1, 1), (4, 1), (4, 2), (3, 3)]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_patch_rows_are_the_unfolded_rows(kernel, stride, dilation, padding, channels, batch, seed):
    C_in, groups = channels
    same = padding == "same"
    geometry = ConvGeometry(kernel, stride, (0,) * 4 if same else padding, dilation, same)
    site = Site("s", "conv2d", C_in // groups * kernel[0] * kernel[1], groups, groups, False, 1,
                geometry)  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, C_in, 8, 9, generator=generator)
    every = im2col_reference(x, site.geometry)
    assert every.shape == (row_count(x, site), groups * site.D)
    index = torch.randint(0, len(every), (11,), generator=generator)
    assert torch.equal(patch_rows(x, site, index), every[index])
    channels_last = x.to(memory_format=torch.channels_last)
    assert torch.equal(patch_rows(channels_last, site, index), every[index])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_rows_times_weight_is_the_convolution(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=(1, 2), dilation=(2, 1), groups=groups)
    x = torch.randn(2, 4, 9, 8)
    site = find_sites(nn.Sequential(conv), x[:1])[0][0]
    rows = im2col_reference(x, site.geometry).view(-1, groups, site.D)
    weight = conv.weight.view(groups, 8 // groups, site.D)
    y = torch.einsum("ngd,gmd->ngm", rows, weight).flatten(1) + conv.bias
    out = conv(x)
    expected = out.permute(0, 2, 3, 1).reshape(-1, 8)
    torch.testing.assert_close(y, expected)


def test_rows_of_a_linear_are_its_tokens():
    x = torch.arange(24.0).view(2, 3, 4)
    site = Site("s", "linear", 4, 2, rows=3)
    assert torch.equal(patch_rows(x, site, torch.tensor([4, 0])), x.view(6, 4)[[4, 0]])
    assert row_count(x, site) == 6


def fill(reservoir, parts):
    """Propose rows 0, 1, 2, ... of one column: `parts` are (batch, first row, rows)."""
    for batch, start, count in parts:
        index, keys = reservoir.propose(count, batch)
        reservoir.add(torch.arange(start, start + count, dtype=torch.float32)[index, None], keys)
    return reservoir


def stream(counts):
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [(batch, *part) for batch, part in enumerate(zip(starts, counts, strict=True))]


def check_uniform(hits, trials, sample_size):
    """Chi-squared over 100 rows of which `sample_size` are kept in each trial, and no drift."""
    expected = trials * sample_size / 100
    chi_squared = float(((hits - expected) ** 2 / expected).sum() / (1 - sample_size / 100))
    assert chi_squared < 150  # 99 degrees of freedom: mean 99, standard deviation 14
    assert abs(hits[:20].mean() - hits[-20:].mean()) < 0.12 * expected


@pytest.mark.parametrize("batches", [[100], [10] * 10, [1] * 5 + [95]])
def test_every_row_of_the_stream_is_as_likely_to_be_sampled(batches):
    hits = torch.zeros(100)
    for seed in range(300):
        rows = fill(Reservoir(20, 1, seed), stream(batches)).sample()[:, 0].long()
        assert len(rows.unique()) == 20  # a sample without repetition, never more
        hits[rows] += 1
    check_uniform(hits, 300, 20)


@pytest.mark.parametrize("counts", [[90, 10], [10, 90], [50, 1, 49], [97, 3]])
def test_reservoirs_of_uneven_parts_merge_without_bias(counts):
    """Equal shares of each part, whatever it saw, would favor the rows of the small ones."""
    hits = torch.zeros(100)
    for seed in range(300):
        parts = [fill(Reservoir(20, 1, seed), [part]) for part in stream(counts)]
        whole = Reservoir(20, 1, seed)
        for part in parts:
            whole.add(part.rows[: len(part.keys)], part.keys)
        one = fill(Reservoir(20, 1, seed), stream(counts))
        assert torch.equal(whole.sample(), one.sample())  # the very sample of a single process
        hits[whole.sample()[:, 0].long()] += 1
    check_uniform(hits, 300, 20)


def test_a_short_stream_is_sampled_whole_and_shuffled():
    rows = fill(Reservoir(50, 1, 3), [(0, 0, 30)]).sample()[:, 0]
    assert torch.equal(rows.sort().values, torch.arange(30.0))
    assert not torch.equal(rows, torch.arange(30.0))


def test_calls_and_batches_draw_keys_of_their_own():
    reservoir = Reservoir(50, 1, 3)
    keys = [reservoir.propose(9, *place)[1] for place in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len(torch.cat(keys).unique()) == 36
    assert torch.equal(keys[0], Reservoir(50, 1, 3).propose(9, 0)[1])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.drop(self.norm(self.conv(x))).mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def sites(network):
    return find_sites(network, torch.zeros(1, 1, 6, 6))[0]


def batches(count=3, size=8):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 1, 6, 6, generator=generator), torch.zeros(size)) for _ in range(count)
    ]


def test_captured_rows_are_what_the_sites_saw(network, sites):
    inputs = batches()
    rows = capture(network, sites, inputs, rows=10_000)
    assert {name: tuple(sample.shape) for name, sample in rows.items()} == {
        "conv": (3 * 8 * 36, 9),
        "fc": (24, 4),
    }
    x = torch.cat([image for image, _ in inputs])
    expected = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 9)
    assert sorted(map(tuple, rows["conv"].tolist())) == sorted(map(tuple, expected.tolist()))
    network.eval()
    with torch.no_grad():
        inner = network.norm(network.conv(x)).mean((2, 3))
    sample = rows["fc"][rows["fc"][:, 0].argsort()]
    torch.testing.assert_close(sample, inner[inner[:, 0].argsort()])


def test_evaluation_mode_while_capturing_and_all_modes_restored(network, sites):
    network.train()
    network.drop.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    capture(network, sites, batches(), rows=50)
    assert network.training
    assert network.norm.training
    assert not network.drop.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_the_same_seed_captures_the_same_rows(network, sites):
    first, again, other = (
        capture(network, sites, batches(), rows=50, seed=seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv"], other["conv"])


def test_the_memory_bound_holds_over_all_sites(network, sites):
    bound = 4000
    rows = capture(network, sites, batches(6), rows=10_000, memory=bound)
    sizes = sum(actual.numel() * 4 for actual in rows.values())
    assert sizes <= bound
    assert len(rows["conv"]) == bound // 2 // 36  # its share, used in full
    assert expected_memory(sites, 10) == 4 * 10 * (9 + 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_names_the_site(network, sites, value):
    images = torch.zeros(2, 1, 6, 6)
    images[1, 0, 2, 2] = value
    network.train()
    with pytest.raises(HalutError, match=r"conv: .*NaN or infinite"):
        capture(network, sites, [images])
    assert network.training
    assert not any(m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("ranks", [2, 3])
def test_parts_of_the_batches_hold_what_one_pass_holds(network, sites, ranks):
    inputs = batches(5)
    whole = capture(network, sites, inputs, rows=50)
    parts = [
        reservoirs_of(network, sites, inputs[rank::ranks], 50, 1 << 30, 0, shard=(rank, ranks))
        for rank in range(ranks)
    ]
    for name, rows in whole.items():
        merged = parts[0][name]
        for part in parts[1:]:
            merged.add(part[name].rows[: len(part[name].keys)], part[name].keys)
        assert torch.equal(merged.sample(), rows)


def test_without_batches_the_site_is_named(network, sites):
    with pytest.raises(HalutError, match="conv saw no calibration rows"):
        capture(network, sites, [])


def test_batches_without_labels_and_progress(network, sites):
    seen = []
    capture(network, sites, [image for image, _ in batches()], rows=5, progress=seen.append)
    assert seen == [1, 1, 1]  # batches done since the call before
