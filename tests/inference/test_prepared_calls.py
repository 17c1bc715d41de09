"""Networks of several, keyword and mapping inputs, prepared on an example of any form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import halut
from halut.errors import HalutError
from halut.inference import PackedLayer
from halut.sites.calls import Call, batch_call
from halut.sites.usage import same
from tests.test_api import Own, batches
from tests.test_calls import CASES


def replaced(network: nn.Module, batch) -> nn.Module:
    halut.replace_(network, halut.Tree(K=4), [batch], keep_first=False, keep_last=False)
    return network.eval()


@pytest.mark.parametrize("name", CASES)
def test_every_signature_is_prepared_and_answers_the_same(name):
    kind, batch = CASES[name]
    torch.manual_seed(0)
    network = replaced(kind(), batch)
    call = batch_call(network, batch)
    example = batch[0] if isinstance(batch, tuple) else batch
    ready = halut.prepare(network, example)
    assert sum(isinstance(module, PackedLayer) for module in ready.modules()) == 3
    for some in (call, call.head(7), call.map(lambda t: t[3:5])):
        assert same(some(ready), some(network))


@pytest.mark.parametrize("form", ["mapping", "tuple", "call"])
def test_norms_are_folded_as_in_a_network_of_one_input(form, caplog):
    torch.manual_seed(0)
    batch = batches()[0]
    network, inputs = replaced(Own(), batch), (batch["image"], batch["extra"])
    example = {"mapping": batch, "tuple": inputs, "call": Call(inputs[0], extra=inputs[1])}[form]
    ready = halut.prepare(network, example)
    assert not caplog.records
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    for rows in (16, 5, 1):
        image, extra = (t[:rows] for t in inputs)
        expected = network(image, extra)
        assert same(ready(image, extra), expected)
        assert same(ready(image=image, extra=extra), expected)


class AnyKeywords(Own):
    """torch.fx has no names for what this takes: its parts are prepared alone."""

    def forward(self, **inputs):
        return super().forward(inputs["image"], inputs["extra"])


def test_any_keywords_are_passed_on():
    torch.manual_seed(0)
    batch = batches()[0]
    network = replaced(AnyKeywords(), batch)
    ready = halut.prepare(network, batch)
    assert same(ready(**batch), network(**batch))
    assert any(isinstance(module, PackedLayer) for module in ready.modules())


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("a loader", "the example must be a batch of at least one input"),
        ({"image": torch.zeros(0, 3, 6, 6), "extra": torch.zeros(0, 4)}, "at least one input"),
        ({"image": torch.zeros(2, 3, 6, 6)}, r"cannot take Call\(\{'image': \[2, 3, 6, 6\]\}\)"),
        ((torch.zeros(2, 3, 6, 6),), r"cannot take an input of shape \[2, 3, 6, 6\]: TypeError"),
    ],
)
def test_what_is_no_example_is_refused_in_one_line(example, message):
    network = replaced(Own(), batches()[0])
    with pytest.raises(HalutError, match=message) as refused:
        halut.prepare(network, example)
    assert "\n" not in str(refused.value)


def test_bytes_between_layers_are_for_one_input():
    batch = batches()[0]
    with pytest.raises(HalutError, match="calibration must be a Tensor, the network's one input"):
        halut.prepare(replaced(Own(), batch), calibration=batch)
