"""Image preprocessing of a pretrained network: size, normalization, resizing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halut.models.build import find_source
from halut.models.config import ModelConfig
from halut.models.from_torchvision import describe


def preprocessing(model: ModelConfig) -> dict[str, Any]:
    """image_size, interpolation, crop_pct, mean and std of the weights `model` starts from.

    Without model.pretrained, image_size alone of a network that takes no other; {} for networks
    without published weights. Nothing is fetched and no network is built. Raises HalutError for an
    unknown model.
    """
    published = _published(model)
    if published and not model.pretrained:
        size = model.options.get("img_size", published["input_size"][-1])
        return {"image_size": int(size)} if published.get("fixed_input_size") else {}
    if not published:
        return {}
    return {
        "image_size": int(published["input_size"][-1]),
        "interpolation": published["interpolation"],
        "crop_pct": float(published["crop_pct"]),
        "mean": list(published["mean"]),
        "std": list(published["std"]),
    }


def with_pretrained_preprocessing(fields: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """The data options `fields`, each that is null given as the network asks for it.

    Options that the data set does not have stay away, those with a value keep it.
    """
    required = preprocessing(model)
    return {k: required.get(k) if value is None else value for k, value in fields.items()}


def new_classifier(model: ModelConfig, num_classes: int) -> bool:
    """True if `model` starts from published weights of another number of classes, less theirs."""
    if not model.pretrained or model.weights is not None:
        return False
    return bool(_published(model).get("num_classes", 1000) != num_classes)


def _published(model: ModelConfig) -> Mapping[str, Any]:
    """timm's description of the weights, torchvision's in the same words, or {}."""
    source = find_source(model.name, model.source)
    if source == "timm":
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(model.name)
        return config.to_dict() if config is not None else {}
    if source == "torchvision":
        from torchvision.models import get_model_weights

        return describe(model.name, get_model_weights(model.name).DEFAULT)
    return {}
