"""Encoders learned again: what tables keep, and when the old encoder stays."""

from __future__ import annotations

import copy

import pytest
import torch

from halut.encoders import encoders
from halut.layers.relearn import can_relearn, relearn, transfer_table
from halut.ops import accumulate
from halut.ops.power_of_two import normalized_mse
from tests.layers.lut_oracle import LAYERS, inputs_of, make
from tests.oracles.im2col import im2col_reference

ENCODERS = list(encoders)


def rows_of(layer, case, seed, scale=1.0):
    shape = LAYERS[case][1][1:]
    return scale * im2col_reference(inputs_of((200, *shape), seed=seed), layer.site.geometry)


def codes_of(layer, rows):
    return layer.encoder.codes(layer.encoder.in_units(rows))


def state_of(layer):
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def exact_of(layer, rows):
    """x W', group by group."""
    G, D = layer.site.groups, layer.site.D
    W = layer.weight.view(G, -1, D)
    return torch.cat([rows[:, g * D : (g + 1) * D] @ W[g].T for g in range(G)], 1)


def error_of(layer, rows):
    answer = accumulate(codes_of(layer, rows), layer.full_lut().detach())
    return float(normalized_mse(answer, exact_of(layer, rows)))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("case", ["linear", "3x3", "grouped"])
def test_nothing_changes_on_the_rows_it_was_learned_from(case, encoder):
    layer, _ = make(case, encoder)
    with torch.no_grad():
        layer.lut += 0.1 * inputs_of(layer.lut.shape)  # as training does
    before = state_of(layer)
    assert not relearn([layer], rows_of(layer, case, 7))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("transform", ["hadamard", "permute"])
def test_transformed_inputs_are_learned_from_as_they_were(encoder, transform):
    layer, _ = make("linear", encoder, transform=transform)
    rows, before = rows_of(layer, "linear", 7), state_of(layer)
    assert not relearn([layer], rows)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    moved = 4 * rows + 3
    old = normalized_mse(layer(moved) - layer.bias, exact_of(layer, moved))
    assert relearn([layer], moved)
    assert normalized_mse(layer(moved) - layer.bias, exact_of(layer, moved)) < old
    if transform == "permute":
        assert torch.equal(layer.encoder.transform.order, before["encoder.transform.order"])


def test_a_relearned_tree_is_boosted_as_its_options_say():
    layer, _ = make("linear", "tree", output_metric=True, boosting=1)
    before = state_of(layer)
    assert not relearn([layer], rows_of(layer, "linear", 7))
    assert torch.equal(before["encoder.split_dims"], layer.encoder.split_dims)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("case", ["linear", "grouped"])
def test_rows_that_moved_get_an_encoder_of_their_own(case, encoder):
    layer, _ = make(case, encoder, clip="mse", K=8)
    rows = rows_of(layer, case, 9, 4.0) + 3.0
    before, error = copy.deepcopy(layer), error_of(layer, rows)
    assert relearn([layer], rows)
    assert error_of(layer, rows) < error
    assert not torch.equal(codes_of(layer, rows), codes_of(before, rows))
    for name, parameter in layer.encoder.named_parameters():
        assert torch.equal(layer.get_buffer("start_" + name.replace(".", "_")), parameter)
        assert not torch.equal(parameter, dict(before.encoder.named_parameters())[name])
    assert torch.equal(layer.weight, before.weight)
    assert torch.equal(layer.bias, before.bias)
    read = layer.encoder.in_units(rows)
    ratio = layer.encoder.initial_tau(read) / before.encoder.initial_tau(read)
    assert float(layer.tau.detach()) == pytest.approx(float(before.tau.detach()) * ratio, rel=1e-5)
    assert layer.diagnose(inputs_of(LAYERS[case][1]))["drift"] == 0


def test_a_temperature_of_the_options_stays():
    layer, _ = make("linear", tau=0.25)
    assert relearn([layer], rows_of(layer, "linear", 9, 4.0) + 3.0)
    assert layer.tau.item() == 0.25


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_old_encoder_stays_where_the_new_one_is_worse(encoder, monkeypatch):
    layer, _ = make("linear", encoder)
    before, kind = state_of(layer), encoders[encoder]
    learn = kind.calibrate
    monkeypatch.setattr(
        kind, "calibrate", lambda self, rows, **more: learn(self, rows[:1] + 0 * rows, **more)
    )
    monkeypatch.setattr(kind, "calibrate_jointly", lambda self, *args, **more: None)
    assert not relearn([layer], rows_of(layer, "linear", 8))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("case", ["linear", "grouped"])
def test_what_training_added_to_a_table_is_kept(case):
    layer, _ = make(case, "pq", K=8)
    rows = rows_of(layer, case, 9, 2.0)
    offset = 0.5 * inputs_of((layer.site.groups, 1, 1, layer.lut.shape[-1]))
    with torch.no_grad():
        layer.lut += offset  # of every codebook: a bias of C times that
    shift = layer.blocks.C * offset.flatten()
    assert relearn([layer], rows)
    answer = accumulate(codes_of(layer, rows), layer.lut.detach())
    torch.testing.assert_close((answer - exact_of(layer, rows)).mean(0), shift, rtol=0.2, atol=0.2)


def test_refit_by_least_squares():
    generator = torch.Generator().manual_seed(0)
    N, G, C, K, M, lam = 120, 2, 3, 4, 5, 0.5
    before, after = (
        torch.randint(K - 1, (N, G * C), generator=generator, dtype=torch.uint8) for _ in range(2)
    )
    after[:, 1] = before[:, 1]  # a codebook that did not change
    lut = torch.randn(G, C, K, M, generator=generator)
    untold = torch.randn(N, G * M, generator=generator)
    table = transfer_table(lut, before, after, untold, lam)
    assert torch.equal(table[0, 1], lut[0, 1])
    assert torch.equal(table[:, :, K - 1], lut[:, :, K - 1])  # a code that no row has
    for g in range(G):
        books = [c for c in range(C) if (g, c) != (0, 1)]
        start = lut[g].double().clone()
        hot = torch.zeros(N, len(books) * K, dtype=torch.float64)
        residual = untold[:, g * M : (g + 1) * M].double()
        for i, c in enumerate(books):
            old, new = before[:, g * C + c].long(), after[:, g * C + c].long()
            for k in range(K - 1):
                start[c, k] = lut[g, c].double()[old[new == k]].mean(0)
            residual += lut[g, c].double()[old] - start[c, new]
            hot[torch.arange(N), i * K + new] = 1
        wide = torch.cat([hot, lam**0.5 * torch.eye(hot.shape[1], dtype=torch.float64)])
        right = torch.cat([residual, torch.zeros(hot.shape[1], M, dtype=torch.float64)])
        solution = torch.linalg.lstsq(wide, right).solution.view(len(books), K, M)
        expected = start[books] + solution
        torch.testing.assert_close(table[g, books].double(), expected, rtol=1e-4, atol=1e-5)


def test_codes_with_other_numbers_keep_the_function_exactly():
    generator = torch.Generator().manual_seed(1)
    before = torch.randint(8, (500, 2), generator=generator, dtype=torch.uint8)
    lut = torch.randn(1, 2, 8, 3, generator=generator)
    numbers = torch.randperm(8, generator=generator)
    after = numbers[before.long()].to(torch.uint8)
    table = transfer_table(lut, before, after, torch.zeros(500, 3), 1.0)
    assert torch.equal(accumulate(after, table), accumulate(before, lut))
    assert torch.equal(table[0, :, numbers], lut[0])


def test_layers_that_share_an_encoder_learn_it_together():
    first, second = (make("linear", "tree", seed=seed)[0] for seed in (0, 1))
    second.share(first)
    second.calibrate(rows_of(second, "linear", 7))
    rows = rows_of(first, "linear", 9, 4.0) + 3.0
    errors = [error_of(layer, rows) for layer in (first, second)]
    assert relearn([first, second], rows)
    assert second.encoder is first.encoder
    assert second.tau is first.tau
    assert sum(error_of(layer, rows) for layer in (first, second)) < sum(errors)


def test_only_tables_that_train_are_refitted():
    assert can_relearn(make("linear")[0])
    assert not can_relearn(make("linear", parameterization="derived")[0])
    assert not can_relearn(torch.nn.Linear(2, 2))
