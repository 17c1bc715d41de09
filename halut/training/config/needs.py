"""Conditions under which options of a training run have an effect: see halut.option."""

from __future__ import annotations

from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from torch import nn

from halut.bundle import plan_of_file
from halut.errors import HalutError
from halut.option import Needs, while_training
from halut.replace.operator_registry import make_operator
from halut.replace.policy import merge_options
from halut.replace.schedule import ROLES
from halut.sites.find import Site
from halut.sites.plan import KEEP
from halut.training.optim import lr_schedules
from halut.training.optim import optimizers as by_name

PER_STAGE = ("front_to_back", "back_to_front", "by_sensitivity", "inner_first")
"""Orders that count sites per stage."""


def untrained_base(run: Any) -> str | None:
    """Why the exact network is not trained; None: it is."""
    if run.model.weights is not None:
        return "the network has its weights from model.weights"
    if run.model.pretrained:
        return "the network has pretrained weights (model.pretrained=false trains it)"
    return "it needs base.epochs above 0" if run.base.epochs == 0 else None


def untrained_stages(run: Any) -> str | None:
    """Why no stage trains; None: one does."""
    schedule = run.schedule
    epochs = [stage.get("epochs", schedule.epochs) for stage in schedule.stages]
    if not epochs:
        epochs = [schedule.epochs, schedule.final_epochs or 0]
        if schedule.order == "all_at_once" and schedule.final_epochs is not None:
            epochs = [schedule.final_epochs]
    return None if any(epochs) else "no stage trains: it needs schedule.epochs above 0"


def while_stages_train(own: Any, run: Any) -> str | None:
    """What only a stage's fit reads, or the baseline's."""
    return untrained_stages(run) if run.trains else while_training(own, run)


def start_to_find(own: Any, run: Any) -> str | None:
    """base.epochs: there is no start yet."""
    return untrained_base(run) if run.base.epochs else None


def while_base_trains(own: Any, run: Any) -> str | None:
    """What only the exact network's own training reads."""
    return untrained_base(run)


def something_cached(own: Any, run: Any) -> str | None:
    """base.cache: of the base, or of the fine-tuned exact network."""
    base = untrained_base(run)
    if base is None or (run.baseline and untrained_stages(run) is None):
        return None
    return f"{base}, and no baseline is trained"


def without_plan(own: Any, run: Any) -> str | None:
    """What the plan of a file says already."""
    return None if run.plan is None else f"plan={run.plan} says what becomes of every layer"


def without_stages(own: Any, run: Any) -> str | None:
    """What schedule.stages says in full."""
    return "schedule.stages lists the stages" if own.stages else None


def some_stage_lacks(key: str) -> Needs:
    """What stages of a list have unless they say their own `key`."""

    def why(own: Any, run: Any) -> str | None:
        if own.stages and all(key in stage for stage in own.stages):
            return f"every stage of schedule.stages has its own {key}"
        alone = own.order == "all_at_once" and not own.stages
        if key == "epochs" and alone and own.final_epochs is not None:
            return "the only stage trains schedule.final_epochs"
        return None

    return why


def of_order(*orders: str) -> Needs:
    """What only these orders of the sites read."""

    def why(own: Any, run: Any) -> str | None:
        if own.stages or own.order not in orders:
            order = "of schedule.stages" if own.stages else own.order
            return f"the order is {order}; it needs schedule={' or '.join(orders)}"
        return None

    return why


def of_cosine(own: Any, run: Any) -> str | None:
    """What only the cosine schedule has."""
    return None if run.optim.schedule == "cosine" else "it needs optim.schedule=cosine"


def of_roles(own: Any, run: Any) -> str | None:
    """Rates by optimizer role, of which each must have parameters."""
    present = roles(run)
    missing = [role for role in own if role not in present and role in ROLES]
    return no_role(missing[0], present) if missing else None


def of_role(role: str) -> Needs:
    """The rate of one optimizer role."""

    def why(own: Any, run: Any) -> str | None:
        present = roles(run)
        return None if role in present else no_role(role, present)

    return why


def no_role(role: str, present: set[str]) -> str:
    """That no layer has parameters of the role."""
    there = ", ".join(each for each in ROLES if each in present)
    return f"no layer has parameters of the role {role}; there are: {there}"


def roles(run: Any) -> set[str]:
    """The optimizer roles that the operators of a configuration have parameters of."""
    names = {"rest"}
    for name, options in operators_of(run):
        names |= _roles(name, tuple(sorted((k, repr(v)) for k, v in options.items())), options)
    return names


def operators_of(run: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every operator that the policy, or the plan of a file, can put into the network."""
    if run.plan is not None:
        return [(e.operator, dict(e.options)) for e in plan_of_file(run.plan).replaced]
    return operators_of_policy(run)


def operators_of_policy(run: Any) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of the group halut's operator, and of those of policy.rules."""
    default, options = run.halut.name, run.halut.options()
    pairs = [(default, options)]
    for rule in run.policy.rules:
        name = rule.get("operator", default) or default
        if name != KEEP:
            over = rule.get("options") or {}
            pairs.append((name, merge_options(options, over) if name == default else dict(over)))
    return pairs


_known: dict[Any, set[str]] = {}


def _roles(name: str, key: Any, options: dict[str, Any]) -> set[str]:
    """Of one operator: those of a layer that is built for a site made up for it."""
    if (name, key) not in _known:
        _known[name, key] = _built_roles(name, options)
    return _known[name, key]


def _built_roles(name: str, options: dict[str, Any]) -> set[str]:
    C = options.get("C") or 1
    sizes = {"C": C, "V": None} if "C" in options else {}
    width = max(8, C * (options.get("average") or 1))
    site = Site("site", "linear", D=width, M=8)
    try:
        layer: Any = make_operator(name, **{**options, **sizes}).build(site)
    except HalutError:
        return set(ROLES)  # the plan will say what is wrong
    return {role for role, parameters in layer.param_groups().items() if list(parameters)}


def optimizers() -> list[str]:
    """Lines that list the optimizers."""
    return [
        f"optimizers of timm: {', '.join(by_name.timm_optimizers())}",
        f"of torch.optim: {', '.join(by_name.torch_optimizers())}",
    ]


def schedules() -> list[str]:
    """Lines that list the learning rate schedules."""
    of_timm = lr_schedules.timm_schedules()
    names = [name if short in lr_schedules.OWN else short for short, name in of_timm.items()]
    return [
        f"schedules of timm.scheduler: {', '.join(names)}",
        f"of torch.optim.lr_scheduler: {', '.join(lr_schedules.torch_schedules())}",
    ]


def of_momentum(own: Any, run: Any) -> str | None:
    """What only optimizers with optim.momentum read."""
    if by_name.has_momentum(own.optimizer):
        return None
    return (
        f"{own.optimizer} does not read it; it needs optim.optimizer=sgd, or another of timm with "
        "momentum"
    )


def of_decaying_optimizer(own: Any, run: Any) -> str | None:
    """What only optimizers with weight decay read."""
    if by_name.takes(own.optimizer, "weight_decay"):
        return None
    return f"optim.optimizer={own.optimizer} has no weight decay"


def own_warmup(own: Any, run: Any) -> str | None:
    """What schedules with a warmup of their own do not read."""
    if lr_schedules.has_own_warmup(own.schedule, own.schedule_options):
        return f"optim.schedule={own.schedule} has a warmup of its own"
    return None


def of_named_schedule(own: Any, run: Any) -> str | None:
    """What schedules of timm and torch have."""
    if own.schedule not in lr_schedules.OWN:
        return None
    return f"optim.schedule={own.schedule} has none; it needs a schedule of timm or torch"


def distilled(own: Any, run: Any) -> str | None:
    """What only distillation reads."""
    return None if own.distill else "nothing is distilled: it needs loss.distill above 0"


def of_teacher(own: Any, run: Any) -> str | None:
    """What only a teacher has."""
    if own.distill or own.features:
        return None
    return "there is no teacher: it needs loss.distill or loss.features above 0"


def with_tables(own: Any, run: Any) -> str | None:
    """What only layers by tables have."""
    if any("K" in options for _, options in operators_of(run)):
        return None
    return "no layer is replaced by tables; it needs halut=tree, pq or decision_tree"


def of_calibrate(own: Any, run: Any) -> str | None:
    """What some stage lacks; and targets are for tables alone."""
    if own.calibrate == "asymmetric" and (reason := with_tables(own, run)):
        return reason
    return some_stage_lacks("calibrate")(own, run)


def with_relearning(own: Any, run: Any) -> str | None:
    """What only tables that are trained themselves have, in a stage after their own."""
    if own.order == "all_at_once" and not own.stages and not own.encoders_first:
        return "there is one stage"
    if any("K" in o and o.get("parameterization", "free") == "free" for _, o in operators_of(run)):
        return None
    return "no layer has tables that train; it needs halut.parameterization=free"


def something_learned(own: Any, run: Any) -> str | None:
    """What only operators that learn from calibration samples read."""
    operators = operators_of(run)
    if any("K" in options or _calibrated(name, options) for name, options in operators):
        return None
    return (
        f"nothing is learned from samples by {', '.join(sorted({name for name, _ in operators}))}"
    )


def _calibrated(name: str, options: dict[str, Any]) -> bool:
    """True if rows that a layer is calibrated on change its state."""
    states = []
    for scale in (1.0, 100.0):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                site = Site("site", "linear", D=64, M=8)
                layer: Any = make_operator(name, **options).build(site, nn.Linear(64, 8))
                layer.calibrate(scale * torch.randn(64, 64))
        except HalutError:
            return True  # the plan will say what is wrong
        states.append(layer.state_dict())
    return any(not torch.equal(value, states[1][key]) for key, value in states[0].items())


def in_a_sweep(own: Any, run: Any) -> str | None:
    """How a sweep is shown."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return None
    return "this is one run; it needs a sweep: -m, and a key with several values"


def in_a_search(own: Any, run: Any) -> str | None:
    """What a search tries."""
    return "this is one run; it needs `halut search`, where it is written without search."


def with_wandb(own: Any, run: Any) -> str | None:
    """What only W&B is told."""
    names = [own.name] if isinstance(own.name, str) else own.name
    if any(str(name).startswith("wandb") for name in names):
        return None
    return f"logger={','.join(names)} does not read it; it needs logger=wandb or wandb_offline"


def with_logger(own: Any, run: Any) -> str | None:
    """What loggers beside metrics.csv read."""
    if own.name not in ("csv", ["csv"]):
        return None
    return "logger=csv has none; it needs another logger, such as logger=tensorboard"
