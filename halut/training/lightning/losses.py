"""Losses of a stage: labels, distillation, feature matching, and those of tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halut.errors import HalutError
from halut.layers.lut import LUTLayer
from halut.ops.power_of_two import normalized_mse
from halut.replace.swap import replaced_layers
from halut.sites.modules import call_inputs


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)), batch mean (Hinton et al. 2015).

    logits, teacher [B, classes]. The mean is over B alone: dividing by B * classes makes the loss
    a thousand times too weak on ImageNet.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    target = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2


class Features:
    """Outputs of named modules of one network, held from one forward pass to the next.

    `remove` takes the hooks off again: the network outlives the fit that compares them.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self.values: dict[str, Tensor] = {}
        check_blocks(network, names)
        self._handles = [
            network.get_submodule(name).register_forward_hook(self._hook(name)) for name in names
        ]

    def remove(self) -> None:
        """Take the hooks off and let the outputs go."""
        for handle in self._handles:
            handle.remove()
        self.values.clear()

    def _hook(self, name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.values[name] = output

        return note


def check_blocks(network: nn.Module, names: Iterable[str]) -> None:
    """Raise HalutError naming the first of `names` that is no module of the network."""
    modules = dict(network.named_modules())
    for name in names:
        if not name or name not in modules:
            close = difflib.get_close_matches(name, [m for m in modules if m], n=5, cutoff=0.3)
            raise HalutError(
                f"loss.feature_blocks: the network has no module {name!r}; among its modules: "
                f"{', '.join(close) or ', '.join(list(modules)[1:9])}"
            )


def feature_loss(student: Features, teacher: Features) -> Tensor:
    """Mean over blocks of the normalized squared difference to the teacher's output."""
    losses = [
        normalized_mse(student.values[name].float(), teacher.values[name].detach().float())
        for name in student.values
    ]
    return torch.stack(losses).mean()


class TableLosses:
    """LUTLayer.table_losses of every table layer, gathered by hooks during a forward pass.

    `names` of reconstruction and commitment. `remove` takes the hooks off again. Left on, those of
    a finished stage would gather terms, and the graphs behind them, that nobody takes.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self.names = names
        self.terms: list[dict[str, Tensor]] = []
        layers = [layer for _, layer in replaced_layers(network) if isinstance(layer, LUTLayer)]
        self._handles = [
            layer.register_forward_hook(self._note, with_kwargs=True) for layer in layers
        ]

    def remove(self) -> None:
        """Take the hooks off and let the terms go."""
        for handle in self._handles:
            handle.remove()
        self.terms.clear()

    def _note(self, layer: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        assert isinstance(layer, LUTLayer)
        if layer.training and torch.is_grad_enabled():
            self.terms.append(layer.table_losses(call_inputs(args, kwargs)[0], self.names))

    def take(self) -> dict[str, Tensor]:
        """The mean of each loss over the layers since the last call, by name."""
        terms, self.terms = self.terms, []
        if not terms:
            return {name: torch.zeros(()) for name in self.names}
        return {name: torch.stack([term[name] for term in terms]).mean() for name in self.names}


def block_names(network: nn.Module, sites: Iterable[str]) -> list[str]:
    """Module names that timm calls feature blocks, else the children that hold several sites."""
    info = getattr(network, "feature_info", None)
    modules = dict(network.named_modules())
    if info:
        names = [entry["module"] for entry in info if isinstance(entry, dict)]
        names = [name for name in names if name in modules]
        if names:
            return names
    sites = list(sites)
    prefixes = {".".join(name.split(".")[:2]) for name in sites if name.count(".") >= 2}
    prefixes |= {name.split(".")[0] for name in sites if name.count(".") == 1}
    return [name for name in modules if name in prefixes]
