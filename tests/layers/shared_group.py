"""Groups of layers with one encoder, the same layers each by itself, and counters of encodes."""

from __future__ import annotations

import copy

import torch
from torch import nn

from halut.replace.operator_registry import make_operator
from halut.replace.sharing import share_encoder
from halut.sites.find import find_sites
from tests.layers.lut_oracle import inputs_of
from tests.oracles.im2col import im2col_reference

GROUPS = {
    "linear": (lambda M, bias: nn.Linear(11, M, bias), (2, 3, 11), {"C": 4}),
    "3x3": (lambda M, bias: nn.Conv2d(3, M, 3, padding=1, bias=bias), (2, 3, 6, 5), {}),
    "grouped": (
        lambda M, bias: nn.Conv2d(6, 3 * M, 3, 2, 1, groups=3, bias=bias),
        (2, 6, 7, 7),
        {"C": 4},
    ),
}
MEMBERS = ((6, True), (5, False), (1, True))
"""Outputs, and whether there is a bias."""


def group(case, encoder="tree", calibrated=True, **options):
    """The layers of a case, learned together, and an input."""
    build, shape, own = GROUPS[case]
    torch.manual_seed(0)
    layers = []
    for M, bias in MEMBERS:
        source = build(M, bias)
        site = find_sites(nn.Sequential(source), torch.zeros(1, *shape[1:]))[0][0]
        layer = make_operator(encoder, **{"K": 4, **own, **options}).build(site, source)
        if layers:
            share_encoder(layer, layers[0])
        if calibrated:
            layer.calibrate(im2col_reference(inputs_of((60, *shape[1:]), seed=7), site.geometry))
        layers.append(layer)
    return nn.ModuleList(layers), inputs_of(shape)


def apart(layers):
    """Copies of the layers with an encoder and a temperature each."""
    return nn.ModuleList([copy.deepcopy(layer) for layer in layers])


class Count:
    """How often the encoder of a group encodes, and pulls a gradient through itself."""

    def __init__(self, monkeypatch, encoder):
        self.encodes = self.gradients = 0
        kind = type(encoder)
        within = []

        def counted(name, count):
            original = getattr(kind, name)

            def call(this, *args, **kwargs):
                if this is encoder and not within:  # `codes` may go by `encode`
                    setattr(self, count, getattr(self, count) + 1)
                within.append(name)
                try:
                    return original(this, *args, **kwargs)
                finally:
                    within.pop()

            monkeypatch.setattr(kind, name, call)

        for name in ("codes", "encode", "lookup"):  # the last one encodes within
            counted(name, "encodes")
        counted("gradient", "gradients")

    def take(self):
        """(encodes, gradients) since the last call."""
        counts = self.encodes, self.gradients
        self.encodes = self.gradients = 0
        return counts


def step(layers, x, seed=3):
    """Answers, and the gradients of x and of every parameter, summed over parameters of one name.

    All answers are in the loss: one backward pass.
    """
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    for parameter in layers.parameters():
        parameter.grad = None
    answers = [layer(x) for layer in layers]
    torch.manual_seed(seed)
    grads = [torch.randn_like(y) for y in answers]
    torch.autograd.backward(answers, grads)
    return answers, {"x": x.grad, **gradients(layers)}


def gradients(layers):
    """Those of tau and the encoder are the sums over all layers that have them."""
    results = {}
    seen = set()
    for index, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            key = name if name == "tau" or name.startswith("encoder.") else f"{index}.{name}"
            if parameter.grad is not None:
                results[key] = results.get(key, 0) + parameter.grad
    return results


def assert_same_gradients(ours, theirs):
    """Equal up to the order of sums: 1e-4 of the largest value of a tensor, in bfloat16 2e-2."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        tolerance = 2e-2 if expected.dtype == torch.bfloat16 else 1e-4
        atol = tolerance * float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(ours[name], expected, rtol=tolerance, atol=atol)
