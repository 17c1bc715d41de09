"""The product on its own: learned offline, multiplied online, wrong use refused."""

import numpy as np
import pytest
import torch

from halut.configs import Tree
from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.matmul import HalutMatmul


def problem(N=2000, D=16, M=6, seed=0):
    """Rows of rank 4 with a little noise, as activations are; and a weight."""
    generator = np.random.default_rng(seed)
    basis = np.random.default_rng(100).normal(size=(4, D))
    A = generator.normal(size=(N, 4)) @ basis + 0.1 * generator.normal(size=(N, D))
    B = np.random.default_rng(200).normal(size=(D, M))
    return A.astype(np.float32), B.astype(np.float32)


@pytest.mark.parametrize("encoder", list(encoders))
@pytest.mark.parametrize("bits", [None, 8])
def test_approximates_the_product_of_fresh_rows(encoder, bits):
    A, B = problem()
    product = HalutMatmul(C=4, K=16, encoder=encoder, bits=bits)
    product.learn_offline(A, B)
    fresh, _ = problem(N=500, seed=1)
    stats = product.stats(fresh, B)
    assert stats["normalized_mse"] < 0.25
    assert stats["cosine"] > 0.85


def test_options_of_learning_are_the_layers():
    A, B = problem()
    errors = []
    for options in (Tree(), Tree(boosting=2)):
        product = HalutMatmul(C=4, K=16, options=options)
        product.learn_offline(A, B)
        errors.append(product.stats(A, B)["normalized_mse"])
    assert errors[1] < errors[0]


def test_eight_bits_are_close_to_floats_and_three_are_not():
    A, B = problem()
    results = {}
    for bits in (None, 8, 3):
        product = HalutMatmul(C=4, bits=bits)
        product.learn_offline(A, B)
        results[bits] = product.matmul_online(A)
    step = np.abs(results[8] - results[None]).max()
    assert 0 < step < 0.05 * np.abs(results[None]).max()
    assert np.abs(results[3] - results[None]).max() > 4 * step


def test_stats_by_definition():
    A, B = problem(N=300)
    product = HalutMatmul(C=4)
    product.learn_offline(A, B)
    exact, got = A.astype(np.float64) @ B, product.matmul_online(A).astype(np.float64)
    stats = product.stats(A, B)
    assert stats["mae"] == pytest.approx(np.abs(got - exact).mean())
    assert stats["mse"] == pytest.approx(((got - exact) ** 2).mean())
    assert stats["normalized_mse"] == pytest.approx(((got - exact) ** 2).sum() / (exact**2).sum())
    cosine = (got * exact).sum() / np.linalg.norm(got) / np.linalg.norm(exact)
    assert stats["cosine"] == pytest.approx(cosine)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_torch_give_back_what_they_got(dtype):
    A, B = (x.astype(dtype) for x in problem(N=200))
    product = HalutMatmul(C=4)
    product.learn_offline(A, B)
    from_numpy = product.matmul_online(A)
    from_torch = product.matmul_online(torch.from_numpy(A))
    assert isinstance(from_numpy, np.ndarray)
    assert from_numpy.dtype == dtype
    assert from_numpy.shape == (200, 6)
    assert from_torch.dtype == torch.from_numpy(A).dtype
    assert np.array_equal(from_numpy, from_torch.numpy())


def test_online_before_offline_is_refused():
    with pytest.raises(HalutError, match="call learn_offline"):
        HalutMatmul(C=4).matmul_online(problem(N=3)[0])


def test_wrong_shapes_are_refused():
    A, B = problem(N=50)
    product = HalutMatmul(C=4)
    with pytest.raises(HalutError, match="do not multiply"):
        product.learn_offline(A, B.T)
    with pytest.raises(HalutError, match="A must be a matrix"):
        product.learn_offline(A[0], B)
    with pytest.raises(HalutError, match=r"C must be in 1\.\.16, got 17"):
        HalutMatmul(C=17).learn_offline(A, B)
    product.learn_offline(A, B)
    with pytest.raises(HalutError, match="rows must be"):
        product.matmul_online(A[:, :5])
    with pytest.raises(HalutError, match="the product learned"):
        product.stats(A, B[:, :2])


def test_values_that_are_not_finite_are_refused():
    A, B = problem(N=50)
    product = HalutMatmul(C=4)
    bad_A, bad_B = A.copy(), B.copy()
    bad_A[1, 2] = np.nan
    bad_B[1, 2] = np.inf
    with pytest.raises(HalutError, match="rows hold NaN"):
        product.learn_offline(bad_A, B)
    with pytest.raises(HalutError, match="B holds NaN"):
        product.learn_offline(A, bad_B)
    product.learn_offline(A, B)
    with pytest.raises(HalutError, match="rows hold NaN"):
        product.matmul_online(bad_A)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"C": 0}, "C must be at least 1"),
        ({"C": 4, "K": 12}, "power of two"),
        ({"C": 4, "encoder": "hash"}, "unknown encoder 'hash'; choose one of"),
        ({"C": 4, "bits": 9}, "bits must be"),
        ({"C": 4, "lam": -1.0}, "lam must be"),
    ],
)
def test_options_are_refused_before_any_data(options, message):
    with pytest.raises(HalutError, match=message):
        HalutMatmul(**options)


def test_a_failed_learning_keeps_the_product_that_was():
    A, B = problem(N=200)
    product = HalutMatmul(C=4)
    product.learn_offline(A, B)
    before = product.matmul_online(A)
    with pytest.raises(HalutError):
        product.learn_offline(A * np.nan, B)
    assert np.array_equal(product.matmul_online(A), before)
