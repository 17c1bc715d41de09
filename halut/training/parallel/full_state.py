"""States as checkpoints hold them: by parameter names, whole, and on the CPU of rank 0.

By torch.distributed.checkpoint, for one process, for ranks with whole networks and for shards
alike, so that each continues from the checkpoints of the others, with any number of ranks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def model_state(module: nn.Module) -> dict[str, Any]:
    """The module's state dict on rank 0, {} on others; all ranks must ask for it."""
    return get_model_state_dict(module, options=FULL)


def optimizer_state(network: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's on rank 0, {} on others: {"state": {name: ...}, "param_groups": [...]}.

    Names are those in `network`, whose parameters the optimizer steps.
    """
    return get_optimizer_state_dict(network, optimizer, options=FULL)


def load_optimizer_state(network: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give the optimizer, before its first step, what `optimizer_state` has returned somewhere.

    Raises ValueError if it is the state of other parameters.
    """
    names: dict[Tensor, str] = {p: name for name, p in network.named_parameters()}
    own = [names[p] for group in optimizer.param_groups for p in group["params"]]
    state = _named(state, own)
    saved = [name for group in state["param_groups"] for name in group["params"]]
    if differing := sorted(set(own) ^ set(saved)):
        raise ValueError(f"optimizer state of other parameters than here, {differing[0]} first")
    if not state["state"]:  # plain SGD's, of which torch's function expects some
        optimizer.load_state_dict(state)
        return
    optimizer.zero_grad()  # torch's function takes a step with gradients of zero and lr 0
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_optimizer_state_dict(network, optimizer, state, options=options)
    for parameter in list(optimizer.state):
        if names[parameter] not in state["state"]:  # it never had a gradient
            del optimizer.state[parameter]


def _named(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The state by name; in checkpoints of version 0.1 a place in the groups stands for each."""
    groups = state["param_groups"]
    if any(isinstance(one, str) for group in groups for one in group["params"]):
        return state
    named = [{**group, "params": [names[i] for i in group["params"]]} for group in groups]
    return {"state": {names[i]: one for i, one in state["state"].items()}, "param_groups": named}
