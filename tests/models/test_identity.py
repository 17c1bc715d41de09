"""Layers that `model.options.identity` leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.models.build import build_model
from halut.models.identity import keeps_shape, leave_out


def test_named_layers_pass_their_input_on() -> None:
    names = ["blocks.0.attn.proj", "/blocks.2.attn.pro./"]
    model = build_model("tiny_vit", 10, 1, patch=2, identity=names)
    left = [type(block.attn.proj) for block in model.blocks]
    assert left == [nn.Identity, nn.Linear, nn.Identity, nn.Linear]
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_any_source_and_a_single_name() -> None:
    model = build_model("resnet18", 10, 3, identity="layer1.0.conv1")
    assert type(model.layer1[0].conv1) is nn.Identity
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("blocks.*.mlp.fc1", "blocks.0.mlp.fc1 changes the shape .*: blocks.0.attn.proj, "),
        ("blocks.9.*", "'blocks.9.*' matches no layer; .*: blocks.0.attn.proj, "),
    ],
)
def test_what_cannot_be_left_out_is_refused_with_what_can(pattern: str, says: str) -> None:
    with pytest.raises(HalutError, match=says):
        build_model("tiny_vit", 10, 1, identity=[pattern])


@pytest.mark.parametrize(
    ("layer", "keeps"),
    [
        (nn.Linear(4, 4), True),
        (nn.Linear(4, 5), False),
        (nn.Conv2d(4, 4, 3, padding=1), True),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), True),
        (nn.Conv2d(4, 4, 4, padding="same"), True),
        (nn.Conv2d(4, 4, (3, 1), padding=(1, 0)), True),
        (nn.Conv2d(4, 4, 3), False),
        (nn.Conv2d(4, 4, 3, 2, 1), False),
        (nn.Conv2d(4, 4, 4, padding=2), False),
        (nn.Conv2d(4, 8, 1), False),
    ],
    ids=str,
)
def test_a_layer_keeps_shape_if_it_does_so_on_two_sizes(layer: nn.Module, keeps: bool) -> None:
    inputs = [torch.zeros(1, 4, size, size + 1) for size in (9, 12)]
    if isinstance(layer, nn.Linear):
        inputs = [torch.zeros(3, 4)]
    assert keeps_shape(layer) is keeps
    assert all(layer(x).shape == x.shape for x in inputs) is keeps


def test_no_pattern_changes_nothing() -> None:
    model = build_model("resnet8", 10, 1)
    before = str(model)
    leave_out(model, [])
    assert str(model) == before


def test_depth_and_hidden_features_of_local_models() -> None:
    def size(name: str, **options: int) -> int:
        return sum(p.numel() for p in build_model(name, 10, 1, **options).parameters())

    assert size("tiny_vit", patch=2, dim=32, depth=1, mlp_dim=48) == size(
        "tiny_vit", patch=2, dim=32, depth=1, mlp_dim=47
    ) + (2 * 32 + 1)
    assert size("resnet20", blocks=1) < size("resnet20", blocks=2) < size("resnet20")
    with pytest.raises(HalutError, match="blocks must be at least 1, got 0"):
        build_model("resnet20", 10, 1, blocks=0)
