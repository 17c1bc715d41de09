"""Sensitivity of networks of any signature, and its figures by their definitions."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import halut
from halut.analysis.sensitivity import Candidate, candidates_of, evaluate, sensitivity
from halut.errors import HalutError
from halut.sites.calls import batch_call
from halut.sites.find import find_sites

N = 96


class Two(nn.Module):
    """Two inputs, rank 3 inside, one layer called twice, a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 8)
        self.twice = nn.Linear(8, 8)
        self.conv = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.out = nn.Linear(8, 3)

    def forward(self, u, v):
        x = self.left(u) + self.right(v)[:, None]  # [B, 5, 8]
        x = F.relu(self.twice(F.relu(self.twice(x))))
        x = self.conv(x[:, :4, :, None].expand(-1, -1, -1, 2))
        return self.out(x.mean((2, 3)))


class Mapped(Two):
    def forward(self, batch):
        return super().forward(batch["u"], batch["v"])


class Answers(Two):
    def forward(self, u, v, labels=None):
        return {"logits": super().forward(u, v), "hidden": u}


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Attributes(Two):
    def forward(self, u, v):
        return Output(super().forward(u, v), u)


@pytest.fixture(scope="module")
def inputs():
    draw = torch.Generator().manual_seed(5)
    u, v = torch.randn(N, 5, 6, generator=draw), torch.randn(N, 4, generator=draw)
    return u, v, torch.randint(3, (N,), generator=draw)


CONFIGS = [halut.Tree(K=4), halut.PQ(K=8), halut.Integer(width=3)]


def outcome(network, example, data):
    sites, _ = find_sites(network, example)
    measured = sensitivity(
        network, candidates_of(sites, CONFIGS[2:]), data, data, taylor_samples=70
    )
    return {
        (m.candidate.site.name, m.candidate.entry.operator, m.score): {
            key: value for key, value in m.figures.items() if not key.startswith("seconds")
        }
        for m in measured
    }


def test_inputs_and_answers_of_every_kind_give_the_same_figures(inputs):
    u, v, y = inputs
    plain = outcome(Two(), (u[:1], v[:1]), [((u, v), y)])
    assert len(plain) == 5 * 2
    named = {"u": u, "v": v}
    for network, batch in (
        (Two(), named),
        (Two(), halut.Call(u, v=v)),
        (Mapped(), named),
        (Answers(), {**named, "labels": y}),
        (Attributes(), (u, v)),
    ):
        example = batch_call(network, (batch, y)).head(1)
        assert outcome(network, example, [(batch, y)]) == plain


def test_a_data_loader_as_the_readme_has_it(inputs):
    u, _, y = inputs
    network = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3))
    loader = DataLoader(TensorDataset(u, y), batch_size=20, shuffle=True)
    sites, _ = halut.find_sites(network, u[:1])
    results = sensitivity(network, candidates_of(sites, [halut.Tree(C=4)]), loader, loader)
    assert [(r.candidate.site.name, r.score) for r in results] == [
        *(("1", "measured"), ("1", "fisher"), ("3", "measured"), ("3", "fisher"))
    ]


def perplexity_and_dead(codes, K):
    """By codebook: exp of the entropy of the codes, and codes that are never used."""
    figures = []
    for column in codes.flatten(0, -2).T:
        shares = torch.tensor([float((column == k).double().mean()) for k in range(K)])
        used = shares[shares > 0]
        figures.append((math.exp(-float((used * used.log()).sum())), int((shares == 0).sum())))
    return sum(p for p, _ in figures) / len(figures), sum(dead for _, dead in figures)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("name", ["twice", "conv"])
def test_every_figure_is_that_of_its_definition(inputs, name, config):
    u, v, y = inputs
    network = Two().eval()
    data = [((u, v), y)]
    (site,) = [each for each in find_sites(network, (u[:1], v[:1]))[0] if each.name == name]
    measured, fisher = (
        each.figures for each in sensitivity(network, [Candidate.of(site, config)], data, data)
    )
    by_hand, calls = copy.deepcopy(network), []
    rules = [(name, config), ("*", "keep")]
    halut.replace_(by_hand, calibration=data, rules=rules, calibrate="original", rows=16_384)
    layer, source = by_hand.get_submodule(name), network.get_submodule(name)
    layer.register_forward_hook(lambda _, args, answer: calls.append((args[0], answer)))
    with torch.no_grad():
        answers = by_hand(u, v)
        pairs = [(answer.double().flatten(), source(x).double().flatten()) for x, answer in calls]
        a, e = (torch.cat(each) for each in zip(*pairs, strict=True))
    exact = network(u, v).argmax(1)
    design = torch.stack([a, torch.ones_like(a)], 1)
    solution = torch.linalg.lstsq(design, e[:, None]).solution[:, 0]
    accuracy, before = (100 * float((c == y).double().mean()) for c in (answers.argmax(1), exact))
    expected = {
        "accuracy": accuracy,
        "lost": before - accuracy,
        "loss": float(F.cross_entropy(answers.double(), y)),
        "mae": float((a - e).abs().mean()),
        "mse": float((a - e).square().mean()),
        "normalized_mse": float((a - e).square().sum() / e.square().sum()),
        "cosine": float(F.cosine_similarity(a, e, 0)),
        "scaled_error": float((e - design @ solution).square().mean() / e.var(correction=0)),
        "scaled_shift": float(solution[1] / e.std(correction=0)),
    }
    if config.name != "integer":
        with torch.no_grad():
            codes = torch.cat([layer.codes(x).flatten(0, -2) for x, _ in calls])
        pair = perplexity_and_dead(codes, config.K)
        expected["code_perplexity"], expected["dead_codes"] = pair
    assert {key: measured[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)

    products = []
    for index in range(N):  # <g, dy> of one sample: the loss's slope where dy is added
        one = (u[index : index + 1], v[index : index + 1])
        slope = torch.zeros((), requires_grad=True)

        def add(_, args, answer, slope=slope):
            with torch.no_grad():
                change = layer(args[0]) - source.forward(args[0])
            return answer + slope * change

        handle = source.register_forward_hook(add)
        loss = F.cross_entropy(network(*one), y[index : index + 1])
        products.append(float(torch.autograd.grad(loss, slope)[0]))
        handle.remove()
    p = torch.tensor(products).double()
    orders = {"first_order": float(p.mean()), "second_order": float(p.square().mean() / 2)}
    assert {key: fisher[key] for key in orders} == pytest.approx(orders, rel=1e-3, abs=1e-7)


def test_the_exact_operator_changes_nothing(inputs):
    u, v, y = inputs
    network = Two()
    sites, _ = find_sites(network, (u[:1], v[:1]))
    found = list(
        sensitivity(network, candidates_of(sites, [halut.configs.Exact()]), [((u, v), y)] * 2,
                    [((u, v), y)])
    )  # fmt: skip
    assert len(found) == 5 * 2
    for each in found:
        assert each.figures["normalized_mse"] < 1e-12
        assert each.figures.get("lost", 0.0) == 0


@pytest.mark.parametrize(
    ("calibration", "batches", "message"),
    [
        (iter, list, "calibration is read again and again: a list or a data loader is wanted"),
        (list, iter, "batches is read again and again"),
        (lambda data: lambda network: None, list, "fisher needs batches of .inputs, targets."),
        (list, lambda data: [data[0][0]], "accuracy and loss need batches of .inputs, targets."),
    ],
)
def test_data_that_does_not_do_is_told(inputs, calibration, batches, message):
    u, v, y = inputs
    network, data = Two(), [(halut.Call(u, v), y)]
    sites, _ = find_sites(network, (u[:1], v[:1]))
    with pytest.raises(HalutError, match=message):
        list(
            sensitivity(
                network, candidates_of(sites, CONFIGS[:1]), calibration(data), batches(data)
            )
        )


def test_answers_without_logits_are_told(inputs):
    u, v, y = inputs
    network = Two()
    network.register_forward_hook(lambda *_: {"scores": y})
    with pytest.raises(HalutError, match="an answer with logits is wanted of the network, got dic"):
        evaluate(network, [((u, v), y)])


def test_what_is_done_meanwhile_is_left_out(inputs):
    u, v, y = inputs
    network, data, done = Two(), [((u, v), y)], set()
    sites, _ = find_sites(network, (u[:1], v[:1]))
    names = []

    def select(candidate, score):
        return (candidate.site.name, score) not in done

    for each in sensitivity(network, candidates_of(sites, CONFIGS), data, data, select=select):
        names.append((each.candidate.site.name, each.score))
        done.update([("right", "measured"), ("conv", "measured"), ("conv", "fisher")])
    assert names.count(("left", "measured")) == names.count(("right", "fisher")) == 3
    assert not done & set(names)
