"""Signs and magnitudes: the ordinary integer product, to the bit, over the whole range."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halut.errors import HalutError
from halut.ops import cpu, forced, sign_magnitude
from halut.ops.integer.sign_magnitude import INPUTS, split
from tests.oracles.integer import sign_magnitude_reference

EVERY = torch.arange(-128, 128).to(torch.int8)


def product(x, weight):
    """The ordinary product, in int64: [N, G D] and [G, M, D] to [N, G M]."""
    G, _, D = weight.shape
    grouped = x.view(-1, G, D).long().unsqueeze(2)
    return (grouped * weight.long()).sum(-1).flatten(1)


def answers(x, weight):
    """Every implementation's, on every level."""
    with forced("torch"):
        yield "torch", sign_magnitude(x, weight)
    for level in cpu.cpu_capabilities():
        with cpu.use_cpu_capability(level):
            yield level, sign_magnitude(x, weight)


def test_all_pairs_of_bytes():
    x, weight = EVERY[:, None], EVERY[None, :, None]
    table = product(x, weight)
    assert table.shape == (256, 256)
    assert int(table.max()) == 128 * 128
    assert torch.equal(sign_magnitude_reference(x, weight), table)
    for name, actual in answers(x, weight):
        assert actual.dtype == torch.int32
        assert torch.equal(actual.long(), table), name


def test_a_magnitude_of_128_is_a_byte():
    minus, size = split(EVERY)
    assert size.dtype == torch.uint8
    assert (int(size[0]), bool(minus[0])) == (128, True)
    signed = torch.where(minus, -size.long(), size.long())
    assert torch.equal(signed, EVERY.long())


@pytest.mark.parametrize("low", [(-128, -128), (-128, 127), (127, -128), (127, 127)])
def test_the_worst_sums_are_exact(low):
    x = torch.full((3, 9216), low[0], dtype=torch.int8)
    weight = torch.full((1, 5, 9216), low[1], dtype=torch.int8)
    expected = 9216 * low[0] * low[1]
    for name, actual in answers(x, weight):
        assert actual.unique().tolist() == [expected], name
    if low == (-128, -128):
        assert expected == 150_994_944


def test_the_longest_sums_are_exact():
    x = torch.full((1, INPUTS), -128, dtype=torch.int8)
    weight = x[None].clone()
    for name, actual in answers(x, weight):
        assert actual.item() == INPUTS * 128 * 128 <= 2**31 - 1, name
        weight[:] = 127
        assert sign_magnitude(x, weight).item() == -INPUTS * 128 * 127
        weight[:] = -128


@given(
    st.sampled_from([1, 2, 3, 5, 33]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3, 4, 5, 37]),
    st.sampled_from([1, 31, 32, 33, 63, 64, 65, 129, 200]),
    st.booleans(),
    st.integers(0, 1 << 30),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equal_to_the_product(N, G, M, D, lowest, seed):
    generator = torch.Generator().manual_seed(seed)
    low = -128 if lowest else -127
    x = torch.randint(low, 128, (N, G * D), dtype=torch.int8, generator=generator)
    weight = torch.randint(-128, 128, (G, M, D), dtype=torch.int8, generator=generator)
    if lowest:
        x[0, :: max(1, D // 3)] = -128
        weight[0, 0] = -128
    expected = product(x, weight)
    assert torch.equal(sign_magnitude_reference(x, weight), expected)
    for name, actual in answers(x, weight):
        assert torch.equal(actual.long(), expected), name


def test_the_shape_of_the_seed():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (256, 9216), dtype=torch.int8, generator=generator)
    weight = torch.randint(-128, 128, (1, 128, 9216), dtype=torch.int8, generator=generator)
    exact = (x.double() @ weight[0].double().t()).to(torch.int32)
    assert torch.equal(sign_magnitude(x, weight), exact)


def test_opcheck_and_no_rows():
    x, weight = EVERY[:6].view(2, 3).clone(), EVERY[:12].view(1, 4, 3).clone()
    torch.library.opcheck(torch.ops.halut.sign_magnitude.default, (x, weight))
    assert sign_magnitude(x[:0], weight).shape == (0, 4)


@pytest.mark.parametrize(
    ("x", "weight", "says"),
    [
        (torch.zeros(2, 3), torch.zeros(1, 4, 3), "must be int8, got torch.float32"),
        (torch.zeros(2, 3).char(), torch.zeros(1, 4, 2).char(), "do not fit"),
        (torch.zeros(2, 6).char(), torch.zeros(4, 3).char(), "do not fit"),
        (torch.zeros(2, 0).char(), torch.zeros(1, 4, 0).char(), "must not be empty"),
        (
            torch.zeros(1, INPUTS + 1).char(),
            torch.zeros(1, 1, INPUTS + 1).char(),
            "131072 inputs: .* must fit into int32, so that there can be 1..131071",
        ),
        (torch.zeros(2, 3).char(), torch.zeros(1, 4, 3).char().to("meta"), "different devices"),
    ],
)
def test_wrong_arguments_are_named(x, weight, says):
    with pytest.raises(HalutError, match=says):
        sign_magnitude(x, weight)
