"""LQ-Nets against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributed, multiprocessing

from halut.codecs import Layout, codecs
from tests.codecs.number_formats import make, normal

X = torch.tensor([[[-1.5, -0.4, 0.1, 0.3, 0.9, 2.0]]])


def given(role, v, shape, **options):
    """The codec of width len(v) with that basis in every row."""
    kind = codecs["lqnet"]
    codec = kind(Layout(role, shape), kind.Config(width=len(v), **options))
    codec.v.copy_(torch.tensor(v).expand_as(codec.v))
    return codec


def test_golden():
    codec = given("weight", [0.5, 1.0], (1, 1, 6))
    q = codec.quantize(X)
    assert q.flatten().tolist() == [-1.5, -0.5, 0.5, 0.5, 0.5, 1.5]
    assert codec.encode(X).codes.flatten().tolist() == [0, 1, 2, 2, 2, 3]
    assert float((q - X).square().mean()) == pytest.approx(0.10333, abs=1e-5)
    v = codec.solved(codec.normal_equations(X, codec.encode(X).codes))
    torch.testing.assert_close(v.float(), torch.tensor([[0.6625, 1.0875]]), rtol=0, atol=1e-4)
    B = torch.tensor([[-1, -1], [1, -1], [-1, 1], [-1, 1], [-1, 1], [1, 1]]).double()
    error = float((B @ v[0] - X.flatten()).square().mean())
    assert error == pytest.approx(0.07875, abs=1e-5)

    assert codec.v.tolist() == [[0.5, 1.0]]  # constant until the step
    codec.after_step(0.5)
    torch.testing.assert_close(codec.v, torch.tensor([[0.51625, 1.00875]]), rtol=0, atol=1e-5)
    moved = codec.v.clone()
    codec.after_step(0.5)  # no forward since
    codec.eval().quantize(X)
    codec.after_step(0.5)
    with torch.no_grad():
        codec.train().quantize(X)
    codec.after_step(0.5)
    assert torch.equal(codec.v, moved)


@pytest.mark.parametrize("role", ["weight", "activation"])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_nearest_level_and_the_damped_least_squares(role, n):
    shape = (3, 2, 50) if role == "weight" else (2, 50)
    x = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(n))
    codec = given(role, [0.7, 0.3, -0.2, 0.11][:n], shape)  # in no order, one of them negative
    low = -1 if role == "weight" else 0
    bits = [[1 if c >> j & 1 else low for j in range(n)] for c in range(2**n)]
    every = torch.tensor(bits, dtype=torch.float64)
    for row, v in enumerate(codec.v.double()):
        values = x[row] if role == "weight" else x
        codes = codec.encode(x).codes[row if role == "weight" else ...]
        distances = (values.double()[..., None] - every @ v).abs()
        torch.testing.assert_close(distances.gather(-1, codes.long()[..., None])[..., 0],
                                   distances.amin(-1))  # fmt: skip
        B, flat = every[codes.flatten().long()], values.double().flatten()
        right = B.T @ flat + 1e-4 * v
        expected = torch.linalg.solve(B.T @ B + 1e-4 * torch.eye(n), right)
        actual = codec.solved(codec.normal_equations(x, codec.encode(x).codes))[row]
        torch.testing.assert_close(actual, expected)


def test_a_tie_takes_the_lower_level():
    codec = given("weight", [0.5, 1.0], (1, 1, 3))
    assert codec.quantize(torch.tensor([[[-1.0, 0.0, 1.0]]])).flatten().tolist() == [
        -1.5,
        -0.5,
        0.5,
    ]
    codec = given("activation", [0.5, 1.0], (1, 3))
    assert codec.quantize(torch.tensor([[0.25, 0.75, -9.0]])).flatten().tolist() == [0, 0.5, 0]


def test_the_start_is_the_published_one():
    weight = given("weight", [0.0] * 2, (16, 9, 4), fitted=False)
    fresh = type(weight)(weight.layout, weight.options)
    s = 0.6745 * math.sqrt(2 / (9 * 16)) / 2
    torch.testing.assert_close(fresh.v, torch.tensor([[s, 2 * s]]).expand(16, 2))
    fresh.calibrate(torch.randn(16, 9, 4))
    torch.testing.assert_close(fresh.v, torch.tensor([[s, 2 * s]]).expand(16, 2))
    kind = codecs["lqnet"]
    codec = kind(Layout("activation", (1, 4)), kind.Config(width=3))
    s = 0.6745 * 2 / 7
    torch.testing.assert_close(codec.v, torch.tensor([[s, 2 * s, 4 * s]]))


def test_one_bit_is_the_mean_magnitude():
    codec, x = make("lqnet", normal(400, 0.3).view(4, 100), width=1)
    torch.testing.assert_close(codec.v, x.abs().mean((1, 2))[:, None], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("n", "error"), [(1, 0.364), (2, 0.118), (3, 0.036)])
def test_converged_on_a_normal(n, error):
    codec, x = make("lqnet", normal(sigma=1.0)[None], width=n)
    assert float((codec.quantize(x) - x).square().mean()) == pytest.approx(error, abs=0.002)
    x = normal(20_000, 1.0)[None]
    codec, x = make("lqnet", x / x.square().mean().sqrt(), width=n, fitted=False)
    for _ in range(400):
        codec.quantize(x)
        codec.after_step(0.5)
    assert float((codec.quantize(x) - x).square().mean()) == pytest.approx(error, abs=0.003)


def test_pruned_weights_have_no_part_in_the_basis():
    x = normal(400, 1.0)[None]
    codec, values = make("chain", x, codecs=["prune", "lqnet"], sparsity=0.5, width=1)
    mean = x[codec.mask.view(x.shape)].abs().mean()
    torch.testing.assert_close(codec.format.v[0, 0], mean, rtol=1e-4, atol=0)
    for _ in range(3):
        codec.quantize(values)
        codec.after_step(0.5)
    torch.testing.assert_close(codec.format.v[0, 0], mean, rtol=1e-4, atol=0)


def test_the_gradient_of_activations_stops_at_the_top_level():
    codec = given("activation", [0.5, 1.0], (1, 4))
    x = torch.tensor([[-2.0, 0.2, 1.5, 1.6]]).requires_grad_()
    codec.quantize(x).sum().backward()
    assert x.grad.tolist() == [[1, 1, 1, 0]]
    weight = X.clone().requires_grad_()
    given("weight", [0.1, 0.2], (1, 1, 6)).quantize(weight).sum().backward()
    assert weight.grad.eq(1).all()


def test_a_vector_that_no_code_uses_stays():
    codec = given("activation", [0.5, 1.0], (1, 4))
    for _ in range(5):
        codec.quantize(torch.zeros(3, 1, 4))
        codec.after_step(0.5)
    assert codec.v.tolist() == [[0.5, 1.0]]


def test_bits_count_the_basis_of_every_output():
    codec, _ = make("lqnet", normal(400).view(4, 100), width=3)
    assert codec.bits() == 400 * 3 + 4 * 3 * 32


def learned_on(rank, path):
    """Two ranks, half of the values each; the second rank has no forward in the last step."""
    distributed.init_process_group("gloo", init_method=f"file://{path}/at", rank=rank, world_size=2)
    halves = normal(800, 1.0).abs().view(2, 50, 1, 8)
    codec = given("activation", [0.3, 0.6], (1, 8))
    for step in range(3):
        if step < 2 or rank == 0:
            codec.quantize(halves[rank])
        codec.after_step(0.5)
    torch.save(codec.v, path / f"{rank}.pt")
    distributed.destroy_process_group()


def test_all_ranks_have_the_basis_of_all_values(tmp_path):
    multiprocessing.spawn(learned_on, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(one, other)
    halves = normal(800, 1.0).abs().view(2, 50, 1, 8)
    alone = given("activation", [0.3, 0.6], (1, 8))
    for step in range(3):
        alone.quantize(halves.flatten(0, 1) if step < 2 else halves[0])
        alone.after_step(0.5)
    torch.testing.assert_close(one, alone.v, rtol=1e-6, atol=1e-7)
