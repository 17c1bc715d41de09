"""Unused prototypes move onto inputs; tables, optimizers and resumed runs follow."""

from __future__ import annotations

import copy
import pickle

import lightning as L
import pytest
import torch
from torch import nn

import halut
from halut.errors import HalutError
from halut.layers import revival
from halut.lightning import HalutCallback
from halut.replace.after_step import after_step
from halut.training.config.run_config import LossConfig
from halut.training.lightning.module import Recipe
from halut.training.lightning.sharded_fit import ShardedModule
from tests.layers.lut_oracle import LAYERS, inputs_of, make
from tests.layers.shared_group import group

TABLES = [
    {},
    {"parameterization": "derived", "ridge": None},
    {"parameterization": "derived", "ridge": 1.0},
    {"bits": None, "estimator": "diveq"},
]


def layer_with_dead(case="linear", every=2, **options):
    """A layer two of whose prototypes no input is near to, and inputs for it."""
    layer, _ = make(case, "pq", revive_every=every, **options)
    with torch.no_grad():
        layer.encoder.prototypes[0, 1] += 100 * layer.encoder.prototypes[0, 1].sign()
        layer.encoder.prototypes[1, 3] -= 100
        inside = (layer.blocks.columns() >= 0)[:, None]
        layer.encoder.prototypes *= inside
    return layer.train(), inputs_of((16, *LAYERS[case][1][1:]))


def step(layer, x, optimizer=None):
    if optimizer is not None:
        optimizer.zero_grad()
    layer(x).square().mean().backward()
    if optimizer is not None:
        optimizer.step()
    return layer.after_step(0.5)


def sample_rows(layer, x):
    rows = layer.encoder.gather_columns(*layer.encoder_input(x))
    return layer.blocks.split(rows).detach()


@pytest.mark.parametrize("options", TABLES, ids=str)
@pytest.mark.parametrize("case", ["linear", "grouped"])
def test_unused_prototypes_take_the_place_of_inputs(case, options):
    layer, x = layer_with_dead(case, **options)
    before = copy.deepcopy(layer)
    assert step(layer, x) == []
    replaced = step(layer, x)
    rows, codes = sample_rows(before, x), before.codes(x).long()
    old, new = before.encoder.prototypes, layer.encoder.prototypes
    (parameter, mask), *tables = replaced
    assert parameter is new
    assert bool(mask[0, 1])
    assert bool(mask[1, 3])
    table, first = layer.full_lut().flatten(0, 1), before.full_lut().flatten(0, 1)
    for c, k in mask[:, :, 0].nonzero().tolist():
        assert not (codes[:, c] == k).any()
        (places,) = (rows[:, c] == new[c, k]).all(-1).nonzero(as_tuple=True)
        assert len(places)  # an input of the batch
        if options.get("parameterization") != "derived" or options["ridge"] is not None:
            assert any(torch.allclose(table[c, k], first[c, int(codes[n, c])]) for n in places)
    kept = ~mask[:, :, 0]
    assert torch.equal(new[kept], old[kept])
    torch.testing.assert_close(table[kept], first[kept])
    assert len(tables) == (
        options.get("parameterization") != "derived" or options["ridge"] is not None
    )
    assert set(layer.codes(x)[:, 0].tolist()) > set(codes[:, 0].tolist())


def test_used_prototypes_stay_and_nothing_is_counted_in_evaluation():
    layer, _ = make("linear", "pq", revive_every=1)
    x = inputs_of((400, 11), seed=7)
    before = copy.deepcopy(layer.state_dict())
    layer.eval()(x)
    layer.after_step(0.1)
    with torch.no_grad():
        layer.train()(x)
    layer.after_step(0.1)
    assert not layer.revival.usage.any()
    assert step(layer, x) == []
    after = layer.state_dict()
    unlike = {name for name in after if not torch.equal(after[name], before[name])}
    assert unlike <= {"revival.steps", "blend"}


def test_a_prototype_moves_to_no_input_that_is_one_already():
    layer, _ = layer_with_dead("no bias", every=1)
    x = layer.blocks.join(layer.encoder.prototypes.detach()[:, :1].transpose(0, 1))
    before = layer.encoder.prototypes.detach().clone()
    assert step(layer, x.repeat(5, 1)) == []
    assert torch.equal(layer.encoder.prototypes, before)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        lambda p: torch.optim.Rprop(p, lr=1e-3),
    ],
)
def test_the_optimizer_forgets_exactly_the_rows_that_moved(make_optimizer):
    layer, x = layer_with_dead(every=3)
    optimizer = make_optimizer(layer.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
        stepped = copy.deepcopy(list(optimizer.state.values()))
        before = layer.encoder.prototypes.detach().clone()
        after_step([layer], 0.5, [optimizer])
    moved = (layer.encoder.prototypes != before).any(-1, keepdim=True)
    assert int(moved.sum()) >= 2
    masks = {layer.encoder.prototypes: moved, layer.lut: moved.view(1, 4, 4, 1)}
    looked_at = 0
    for (parameter, values), old in zip(optimizer.state.items(), stepped, strict=True):
        mask = masks.get(parameter, torch.zeros((), dtype=torch.bool))
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                assert torch.equal(value, old[name].masked_fill(mask, 0))
                looked_at += bool(mask.any())
            else:
                assert value == old[name]
        assert not parameter.grad[mask.expand_as(parameter)].any()
    assert looked_at >= 2


def test_a_copy_of_the_state_goes_on_bit_for_bit():
    layer, x = layer_with_dead("3x3", every=4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(3):
        step(layer, x, optimizer)
    other, _ = layer_with_dead("3x3", every=4)
    other.load_state_dict(layer.state_dict())
    second = torch.optim.Adam(other.parameters(), lr=1e-2)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    third = pickle.loads(pickle.dumps(layer))
    assert step(layer, x, optimizer) != []
    step(other, x, second)
    assert len(third.after_step(0.5)) == 0  # without a batch there is nothing to draw from
    for name, value in layer.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_codes_are_counted_in_few_steps_and_of_few_rows(monkeypatch):
    monkeypatch.setattr(revival, "ROWS", 31)
    layer, x = layer_with_dead("3x3", every=80)  # 30 rows of an image
    counted = []
    for n in range(1, 81):
        layer(x).sum().backward()
        kept = layer.revival._batch
        if kept is not None:
            counted.append(n)
            assert len(kept[0]) == 2
        moved = layer.after_step(0.0)
        assert bool(moved) == (n == 80)
    assert counted == list(range(5, 81, 5))


@pytest.mark.parametrize("case", ["linear", "grouped"])
def test_layers_with_one_encoder_move_together(case):
    layers, x = group(case, "pq", revive_every=1)
    assert [layer.revival is None for layer in layers] == [False, True, True]
    with torch.no_grad():
        layers[0].encoder.prototypes[0, 2] = 1e3
    tables = [layer.lut.detach().clone() for layer in layers]
    layers.train()
    sum(layer(x).sum() for layer in layers).backward()
    rows = layers[0].after_step(0.5)
    assert {id(p) for p, _ in rows} == {
        id(layers[0].encoder.prototypes), *(id(layer.lut) for layer in layers)
    }  # fmt: skip
    codes = set()
    for layer, table in zip(layers, tables, strict=True):
        same = [k for k in range(4) if torch.equal(layer.lut[0, 0, 2], table[0, 0, k])]
        codes.add(tuple(same))
        assert layer.after_step(0.5) == [] or layer is layers[0]
    assert len(codes) == 1
    assert 2 not in next(iter(codes))


@pytest.mark.filterwarnings("ignore")  # Lightning's, of few batches and workers
def test_by_attach_and_by_the_callback_of_lightning():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))

    def network():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        halut.replace_(net, halut.PQ(V=4, K=4, revive_every=2), [x], keep=["0"], keep_last=False)
        with torch.no_grad():
            net[2].encoder.prototypes[0, 3] = 50.0
        return net.train()

    def alive(net):
        return bool((net[2].encoder.prototypes[0, 3] != 50.0).all())

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    halut.attach(optimizer, net, steps=4)
    for n in (1, 2):
        net(x).square().mean().backward()
        optimizer.step()
        assert alive(net) == (n == 2)

    class Theirs(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.manual_backward(self.net(batch).square().mean())
            for one in self.optimizers():
                one.step()

        def configure_optimizers(self):
            layer = self.net[2]
            own = [layer.lut, layer.bias]
            rest = [p for p in self.net.parameters() if all(p is not o for o in own)]
            return torch.optim.Adam(own, lr=1e-3), torch.optim.Adam(rest, lr=1e-3)

    module = Theirs()
    trainer = L.Trainer(
        max_steps=4, max_epochs=1, accelerator="cpu", callbacks=[HalutCallback(steps=4)],
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(x, batch_size=32))
    assert alive(module.net)
    moments = trainer.optimizers[1].state[module.net[2].encoder.prototypes]["exp_avg"]
    assert not moments[0, 3].any()
    assert moments.any()


def test_saved_and_prepared_networks_answer_as_trained_ones(tmp_path):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    halut.replace_(net, halut.PQ(V=4, K=4, revive_every=1), [x], keep_first=False, keep_last=False)
    net.train()(x).sum().backward()
    for layer in (net[0], net[2]):
        layer.after_step(0.5)
    halut.save(net.eval(), tmp_path / "bundle")
    other = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    halut.load_into(other, tmp_path / "bundle")
    assert torch.equal(other.eval()(x), net(x))
    assert int(other[0].revival.steps) == 1
    torch.testing.assert_close(halut.prepare(other, x)(x), net(x))


def test_parameters_in_shards_are_refused():
    layer, _ = make("linear", "pq", revive_every=2)
    recipe = Recipe("adamw", {}, {}, loss=LossConfig())
    with pytest.raises(HalutError, match=r"fsdp: 0 has halut\.revive_every.*strategy=ddp"):
        ShardedModule(nn.Sequential(layer), 10, recipe)


def test_without_the_option_there_is_no_state_of_it():
    layer, _ = make("linear", "pq")
    assert not any("revival" in name for name in layer.state_dict())
    with pytest.raises(HalutError, match=r"halut\.revive_every must be at least 1, got 0"):
        halut.PQ(revive_every=0)
