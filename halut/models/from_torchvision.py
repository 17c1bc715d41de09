"""torchvision classifiers with timm's interface."""

from __future__ import annotations

from typing import Any

from torch import nn

from halut.errors import HalutError


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def build_torchvision(
    name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    """A classifier with a `pretrained_cfg` of timm's form and no auxiliary outputs.

    Raises HalutError unless in_channels is 3: torchvision has no other stems.
    """
    from torchvision.models import get_model, get_model_weights

    if in_channels != 3:
        raise HalutError(
            f"torchvision model {name!r} takes 3 input channels, got {in_channels}; choose a timm "
            "or local model, or make the data set's images RGB (data.channels=3 of image_folder)"
        )
    model = get_model(name, weights=None, num_classes=num_classes, **options)
    drop_auxiliary(model)
    published = get_model_weights(name).DEFAULT
    if pretrained:
        trained = get_model(name, weights=published, **options)
        drop_auxiliary(trained)
        copy_matching(trained, model, name)
    model.pretrained_cfg = describe(name, published)
    return model


def drop_auxiliary(model: nn.Module) -> None:
    """Remove GoogLeNet's and Inception's auxiliary classifiers: forward then returns logits."""
    if getattr(model, "aux_logits", False):
        model.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)


def copy_matching(source: nn.Module, target: nn.Module, name: str) -> None:
    """Copy every tensor of `source` but those of a classifier with another number of classes.

    Raises HalutError if more than one module (weight and bias) differs in shape.
    """
    state, target_state = source.state_dict(), target.state_dict()
    differ = {key for key in state if state[key].shape != target_state[key].shape}
    if len({key.rpartition(".")[0] for key in differ}) > 1:
        raise HalutError(f"torchvision model {name!r}: its options do not fit published weights")
    merged = {key: target_state[key] if key in differ else value for key, value in state.items()}
    target.load_state_dict(merged)


def describe(name: str, weights: Any) -> dict[str, Any]:
    """torchvision's evaluation transform in the words of timm's pretrained_cfg."""
    transform = weights.transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    return {
        "architecture": name,
        "tag": f"torchvision.{weights}",
        "hf_hub_id": None,
        "input_size": (3, crop, crop),
        "interpolation": transform.interpolation.value,
        "crop_pct": crop / resize,
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
    }
