"""What every local network must do; a newly registered one is tested by itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from halut.errors import HalutError
from halut.models import models
from halut.models.build import build_model

IMAGES = [(3, 32, 32), (1, 28, 28), (1, 8, 8)]
SHAPES = {"ds_cnn": [(1, 49, 10), (1, 98, 40)]}
"""Input shapes of networks that do not take images."""
OPTIONS = {"resnet9": {"width": 8}, "tiny_vit": {"patch": 2}}
"""Smaller, or fitting all of IMAGES."""
CASES = [(name, shape) for name in models for shape in SHAPES.get(name, IMAGES)]


def build(name: str, in_channels: int, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, 7, in_channels, source="local", **{**OPTIONS.get(name, {}), **options})


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_logits_and_gradients(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape[0])
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    F.cross_entropy(logits, torch.tensor([0, 3, 6])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert bool(torch.isfinite(parameter.grad).all()), key


@pytest.mark.parametrize("name", list(models))
def test_every_parameter_learns(name: str) -> None:
    """No parameter is without effect: each one's gradient is non-zero somewhere."""
    shape = SHAPES.get(name, IMAGES)[0]
    model = build(name, shape[0])
    F.cross_entropy(model(torch.randn(4, *shape)), torch.arange(4)).backward()
    still = [key for key, p in model.named_parameters() if not bool(p.grad.any())]
    assert still == []


@pytest.mark.parametrize("name", list(models))
def test_sites_are_plain_named_modules(name: str) -> None:
    """Replacement finds Conv2d and Linear by exact type and by one name each."""
    model = build(name, SHAPES.get(name, IMAGES)[0][0])
    products = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert {type(m) for m in products} <= {nn.Conv2d, nn.Linear}
    names = [key for key, _ in model.named_modules(remove_duplicate=False)]
    assert len(names) == len(list(model.named_modules())), "a module with two names"
    last = list(model.named_modules())[-1]
    assert last[0] in {"fc", "head"}
    assert last[1] is products[-1]
    assert last[1].out_features == 7


@pytest.mark.parametrize("name", list(models))
def test_no_activation_is_shared(name: str) -> None:
    """Each activation module runs once in a forward pass."""
    shape = SHAPES.get(name, IMAGES)[0]
    model = build(name, shape[0]).eval()
    runs: dict[str, int] = {}
    for key, module in model.named_modules():
        if isinstance(module, nn.ReLU | nn.GELU):
            runs[key] = 0
            module.register_forward_hook(
                lambda *_, key=key: runs.__setitem__(key, runs[key] + 1)  # type: ignore[misc]
            )
    model(torch.randn(1, *shape))
    assert runs
    assert set(runs.values()) == {1}


@pytest.mark.parametrize("name", ["resnet8", "resnet9", "resnet20", "ds_cnn"])
def test_every_convolution_with_bn_has_no_bias(name: str) -> None:
    model = build(name, 1)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    free = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is None]
    assert norms
    assert len(norms) == len(free)


def size(model: nn.Module) -> tuple[int, int, int]:
    """Parameters; running statistics; convolution biases that a batch norm would swallow."""
    parameters = sum(p.numel() for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    swallowed = sum(
        m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is None
    )
    return parameters, sum(2 * m.num_features for m in norms), swallowed


@pytest.mark.parametrize(
    ("name", "classes", "in_channels", "published"),
    [("resnet8", 10, 3, 78_666), ("ds_cnn", 12, 1, 24_908)],
)
def test_size_of_mlperf_tiny(name: str, classes: int, in_channels: int, published: int) -> None:
    """Keras' total of the reference: parameters, running statistics and all conv biases."""
    assert sum(size(build_model(name, classes, in_channels))) == published


@pytest.mark.parametrize(
    ("name", "published"), [("resnet20", 0.27e6), ("resnet9", 6.57e6), ("resnet8", 78e3)]
)
def test_size_as_published(name: str, published: float) -> None:
    assert size(build_model(name, 10))[0] == pytest.approx(published, rel=0.005)


def test_ds_cnn_maps_are_25_by_5() -> None:
    model = build_model("ds_cnn", 12, 1)
    assert model.conv1(torch.zeros(1, 1, 49, 10)).shape == (1, 64, 25, 5)


def test_resnet20_shortcut_keeps_every_second_pixel() -> None:
    shortcut = models["resnet20"](10).layer2[0].shortcut
    x = torch.randn(2, 16, 5, 6)
    y = shortcut(x)
    assert y.shape == (2, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y.abs().sum() == x[:, :, ::2, ::2].abs().sum()


def test_tiny_vit_depends_on_positions() -> None:
    """Without the place code the mean over tokens would not see where a patch is."""
    model = build("tiny_vit", 1).eval()
    x = torch.randn(1, 1, 8, 8)
    moved = torch.roll(x, 2, dims=-1)
    assert not torch.allclose(model(x), model(moved), atol=1e-4)


def test_tiny_vit_names_the_patch_that_does_not_fit() -> None:
    with pytest.raises(HalutError, match="28x28 are no whole number of patches of 5"):
        build("tiny_vit", 1, patch=5)(torch.zeros(1, 1, 28, 28))
    with pytest.raises(HalutError, match="multiple of heads=3"):
        build("tiny_vit", 1, dim=64, heads=3)
