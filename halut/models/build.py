"""Any network by name: local, timm's or torchvision's, or a class or function of a plugin."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from halut.errors import HalutError
from halut.models.builders import models
from halut.models.config import ModelConfig
from halut.models.from_torchvision import build_torchvision, torchvision_names
from halut.models.identity import leave_out
from halut.models.weights import load_weights
from halut.plugins import reference

SOURCES = ("local", "timm", "torchvision")
PLUGIN = "plugin"
"""The source of names of the form module:Name."""


def build_from(config: ModelConfig, num_classes: int, in_channels: int) -> nn.Module:
    """The network of a configuration, with its weights; the two counts are the data set's.

    Raises HalutError as build_model and load_weights do.
    """
    own = {"name", "num_classes", "in_channels", "source", "pretrained"}
    if clash := sorted(own & config.options.keys()):
        raise HalutError(f"model.options.{clash[0]}: give it as model.{clash[0]}")
    model = build_model(
        config.name,
        num_classes if config.num_classes is None else config.num_classes,
        in_channels if config.in_channels is None else config.in_channels,
        source=config.source,
        pretrained=config.pretrained and config.weights is None,
        **config.options,
    )
    if config.weights is not None:
        load_weights(model, config.weights)
    return model


def build_model(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    source: str = "auto",
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """A network with logits [B, num_classes] for inputs [B, in_channels, ...].

    `source` auto takes the first of local, timm, torchvision that has the name. my_module:MyNet or
    ./my_file.py:MyNet is a class or a function of a plugin, which is imported; it gets num_classes,
    in_channels (or in_chans) and pretrained where its signature has them. `pretrained` weights are
    timm's or torchvision's; a classifier of another number of classes starts anew. `options` go to
    the network's builder as keywords, but for `identity`: name patterns of layers that are left
    out, see halut.models.identity.leave_out.

    Raises HalutError for an unknown name or source, options that the network does not take, and
    pretrained weights that do not exist or cannot be fetched.
    """
    if num_classes < 1 or in_channels < 1:
        raise HalutError(
            f"model {name!r}: num_classes and in_channels must be at least 1, "
            f"got {num_classes} and {in_channels}"
        )
    origin = find_source(name, source)
    options, identity = dict(options), options.get("identity") or []
    options.pop("identity", None)
    build = {"local": _local, "timm": _timm, "torchvision": _torchvision, PLUGIN: _plugin}[origin]
    try:
        model = build(name, num_classes, in_channels, pretrained, options)
        if empty := [key for key, value in model.named_parameters() if value.numel() == 0]:
            raise ValueError(f"{empty[0]} would have no elements")
    except HalutError:
        raise
    # The hubs raise whatever their HTTP client of the day raises: no narrower class exists.
    except Exception as error:
        # A wrong option is a TypeError; with weights to fetch anything else is about those.
        if pretrained and not isinstance(error, TypeError):
            raise HalutError(_no_weights(name, origin, error)) from error
        arguments = {"num_classes": num_classes, "in_channels": in_channels, **options}
        raise HalutError(_not_built(name, origin, arguments, error)) from error
    leave_out(model, [identity] if isinstance(identity, str) else identity)
    return model


def find_source(name: str, source: str = "auto") -> str:
    """local, timm or torchvision: the first that has `name`, or `source` itself if it does.

    plugin for module:Name, whether or not there is such a module.

    Raises HalutError naming close matches from all three.
    """
    if source != "auto" and source not in SOURCES:
        raise HalutError(
            f"unknown model source {source!r}; choose one of: auto, {', '.join(SOURCES)}"
        )
    if source == "auto" and reference.split(name) is not None:
        return PLUGIN
    for candidate in SOURCES if source == "auto" else (source,):
        if _has[candidate](name):
            return candidate
    where = "in " + ", ".join(SOURCES) if source == "auto" else f"in {source}"
    close = [
        f"{match} ({candidate})"
        for candidate in SOURCES
        for match in difflib.get_close_matches(name, _names[candidate](), n=4, cutoff=0.6)
    ]
    hint = f"did you mean: {', '.join(close)}?" if close else f"local models: {', '.join(models)}"
    raise HalutError(f"unknown model {name!r} {where}; {hint}")


def pretrained_info(model: nn.Module) -> dict[str, Any]:
    """What is published about a timm or torchvision network's weights; {} for a local network.

    architecture, tag (which weights), hf_hub_id or None, input_size [channels, H, W], mean, std
    (per channel, of inputs in 0..1), interpolation, crop_pct (crop / resized side): plain values.
    The tag is that of the weights `pretrained` would load, whether or not it did.
    """
    published = getattr(model, "pretrained_cfg", None)
    if not published:
        return {}
    keys = ("architecture", "tag", "hf_hub_id", "input_size", "interpolation", "crop_pct")
    info = {key: published.get(key) for key in (*keys, "mean", "std")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in info.items()}


def _local(
    name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    if pretrained:
        raise HalutError(
            f"local model {name!r} has no published weights; set model.pretrained=false, or give "
            "a file with model.weights=PATH"
        )
    return models[name](num_classes, in_channels=in_channels, **options)


def _plugin(
    name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    builder: Any = reference.resolve(name)
    if not (inspect.isfunction(builder) or _is_module_class(builder)):
        raise HalutError(f"model {name!r} is no subclass of nn.Module and no function")
    known = inspect.signature(builder).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in known.values())
    offered: dict[str, Any] = {"in_channels": in_channels, "in_chans": in_channels}
    kept = {key: value for key, value in offered.items() if key in known}
    if takes_all or "num_classes" in known:
        kept["num_classes"] = num_classes
    if pretrained and "pretrained" not in known:
        raise HalutError(
            f"model {name!r} takes no pretrained; set model.pretrained=false, or give a file with "
            "model.weights=PATH"
        )
    if pretrained:
        kept["pretrained"] = True
    network = builder(**kept, **options)
    if not isinstance(network, nn.Module):
        raise HalutError(f"model {name!r} is no nn.Module but {type(network).__name__}")
    return network


def _is_module_class(builder: Any) -> bool:
    return isinstance(builder, type) and issubclass(builder, nn.Module)


def _timm(
    name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    import timm

    return timm.create_model(
        name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **options
    )


def _torchvision(
    name: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    return build_torchvision(name, num_classes, in_channels, pretrained, options)


def _not_built(name: str, source: str, arguments: dict[str, Any], error: Exception) -> str:
    text = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"{source} model {name!r} cannot be built with {text}: {error}"


def _no_weights(name: str, source: str, error: Exception) -> str:
    return (
        f"pretrained weights of {source} model {name!r} could not be loaded "
        f"({type(error).__name__}: {error}). Without a network give a local file with "
        "model.weights=PATH (.safetensors or a torch file with the same keys), or train from "
        "random weights with model.pretrained=false"
    )


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _timm_has(name: str) -> bool:
    import timm

    return timm.is_model(name)


def _torchvision_names() -> list[str]:
    return torchvision_names()


_names: dict[str, Callable[[], list[str]]] = {
    "local": lambda: list(models),
    "timm": _timm_names,
    "torchvision": _torchvision_names,
}
_has: dict[str, Callable[[str], bool]] = {
    "local": lambda name: name in models,
    "timm": _timm_has,
    "torchvision": lambda name: name in _torchvision_names(),
}
