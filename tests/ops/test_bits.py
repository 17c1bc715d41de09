"""Bit planes and their products: golden values, opcheck, refusals."""

from __future__ import annotations

import pytest
import torch

from halut.errors import HalutError
from halut.ops import bit_planes, bit_product
from tests.oracles.integer import bit_planes_reference, bit_product_reference

STEPS = torch.tensor([-0.5, 0.5, 0.5]), torch.tensor([0, 2, 1, 3], dtype=torch.uint8)


def words(*shape):
    return torch.randint(-(2**63), 2**63 - 1, shape)


def arguments():
    torch.manual_seed(0)
    factors = torch.randn(2, 3, 5), torch.randn(2), torch.randn(3, 10)
    return words(6, 2, 2, 4), words(2, 4, 3, 5), *factors, 256


def test_planes_golden():
    x = torch.tensor([[-1.0, -0.5, 0.0, 0.5, float("nan"), 9.0, -9.0, 0.25, 0.5]])
    planes = bit_planes(x, *STEPS, 2, 1)
    assert planes.shape == (1, 1, 1, 1, 2, 2)
    # codes 0 2 2 3 0 3 0 2 | 3: the second threshold of 0.5 leaves no room for code 1
    assert planes.flatten().tolist() == [0b00101000, 1, 0b10101110, 1]
    assert torch.equal(bit_planes_reference(x, *STEPS, 2, 1), planes)


def test_a_product_is_the_sum_over_signs():
    a, b = torch.randn(100).sign(), torch.randn(100).sign()
    packed = [bit_planes(v[None], torch.zeros(1), torch.tensor([0, 1], dtype=torch.uint8), 1, 1)
              for v in (a, b)]  # fmt: skip
    x, w = (torch.nn.functional.pad(p.flatten(), (0, 3)).view(torch.int64) for p in packed)
    one = torch.ones(1)
    y = bit_product(x.view(1, 1, 1, 2), w.view(1, 2, 1, 1), one.view(1, 1, 1), one,
                    torch.tensor([[0.5]]), 100)  # fmt: skip
    assert float(y) == float(a @ b) + 0.5


def test_the_most_inputs_are_exact():
    W = 2**18
    x, w = torch.full((1, 1, 1, W), -1), torch.zeros(1, W, 1, 1, dtype=torch.int64)
    one = torch.ones(1)
    for weight, expected in ((w, -(2**24)), (w - 1, 2**24)):
        y = bit_product(x, weight, one.view(1, 1, 1), one, torch.zeros(1, 1), 2**24)
        assert int(y) == expected


def test_operators_pass_opcheck():
    torch.library.opcheck(torch.ops.halut.bit_product.default, arguments())
    assert torch.equal(bit_product(*arguments()), bit_product_reference(*arguments()))
    for x in (torch.randn(3, 12), torch.randn(2, 12, 3, 5)):
        torch.library.opcheck(torch.ops.halut.bit_planes.default, (x, *STEPS, 2, 2))


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, words(6, 2, 2, 3), "differ in their groups or words"),
        (0, words(6, 2, 9, 4), "planes must be in 1..8, got 9 and 3"),
        (0, torch.zeros(6, 2, 2, 4), r"x must be int64 \[N, G, J, W\]"),
        (1, words(2, 4, 0, 5), r"w must be int64 \[G, W, I, M\] and not empty"),
        (2, torch.randn(2, 5, 3), r"alpha must be float32 \[2, 3, 5\]"),
        (3, torch.randn(2).double(), r"beta must be float32 \[2\]"),
        (4, torch.randn(4, 10), "4 rows of bias do not divide the 6 of x"),
        (4, torch.randn(3, 9), r"bias must be float32 \[P, 10\]"),
        (5, 257, r"D must be in 1..256, got 257"),
    ],
)
def test_what_does_not_fit_is_refused(at, value, says):
    changed = list(arguments())
    changed[at] = value
    with pytest.raises(HalutError, match=says):
        bit_product(*changed)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"x": torch.zeros(3, 4, dtype=torch.int8)}, "x must be floating rows or maps"),
        ({"thresholds": torch.zeros(256)}, "thresholds must be float32"),
        ({"table": torch.zeros(3, dtype=torch.uint8)}, r"table must be uint8 \[4\]"),
        ({"planes": 9}, "planes must be in 1..8, got 9"),
        ({"groups": 3}, "3 groups do not divide"),
    ],
)
def test_planes_that_do_not_fit_are_refused(changed, says):
    arguments = {"x": torch.zeros(3, 4), "thresholds": STEPS[0], "table": STEPS[1]}
    with pytest.raises(HalutError, match=says):
        bit_planes(**{**arguments, "planes": 2, "groups": 2, **changed})
