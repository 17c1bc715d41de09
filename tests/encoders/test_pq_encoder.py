"""Product quantization: codes are the nearest prototypes, in three metrics and at the output."""

import pytest
import torch

from halut.configs import PQ
from halut.encoders.pq import PQEncoder
from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.prototypes.buckets import reconstruct


def rows_of(N, D, seed=0):
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


DISTANCES = {
    "l2": lambda d: d.square().sum(-1),
    "l1": lambda d: d.abs().sum(-1),
    "chebyshev": lambda d: d.abs().amax(-1),
}


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize(("D", "C", "groups"), [(8, 2, 1), (7, 3, 2)])
def test_codes_are_the_nearest_prototypes(metric, D, C, groups):
    encoder = PQEncoder(Blocks(D, C, groups), 8, PQ(metric=metric))
    rows = rows_of(200, groups * D)
    encoder.calibrate(rows)
    difference = encoder.blocks.split(rows)[:, :, None] - encoder.prototypes
    distances = DISTANCES[metric](difference)
    assert torch.equal(encoder.codes(rows).long(), distances.argmin(-1))
    torch.testing.assert_close(encoder.distances(rows), distances, rtol=1e-4, atol=1e-4)


def test_error_falls_with_K():
    rows = rows_of(2000, 8)
    errors = []
    for K in (2, 16, 256):
        encoder = PQEncoder(Blocks(8, 2), K)
        prototypes = encoder.calibrate(rows)
        rebuilt = reconstruct(encoder.codes(rows), prototypes, encoder.blocks)
        errors.append(float((rows - rebuilt).square().mean()))
    assert errors[0] > 1.5 * errors[1] > 1.5 * 1.5 * errors[2]


def test_K_need_not_be_a_power_of_two():
    encoder = PQEncoder(Blocks(4, 2), 12)
    encoder.calibrate(rows_of(400, 4))
    assert encoder.codes(rows_of(400, 4)).unique().tolist() == list(range(12))


@pytest.mark.parametrize(("D", "C", "groups"), [(12, 3, 1), (7, 2, 2)])
def test_the_output_metric_lowers_the_error_of_the_output(D, C, groups):
    rows = rows_of(3000, groups * D)
    generator = torch.Generator().manual_seed(1)
    scales = 10 ** torch.linspace(-1.5, 0.5, D)  # some inputs hardly count at the output
    weight = torch.randn(groups * 5, D, generator=generator) * scales
    W = weight.view(groups, 5, D)

    def output_error(options):
        encoder = PQEncoder(Blocks(D, C, groups), 16, options)
        prototypes = encoder.calibrate(rows, weight=weight)
        difference = rows - reconstruct(encoder.codes(rows), prototypes, encoder.blocks)
        blockwise = encoder.blocks.split(difference)
        wide = encoder.blocks.split(W.transpose(0, 1).reshape(5, -1))
        return float(torch.einsum("ncv,mcv->ncm", blockwise, wide).square().sum())

    assert output_error(PQ(output_metric=True)) < 0.7 * output_error(PQ())


def test_the_output_metric_is_the_distance_of_products():
    rows = rows_of(100, 7)
    weight = rows_of(5, 7, seed=2)
    encoder = PQEncoder(Blocks(7, 2), 4, PQ(output_metric=True))
    encoder.calibrate(rows, weight=weight)
    got = encoder.distances(rows)
    difference = encoder.blocks.split(rows)[:, :, None] - encoder.prototypes
    expected = torch.einsum("nckv,mcv->nckm", difference, encoder.blocks.split(weight))
    ratio = got / expected.square().sum(-1)
    for c in range(2):  # the roots are scaled: equal up to a factor per codebook
        torch.testing.assert_close(ratio[:, c], ratio[:1, c, :1].expand(100, 4), rtol=1e-3, atol=0)


def test_a_weight_that_spans_little_stays_finite():
    rows = rows_of(300, 6)
    weight = torch.zeros(2, 6)
    weight[0, 0] = 1
    encoder = PQEncoder(Blocks(6, 2), 8, PQ(output_metric=True))
    assert encoder.calibrate(rows, weight=weight).isfinite().all()
    assert encoder.prototypes.isfinite().all()


def test_the_output_metric_needs_a_fitting_weight():
    encoder = PQEncoder(Blocks(6, 2, 2), 4, PQ(output_metric=True))
    for weight in (None, torch.zeros(4, 5), torch.zeros(3, 6)):
        with pytest.raises(HalutError, match=r"output_metric needs the weight \[2 \* M, 6\]"):
            encoder.calibrate(rows_of(50, 12), weight=weight)


def test_padding_stays_zero_under_the_gradient():
    encoder = PQEncoder(Blocks(7, 3), 4)
    rows = rows_of(60, 7)
    encoder.calibrate(rows)
    soft = encoder.assign(rows, torch.tensor(1.0))
    (soft * rows_of(4, 1).view(4)).sum().backward()
    padding = encoder.blocks.columns()[:, None, :].expand(3, 4, 3) < 0
    assert padding.any()
    assert encoder.prototypes.grad[padding].eq(0).all()
    assert encoder.prototypes.grad[~padding].abs().sum() > 0


def test_initial_tau_is_the_mean_distance_to_the_nearest():
    encoder = PQEncoder(Blocks(6, 2), 4)
    rows = rows_of(1500, 6)
    encoder.calibrate(rows)
    expected = encoder.distances(rows).amin(-1).mean().item()
    assert encoder.initial_tau(rows) == pytest.approx(expected, rel=1e-5)


def test_learning_draws_its_rows_by_the_seed():
    rows = rows_of(1000, 4)
    options = PQ(learn_rows=50)
    first, second, other = (PQEncoder(Blocks(4, 2), 4, options) for _ in range(3))
    assert torch.equal(first.calibrate(rows, seed=1), second.calibrate(rows, seed=1))
    assert not torch.equal(first.calibrate(rows, seed=1), other.calibrate(rows, seed=2))


def test_options_are_checked():
    with pytest.raises(HalutError, match=r"unknown halut\.metric 'cosine'"):
        PQ(metric="cosine")
    with pytest.raises(HalutError, match="output_metric needs metric l2"):
        PQ(metric="l1", output_metric=True)
    with pytest.raises(HalutError, match="restarts must be at least 1, got 0"):
        PQ(restarts=0)
