"""The public verbs on networks that no registry knows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import halut
from halut.replace import swap
from halut.replace.swap import replaced_layers


class Own(nn.Module):
    """Two inputs by keyword, a dictionary as output; convolutions, a norm and Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Linear(12, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, image, extra):
        x = F.relu(self.norm(self.conv(F.relu(self.stem(image)))))
        x = torch.cat([x.mean((2, 3)), extra], 1)
        return {"logits": self.head(F.relu(self.mix(x)))}


def made(seed: int = 0) -> Own:
    torch.manual_seed(seed)
    return Own()


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randn(16, 3, 6, 6, generator=generator),
            "extra": torch.randn(16, 4, generator=generator),
            "labels": torch.arange(16) % 4,
        }
        for _ in range(count)
    ]


def answer(network, batch):
    return network(batch["image"], batch["extra"])["logits"]


def loop(network):
    for batch in batches():
        network(batch["image"], extra=batch["extra"])


def test_a_network_of_ones_own_is_replaced_in_place():
    network, data = made(), batches()
    exact = answer(made().eval(), data[0])
    plan = halut.replace_(network, halut.Tree(K=4, V=3), data)
    assert [entry.site.name for entry in plan.replaced] == ["conv", "mix"]
    assert plan["conv"].options["C"] == 24
    assert plan["stem"].reason == "first layer (policy.keep_first)"
    assert network.training
    assert all(layer.training for _, layer in replaced_layers(network))
    far = F.mse_loss(answer(network.eval(), data[0]), exact) / exact.var()
    assert 0 < far < 0.3


def test_a_forward_loop_gives_what_its_batches_give():
    by_batch, by_loop, by_one_pass = made(), made(), made()
    halut.replace_(by_batch, halut.Tree(K=4), batches())
    halut.replace_(by_loop, halut.Tree(K=4), loop)
    halut.replace_(by_one_pass, halut.Tree(K=4), iter(batches()), calibrate="original")
    assert swap.digest(by_batch) == swap.digest(by_loop) != swap.digest(by_one_pass)
    assert halut.errors(by_batch, batches()) == halut.errors(by_loop, loop)


def test_asymmetric_calibration_answers_what_the_exact_network_does():
    data, errors = [torch.randn(256, 16, generator=torch.Generator().manual_seed(1))], {}
    for calibrate in ("replaced", "asymmetric"):
        torch.manual_seed(0)
        layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.ReLU())]
        network = nn.Sequential(nn.Linear(16, 16), *layers, nn.Linear(16, 4))
        exact = network(data[0])
        halut.replace_(network, halut.Tree(K=4, V=4), data, calibrate=calibrate, rows=200)
        errors[calibrate] = float(F.mse_loss(network(data[0]), exact) / exact.var())
    assert errors["asymmetric"] < 0.9 * errors["replaced"]


def test_rules_go_before_the_configuration_and_keep_before_all():
    rules = [
        ("m*", halut.Integer(width=4, activation=None)),
        halut.Rule(kind="conv2d", operator="tree", options={"K": 8}),
    ]
    network = made()
    plan = halut.replace_(network, halut.Tree(K=4, V=5), batches(), rules=rules, keep=["stem"])
    assert {e.site.name: e.operator for e in plan} == {
        "stem": "keep",
        "conv": "tree",
        "mix": "integer",
        "head": "keep",
    }
    assert (plan["conv"].options["K"], plan["conv"].options["C"]) == (8, 15)
    assert plan["mix"].options["activation"] is None
    assert plan["mix"].options["weight"]["width"] == 4


def test_options_of_the_default_stay_out_of_a_rule():
    config = halut.Integer(weight=halut.Binary(per="tensor"))
    plan = halut.replace_(made(), config, batches(), rules=[("mix", halut.Integer())])
    assert plan["mix"].options["weight"]["name"] == "integer"
    assert plan["mix"].options["weight"]["per"] == "auto"
    assert plan["conv"].options["weight"] == {"name": "binary", "per": "tensor"} | {
        key: plan["conv"].options["weight"][key] for key in ("gradient", "unsigned")
    }


def test_rules_alone_and_only():
    rules = [("stem", halut.MXINT8()), ("head", "keep")]
    assert [e.site.name for e in halut.replace_(made(), None, loop, rules=rules).replaced] == [
        "stem"
    ]
    plan = halut.replace_(made(), halut.PQ(K=4), loop, only=["head"], keep_last=False)
    assert [entry.site.name for entry in plan.replaced] == ["head"]


def test_pruning_over_all_layers_is_settled():
    network = made()
    plan = halut.replace_(network, halut.Prune(scope="global", sparsity=0.6), loop)
    shares = [entry.options["weight"]["sparsity"] for entry in plan.replaced]
    sizes = [entry.site.weights for entry in plan.replaced]
    zeros = sum(a * b for a, b in zip(shares, sizes, strict=True))
    assert round(zeros) == round(0.6 * sum(sizes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": halut.Tree()}, "calibration is missing"),
        ({"config": halut.Tree(), "calibration": []}, "no batches"),
        ({"config": halut.Tree(C=99), "calibration": loop}, r"C must be in 1\.\.72"),
        ({"config": halut.Tree(K=5), "calibration": loop}, "power of two"),
        ({"config": halut.Tree(), "calibration": loop, "keep": ["fc"]}, "'fc' matches no layer"),
        ({"calibration": loop}, "replaces nothing"),
        ({"calibration": loop, "rules": [("mix", "tree")]}, "wants a configuration"),
        ({"calibration": loop, "rules": [halut.Rule(operator=None)]}, "means config"),
        ({"config": halut.Tree(), "calibration": loop, "calibrate": "both"}, "unknown calibrate"),
    ],
)
def test_what_cannot_be_is_refused_with_the_network_as_it_was(arguments, message):
    network = made()
    with pytest.raises(halut.HalutError, match=message):
        halut.replace_(network, **arguments)
    assert not list(replaced_layers(network))
    assert swap.digest(network) == swap.digest(made())


def test_a_failure_in_the_middle_puts_back_what_was_replaced():
    network, calls = made(), []

    def fails(net):
        calls.append(len(list(replaced_layers(net))))
        if calls[-1] == 1:
            raise RuntimeError("out of data")
        loop(net)

    with pytest.raises(RuntimeError, match="out of data"):
        halut.replace_(network, halut.Tree(K=4), fails)
    assert calls == [0, 0, 0, 1]  # an example, the exact rows, those of either layer
    assert isinstance(network.conv, nn.Conv2d)
    assert swap.digest(network) == swap.digest(made())


def test_attach_does_what_the_layers_need_after_every_step():
    network, data = made(), batches(1)[0]
    halut.replace_(network, halut.Tree(K=4, estimator="blend"), loop)
    groups = halut.param_groups(network, lr=0.0, temperature=1e4, thresholds={"lr": 0.1})
    assert {group["role"] for group in groups} == {"temperature", "thresholds"}
    optimizer = torch.optim.SGD(groups)
    handle = halut.attach(optimizer, network, steps=4)
    for step in range(1, 6):
        optimizer.zero_grad()
        F.cross_entropy(answer(network, data), data["labels"]).backward()
        network.mix.tau.grad = torch.ones(())  # drives it far below zero
        optimizer.step()
        assert network.mix.tau.item() == pytest.approx(1e-4)
        assert float(network.mix.blend) == min(step / 4, 1.0)
    handle.remove()
    optimizer.step()
    assert network.mix.tau.item() < 0


def test_attach_refuses_what_would_train_nothing():
    network = made()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(halut.HalutError, match="no replaced layers"):
        halut.attach(optimizer, network, 10)
    halut.replace_(network, halut.Tree(K=4), loop)
    with pytest.raises(halut.HalutError, match="make it after replace_"):
        halut.attach(optimizer, network, 10)
    with pytest.raises(halut.HalutError, match="unknown role 'tables'; did you mean table"):
        halut.param_groups(network, tables=1.0)


def test_cost_counts_the_exact_and_the_replaced_network():
    network, data = made(), batches(1)[0]
    parameters = sum(p.numel() for p in network.parameters())
    before = halut.cost(network, data)
    assert before["exact"] == before["replaced"]
    macs = {"stem": 36 * 27 * 8, "conv": 36 * 72 * 8, "mix": 12 * 16, "head": 16 * 4}
    assert before["exact"]["macs"] == sum(macs.values())
    halut.replace_(network, halut.Tree(K=4, V=3), loop)
    after = halut.cost(network, data)
    assert after["exact"] == before["exact"]
    assert after["exact"]["weight_bytes"] == 4 * parameters
    assert after["replaced"]["macs"] == macs["stem"] + macs["head"]
    assert after["replaced"]["lookups"] == 36 * 24 * 8 + 4 * 16
    assert after["layers"]["conv"]["table_bytes"] == 24 * 4 * 8


def test_recalibrate_takes_keywords_and_loops():
    by_batch, by_loop = made(), made()
    for network, data in ((by_batch, batches()), (by_loop, loop)):
        halut.replace_(network, halut.Tree(K=4), data)
        assert halut.recalibrate(network, data) == 3
    assert torch.equal(by_batch.norm.running_mean, by_loop.norm.running_mean)
    assert bool(by_batch.norm.running_mean.any())


@pytest.mark.parametrize("config", [halut.Tree(K=4), halut.PQ(K=4), halut.LQNet(), halut.Exact()])
def test_what_is_saved_is_loaded_without_a_registry(config, tmp_path):
    network, data = made(), batches(1)[0]
    halut.replace_(network, config, loop)
    network.eval()
    halut.save(network, tmp_path / "mine")
    names = ["README.md", "model.safetensors", "plan.json", "report.json"]
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == names
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    again = halut.load(tmp_path / "mine", factory=Own)
    assert torch.equal(answer(again, data), answer(network, data))
    other = made(5)
    plan = halut.load_into(other, tmp_path / "mine")
    assert [entry.site.name for entry in plan.replaced] == ["conv", "mix"]
    assert torch.equal(answer(other.eval(), data), answer(network, data))
    assert halut.plan_of(other) == halut.plan_of(network)
    with pytest.raises(halut.HalutError, match=r"give halut\.load a factory"):
        halut.load(tmp_path / "mine")
    card = (tmp_path / "mine/README.md").read_text()
    assert "halut.load_into(network, FOLDER)" in card
    assert f"| mix | {config.name} |" in card
    assert "None" not in card


def test_shared_encoders_are_saved_as_such(tmp_path):
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.q(x) * self.k(x))

    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    network = Twins().eval()
    halut.replace_(network, halut.PQ(K=4), [x], share=True, keep_first=False)
    assert network.q.encoder is network.k.encoder
    halut.save(network, tmp_path / "mine")
    again = halut.load(tmp_path / "mine", Twins)
    assert again.q.encoder is again.k.encoder
    assert torch.equal(again(x), network(x))


def test_a_network_of_the_registry_needs_no_factory(tmp_path):
    from halut.models.build import build_model

    torch.manual_seed(0)
    model = {"name": "resnet8", "num_classes": 10, "in_channels": 1, "options": {"width": 4}}
    network, x = build_model("resnet8", 10, 1, width=4).eval(), torch.randn(8, 1, 8, 8)
    halut.replace_(network, halut.Tree(K=4), [x])
    halut.save(network, tmp_path / "mine", model)
    assert torch.equal(halut.load(tmp_path / "mine")(x), network(x))


def test_attentions_products_are_replaced_where_a_rule_means_them(tmp_path):
    from halut.models.build import build_model

    torch.manual_seed(0)
    network, x = build_model("tiny_vit", 10, 1).eval(), torch.randn(8, 1, 8, 8)
    exact = network(x).detach()
    rule = halut.Rule(kind="attention", operator="integer", options={"width": 6})
    plan = halut.replace_(network, None, [x], rules=[rule])
    assert len(plan.replaced) == 4
    assert {entry.site.kind for entry in plan.replaced} == {"attention"}
    assert 0 < (network(x) - exact).abs().max() < 0.3
    halut.save(network, tmp_path / "mine")
    again = halut.load(tmp_path / "mine", lambda: build_model("tiny_vit", 10, 1))
    assert torch.equal(again(x), network(x))


def test_a_network_of_several_inputs_is_prepared_without_an_example():
    network, data = made(), batches(1)[0]
    halut.replace_(network, halut.Tree(K=4), loop)
    network.eval()
    ready = halut.prepare(network)
    assert torch.allclose(answer(ready, data), answer(network, data), atol=1e-5)
    assert not list(replaced_layers(ready))


def test_saving_is_whole_and_touches_no_other_folder(tmp_path, monkeypatch):
    network = made()
    with pytest.raises(halut.HalutError, match="no replaced layers"):
        halut.save(network, tmp_path / "mine")
    halut.replace_(network, halut.Tree(K=4), loop)
    halut.save(network, tmp_path / "mine")
    before = (tmp_path / "mine/model.safetensors").read_bytes()
    with torch.no_grad():
        network.head.weight.add_(1)
    monkeypatch.setattr("halut.bundle.card", lambda plan, report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        halut.save(network, tmp_path / "mine")
    assert (tmp_path / "mine/model.safetensors").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    monkeypatch.undo()
    halut.save(network, tmp_path / "mine")
    assert (tmp_path / "mine/model.safetensors").read_bytes() != before
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("kept")
    with pytest.raises(halut.HalutError, match=r"no plan\.json"):
        halut.save(network, tmp_path / "other")
    assert (tmp_path / "other/thesis.txt").read_text() == "kept"


def test_a_bundle_of_another_network_is_refused(tmp_path):
    network = made()
    halut.replace_(network, halut.Tree(K=4), loop)
    halut.save(network, tmp_path / "mine")
    other = made()
    other.mix = nn.Linear(12, 20)
    with pytest.raises(halut.HalutError, match="made for another network: mix"):
        halut.load_into(other, tmp_path / "mine")
    with pytest.raises(halut.HalutError, match="neither a bundle"):
        halut.load_into(other, tmp_path)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_torch():
    heavy = ("torch", "numpy", "omegaconf", "hydra", "lightning")
    code = "import halut, sys, json; halut.Tree(), halut.HalutError, dir(halut)\n"
    code += f"print(json.dumps([[n for n in {heavy!r} if n in sys.modules], len(sys.modules)]))"
    loaded, count = json.loads(python(code))
    assert loaded == []
    assert count < 150


def test_every_public_name_is_there_and_errors_stays_a_verb():
    code = "import halut\n"
    code += "assert set(halut.__all__) <= set(dir(halut))\n"
    code += "for name in halut.__all__: getattr(halut, name)\n"
    code += "from halut.errors import HalutError\nassert HalutError is halut.HalutError\n"
    code += "import halut.cli\nprint(callable(halut.errors))"
    assert python(code).strip() == "True"
    with pytest.raises(AttributeError, match="no attribute 'replaces_'"):
        _ = halut.replaces_
