"""What every registered encoder promises; a new one is tested by being registered."""

import pytest
import torch

from halut.encoders import Encoder, LookupTable, encoders
from halut.errors import HalutError
from halut.ops import quantize
from halut.ops.blocks import Blocks
from halut.prototypes.buckets import bucket_means, bucket_sizes, reconstruct

SHAPES = [(12, 3, 1, 8), (7, 3, 1, 4), (5, 5, 1, 2), (6, 2, 2, 16), (7, 2, 3, 4), (9, 1, 1, 256)]


def rows_of(blocks, N, seed=0):
    return torch.randn(N, blocks.inputs, generator=torch.Generator().manual_seed(seed))


def build(name, D=7, C=3, groups=2, K=8, N=300, seed=0):
    blocks = Blocks(D, C, groups)
    rows = rows_of(blocks, N)
    encoder = encoders[name](blocks, K)
    return encoder, rows, encoder.calibrate(rows, seed=seed)


@pytest.fixture(params=list(encoders))
def name(request):
    return request.param


@pytest.mark.parametrize(("D", "C", "groups", "K"), SHAPES)
def test_codes_and_prototypes(name, D, C, groups, K):
    N = max(1200, 16 * K)
    encoder, rows, prototypes = build(name, D, C, groups, K, N)
    codes = encoder.codes(rows)
    assert codes.dtype == torch.uint8
    assert codes.shape == (N, groups * C)
    assert int(codes.max()) < K
    assert prototypes.shape == (groups * C, K, encoder.blocks.V)
    assert prototypes.isfinite().all()
    expected = bucket_means(rows, codes, encoder.blocks, prototypes)
    torch.testing.assert_close(prototypes, expected)  # each is the mean of its bucket
    padding = encoder.blocks.columns()[:, None, :].expand_as(prototypes) < 0
    assert prototypes[padding].eq(0).all()
    if C < D:  # inputs of their own value on every row: all buckets can be used
        assert (bucket_sizes(codes, K) > 0).float().mean() > 0.8


@pytest.mark.parametrize(("D", "C", "groups", "K"), SHAPES)
def test_better_than_a_random_partition(name, D, C, groups, K):
    encoder, rows, prototypes = build(name, D, C, groups, K, N=1200)
    fresh = rows_of(encoder.blocks, 600, seed=1)
    error = (fresh - reconstruct(encoder.codes(fresh), prototypes, encoder.blocks)).square().mean()
    random = torch.randint(0, K, (1200, groups * C), generator=torch.Generator().manual_seed(2))
    blind = bucket_means(rows, random, encoder.blocks, torch.zeros_like(prototypes))
    blind_error = (rows - reconstruct(random, blind, encoder.blocks)).square().mean()
    assert error < 0.9 * blind_error


def test_the_same_seed_gives_the_same_encoder(name):
    first, _, prototypes = build(name, seed=3)
    second, _, again = build(name, seed=3)
    assert torch.equal(prototypes, again)
    state = second.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())


def test_learning_leaves_the_global_random_state_alone(name):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build(name)
    assert torch.equal(torch.rand(3), expected)


def test_an_empty_encoder_loads_the_state(name):
    encoder, rows, _ = build(name)
    empty = encoders[name](encoder.blocks, encoder.K)
    assert empty.codes(rows).shape == encoder.codes(rows).shape  # before loading too
    empty.load_state_dict(encoder.state_dict(), strict=True)
    assert torch.equal(empty.codes(rows), encoder.codes(rows))


def test_taps_are_all_it_reads(name):
    encoder, rows, _ = build(name)
    codes = encoder.codes(rows)
    if encoder.input_dims is None:
        assert torch.equal(encoder.encode(rows), codes)
        return
    assert torch.equal(encoder.encode(rows[:, encoder.input_dims]), codes)
    untapped = torch.ones(rows.shape[1], dtype=torch.bool)
    untapped[encoder.input_dims] = False
    changed = torch.where(untapped, torch.full_like(rows, 1e6), rows)
    assert torch.equal(encoder.codes(changed), codes)


def test_every_code_depends_on_its_own_block_only(name):
    encoder, rows, _ = build(name)
    codes = encoder.codes(rows)
    for c, (start, width) in enumerate(
        zip(encoder.blocks.starts, encoder.blocks.widths, strict=True)
    ):
        changed = rows.flip(0)
        changed[:, start : start + width] = rows[:, start : start + width]
        assert torch.equal(encoder.codes(changed)[:, c], codes[:, c])


def test_assign_is_a_distribution_that_favors_the_code(name):
    encoder, rows, _ = build(name)
    tau = torch.tensor(encoder.initial_tau(rows))
    soft = encoder.assign(encoder.gather_columns(rows), tau)
    assert soft.shape == (300, 6, 8)
    torch.testing.assert_close(soft.sum(-1), torch.ones(300, 6))
    assert torch.equal(soft.argmax(-1), encoder.codes(rows).long())
    assert 1 / 8 < soft.amax(-1).mean() < 0.99  # neither flat nor one-hot


def test_a_temperature_per_codebook(name):
    encoder, rows, _ = build(name)
    inputs = encoder.gather_columns(rows)
    every = encoder.assign(inputs, torch.full((6,), 0.7))
    torch.testing.assert_close(every, encoder.assign(inputs, torch.tensor(0.7)))


def test_gradients_are_finite_and_reach_inputs_state_and_temperature(name):
    encoder, rows, _ = build(name)
    inputs = encoder.gather_columns(rows).clone().requires_grad_()
    tau = torch.tensor(encoder.initial_tau(rows), requires_grad=True)
    target = torch.randn(300, 6, 8, generator=torch.Generator().manual_seed(5))
    (encoder.assign(inputs, tau) * target).sum().backward()
    parameters = [p for group in encoder.param_groups().values() for p in group]
    assert {id(p) for p in parameters} == {id(p) for p in encoder.parameters()}
    for tensor in [inputs, tau, *parameters]:
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("quantized", [False, True])
def test_a_lookup_is_hard_forward_and_relaxed_backward(name, quantized):
    """What layers call: of float tables and of integer ones, as the base class defines it."""
    encoder, rows, _ = build(name)
    generator = torch.Generator().manual_seed(6)
    lut = torch.randn(2, 3, 8, 5, generator=generator, requires_grad=True)
    bias = torch.randn(10, generator=generator, requires_grad=True)
    tau = torch.tensor(encoder.initial_tau(rows), requires_grad=True)
    target = torch.randn(300, 10, generator=generator)
    table = LookupTable(lut, lut.detach(), bias)
    if quantized:
        q, scale, offset = quantize(lut, 8, "channel", torch.ones(()))
        table = LookupTable(lut, q, offset.sum(1).reshape(-1) + bias, scale, offset)

    def run(lookup):
        x = rows.clone().requires_grad_()
        y = lookup(x, None, table, tau, 0.7)
        leaves = [x, lut, bias, tau, *encoder.parameters()]
        return y, torch.autograd.grad((y * target).sum(), leaves)

    y, gradients = run(encoder.lookup)
    codes = encoder.codes(rows).long().view(300, 2, 3)
    values = table.entries
    if quantized:
        values = values * table.scale.view(2, 1, 1, 5) + table.offset
    looked_up = values[torch.arange(2)[:, None], torch.arange(3), codes].sum(2)
    torch.testing.assert_close(y, looked_up.reshape(300, 10) + bias)

    def by_definition(x, geometry, table, tau, ste_mix):
        sums = Encoder.sums(encoder, x, geometry, *table.in_units_of_scale(), tau, ste_mix)
        return table.apply_scale(sums)

    generic_y, generic = run(by_definition)
    torch.testing.assert_close(generic_y, y)
    for fused, plain in zip(gradients, generic, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_refused(name, value):
    encoder, rows, _ = build(name)
    before = encoder.codes(rows)
    broken = rows.clone()
    broken[7, 2] = value
    with pytest.raises(HalutError, match="NaN or infinite"):
        encoder.calibrate(broken)
    assert torch.equal(encoder.codes(rows), before)


def test_rows_of_another_shape_are_refused(name):
    encoder, rows, _ = build(name)
    for bad in (rows[:, :-1], rows[:0], rows[0]):
        with pytest.raises(HalutError, match="rows must be"):
            encoder.calibrate(bad)


@pytest.mark.parametrize("K", [0, 1, 257, 512])
def test_impossible_K_is_refused(name, K):
    with pytest.raises(HalutError, match=r"2\.\.256"):
        encoders[name](Blocks(4, 2), K)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("value", [None, 0.0, -2.5])
def test_few_or_constant_rows(name, N, value):
    blocks = Blocks(7, 3)
    rows = rows_of(blocks, N) if value is None else torch.full((N, 7), value)
    encoder = encoders[name](blocks, 16)
    prototypes = encoder.calibrate(rows)
    assert all(tensor.isfinite().all() for tensor in encoder.state_dict().values())
    assert prototypes.isfinite().all()
    assert encoder.initial_tau(rows) > 0
    rebuilt = reconstruct(encoder.codes(rows), prototypes, blocks)
    torch.testing.assert_close(rebuilt, rows, rtol=1e-4, atol=1e-4)


def test_progress_counts_codebooks(name):
    done = []
    blocks = Blocks(7, 3, 2)
    encoders[name](blocks, 4).calibrate(rows_of(blocks, 50), progress=done.append)
    assert sum(done) == 6


def test_cost_grows_with_the_rows_and_the_state_does_not(name):
    encoder, _, _ = build(name)
    one, ten = encoder.cost(1), encoder.cost(10)
    for key in ("compares", "macs"):
        assert ten[key] == 10 * one[key] >= 0
    assert one["compares"] + one["macs"] > 0
    assert ten["state_bytes"] == one["state_bytes"] > 0
