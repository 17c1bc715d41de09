"""Plan and stages of a run from its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from halut.bundle import plan_of_file
from halut.errors import HalutError
from halut.replace import schedule
from halut.replace.policy import Rule, resolve, simple_rules
from halut.replace.schedule import Stage
from halut.replace.sharing import same_inputs, with_sharing
from halut.sites.attention import KIND, expose_attention, unexposed
from halut.sites.find import Unsupported, find_sites
from halut.sites.plan import Plan
from halut.training.config.needs import untrained_base
from halut.training.config.run_config import ScheduleConfig, TrainConfig
from halut.training.lightning.fit import steps_per_epoch
from halut.training.logging.progress import log
from halut.training.logging.run_progress import Part
from halut.training.teacher import check_loss


def make_plan(config: TrainConfig, network: nn.Module, data: Any) -> Plan:
    """The plan of the policy, stages still open.

    Raises HalutError if a pattern matches no layer, an option fits no site, or nothing is replaced;
    and, as this is the first that sees both, if the losses or the schedule do not fit the network.
    """
    check_loss(network, config.loss)
    check_roles("schedule.lr", config.schedule.lr)
    check_roles("schedule.final_lr", config.schedule.final_lr)
    check_roles("schedule.freeze", config.schedule.freeze)
    example = torch.zeros(1, *data.input_shape)
    wants_attention = _wants_attention(config)
    if wants_attention:
        expose_attention(network)
    sites, unsupported = find_sites(network, example)
    if wants_attention:
        unsupported += [Unsupported(name, why) for name, why in unexposed(network).items()]
    for layer in unsupported:
        log.info("%s stays exact: %s", layer.name or "the network", layer.reason)
    model = {
        "name": config.model.name,
        "source": config.model.source,
        "options": dict(config.model.options),
        "num_classes": config.model.num_classes or data.num_classes,
        "in_channels": config.model.in_channels or data.input_shape[0],
        "input_shape": list(data.input_shape),
    }
    if config.plan is not None:
        plan = plan_of_file(config.plan)
        ours = Plan(plan.entries, model, plan.unsupported)
        if difference := plan.difference(sites):
            raise HalutError(
                f"plan={config.plan} was made for another network, {plan.network}, and this one "
                f"is {ours.network}: {difference}"
            )
        return ours
    policy = config.policy
    rules = simple_rules(
        sites,
        keep=policy.keep,
        only=policy.only,
        kinds=policy.kinds,
        keep_first=policy.keep_first,
        keep_last=policy.keep_last,
        keep_depthwise=policy.keep_depthwise,
    )
    replacing = [rule for rule in rules if rule.operator is None]
    keeping = [rule for rule in rules if rule.operator is not None]
    ordered = [*keeping, *map(rule_of, policy.rules), *replacing]
    plan = resolve(sites, ordered, config.halut.name, config.halut.options(), unsupported, model)
    return with_sharing(plan, same_inputs(network, example)) if policy.share else plan


def _wants_attention(config: TrainConfig) -> bool:
    """True if attention's products are among what the policy, or the given plan, can replace."""
    if config.plan is not None:
        return any(entry.site.kind == KIND for entry in plan_of_file(config.plan))
    ruled = (rule.get("kind") for rule in config.policy.rules)
    return KIND in (*config.policy.kinds, *ruled)


def check_roles(option: str, roles: Iterable[str]) -> None:
    """Raise HalutError for an optimizer role that does not exist."""
    for role in roles:
        if role not in schedule.ROLES:
            choices = ", ".join(schedule.ROLES)
            raise HalutError(f"{option}: unknown role {role!r}; choose from: {choices}")


def rule_of(fields_given: dict[str, Any]) -> Rule:
    """A rule from the configuration's mapping; raises HalutError on a key nobody knows."""
    names = [f.name for f in fields(Rule)]
    wrong = [key for key in fields_given if key not in names]
    if wrong:
        raise HalutError(f"policy.rules: unknown key {wrong[0]!r}; choose from: {', '.join(names)}")
    return Rule(**{"operator": None, **fields_given})


def make_stages(settings: ScheduleConfig, plan: Plan, context: dict[str, Any]) -> list[Stage]:
    """The stages of a plan's replaced sites; `context` holds what the order needs."""
    if settings.stages:
        choices = ", ".join(Stage.__dataclass_fields__)
        try:
            return [
                Stage(
                    **{"epochs": settings.epochs, "calibrate": settings.calibrate, **fields_given}
                )
                for fields_given in settings.stages
            ]
        except TypeError as error:
            raise HalutError(f"schedule.stages: {error}; choose from: {choices}") from error
    order = schedule.orders[settings.order]
    groups = order(plan.replaced, {**context, "per_stage": settings.per_stage})
    stages = [Stage(names, settings.epochs, settings.calibrate) for names in groups]
    last = stages[-1]
    if settings.final_epochs is not None:
        last.epochs = settings.final_epochs
    last.lr, last.floor = dict(settings.final_lr), settings.final_floor
    return schedule.with_encoders_first(stages, settings.encoders_first)


def parts_of(config: Any, data: Any, stages: Sequence[Any], widths: int) -> list[Part]:
    """The parts of a training run, in their order; a guess of the work where nothing is measured.

    Training by tables takes about 1.5 exact batches a batch, learning a layer about 30.
    """
    batches = max(steps_per_epoch(data, config.trainer) * config.trainer.accumulate_grad_batches, 1)
    size = config.stage_batch_size / config.data.batch_size
    cut = min((config.schedule.train_batches or batches) * size, batches)
    evaluation = batches / 3  # an epoch's worth of answers
    parts, earlier = [], 0
    if untrained_base(config) is None:
        parts.append(Part("base", "exact", config.base.epochs * batches))
    for index, stage in enumerate(stages):
        name, label = f"stage_{index:02d}", f"stage {index + 1} of {len(stages)}"
        learned = len(stage.sites) + (earlier if config.schedule.relearn else 0)
        earlier += len(stage.sites)
        parts.append(Part(f"{name} learn", "learn", 30.0 * learned, label))
        if stage.epochs:
            parts.append(Part(name, "tables", 1.5 * stage.epochs * cut, label))
    epochs = sum(stage.epochs for stage in stages)
    if config.baseline and epochs:
        parts.append(Part("baseline", "exact", epochs * cut, "fine-tuned exact network"))
    if widths:
        parts.append(Part("ptq", "answers", widths * evaluation, "quantized networks"))
    parts.append(Part("test", "answers", (3 + widths) * evaluation, "test"))
    return parts
