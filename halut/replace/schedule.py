"""Schedules: which sites are replaced in which stage, and how each stage trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from halut.errors import HalutError
from halut.option import between
from halut.registry import Registry
from halut.sites.plan import Entry, Plan
from halut.sites.residual import INNER, SHORTCUT, WRITER

Order = Callable[[Sequence[Entry], dict[str, Any]], list[list[str]]]
orders: Registry[Order] = Registry("schedule order")

ROLES = ("table", "prototypes", "thresholds", "temperature", "basis", "rest")
ENCODER_ROLES = ("table", "prototypes", "thresholds", "temperature")
"""What trains first where schedule.encoders_first is given."""
CALIBRATE = ("replaced", "original", "asymmetric")


@dataclass
class Stage:
    """One stage: sites replaced together, then trained.

    Without sites it trains on what is there. `calibrate`: "replaced" learns each site on the
    network as it stands, earlier sites of the stage swapped already; "original" learns all of them
    on the exact network; "asymmetric" codes what "replaced" does, and fits tables to what the exact
    network answers at the same places (as GPTAQ does for weights: Li et al. 2025). `lr` overrides
    the optimizer's learning rate per role, `freeze` names roles that do not train, `floor` is the
    share of a rate that cosine ends at, None: the schedule's. Raises HalutError for values that
    cannot be, naming the choices.

    >>> Stage(["conv1"], epochs=2, lr={"table": 3e-3}, floor=0.2).freeze
    []
    """

    sites: list[str]
    epochs: int = 1
    calibrate: str = "replaced"
    lr: dict[str, float] = field(default_factory=dict)
    freeze: list[str] = field(default_factory=list)
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise HalutError(f"schedule: epochs must be at least 0, got {self.epochs}")
        if self.calibrate not in CALIBRATE:
            choices = ", ".join(CALIBRATE)
            raise HalutError(f"unknown schedule.calibrate {self.calibrate!r}; choose: {choices}")
        for role in (*self.lr, *self.freeze):
            if role not in ROLES:
                raise HalutError(f"unknown role {role!r}; choose from: {', '.join(ROLES)}")
        if self.floor is not None:
            between("floor of a stage", self.floor, 0, 1)


@orders.register("all_at_once")
def all_at_once(entries: Sequence[Entry], context: dict[str, Any]) -> list[list[str]]:
    """Every site in one stage."""
    return [[entry.site.name for entry in entries]]


@orders.register("front_to_back")
def front_to_back(entries: Sequence[Entry], context: dict[str, Any]) -> list[list[str]]:
    """In the order of the forward pass, `per_stage` sites at a time."""
    return _chunks([entry.site.name for entry in entries], context.get("per_stage", 1))


@orders.register("back_to_front")
def back_to_front(entries: Sequence[Entry], context: dict[str, Any]) -> list[list[str]]:
    """The last site first, `per_stage` sites at a time."""
    return _chunks([entry.site.name for entry in entries][::-1], context.get("per_stage", 1))


@orders.register("inner_first")
def inner_first(entries: Sequence[Entry], context: dict[str, Any]) -> list[list[str]]:
    """Inner layers of residual blocks, then the writers of the residual stream, shortcuts last.

    Each of the three from the last to the first, `per_stage` sites at a time. context["residual"]
    maps names to the roles of halut.sites.residual; layers in no residual block are inner, so that
    a network without any goes back to front.
    """
    roles = context.get("residual")
    if roles is None:
        raise HalutError("schedule inner_first needs the roles of the sites in residual blocks")
    names = [entry.site.name for entry in entries][::-1]
    ranks = {INNER: 0, WRITER: 1, SHORTCUT: 2}
    names.sort(key=lambda name: ranks[roles[name]])  # stable
    return _chunks(names, context.get("per_stage", 1))


@orders.register("by_sensitivity")
def by_sensitivity(entries: Sequence[Entry], context: dict[str, Any]) -> list[list[str]]:
    """The site whose replacement alone costs least first; context["sensitivity"] maps names."""
    loss = context.get("sensitivity")
    if loss is None:
        raise HalutError("schedule by_sensitivity needs the accuracy lost per site")
    names = sorted((entry.site.name for entry in entries), key=lambda name: (loss[name], name))
    return _chunks(names, context.get("per_stage", 1))


@orders.register("by_block")
def by_block(entries: Sequence[Entry], context: dict[str, Any]) -> list[list[str]]:
    """One stage per block of the network; context["blocks"] lists module name prefixes in order.

    Sites outside every listed block form stages of their own with their neighbors.
    """
    blocks = context.get("blocks") or []
    stages: list[tuple[str, list[str]]] = []
    for entry in entries:
        block = block_of(entry.site.name, blocks)
        if not stages or stages[-1][0] != block:
            stages.append((block, []))
        stages[-1][1].append(entry.site.name)
    return [names for _, names in stages]


def block_of(name: str, blocks: Sequence[str]) -> str:
    """The longest listed prefix the module name lies under, else "" ."""
    matches = [b for b in blocks if name == b or name.startswith(b + ".")]
    return max(matches, key=len, default="")


def _chunks(names: list[str], size: int) -> list[list[str]]:
    if size < 1:
        raise HalutError(f"schedule.per_stage must be at least 1, got {size}")
    return [names[i : i + size] for i in range(0, len(names), size)]


def with_encoders_first(stages: Sequence[Stage], epochs: int) -> list[Stage]:
    """The stages with `epochs` of each one's own, its first, in which "rest" and "basis" rest.

    Only tables, prototypes, thresholds and temperatures train in these; in the others everything.
    Such a stage becomes two, the second without sites. Stages of no epochs stay as they are.
    Raises HalutError if a stage has no more epochs than that.
    """
    split: list[Stage] = []
    for index, stage in enumerate(stages):
        if not epochs or not stage.epochs:
            split.append(stage)
            continue
        if epochs >= stage.epochs:
            raise HalutError(
                f"schedule.encoders_first must be below the epochs of every stage, got {epochs}: "
                f"stage {index} has {stage.epochs}"
            )
        frozen = {*stage.freeze, *(role for role in ROLES if role not in ENCODER_ROLES)}
        split.append(replace(stage, epochs=epochs, freeze=sorted(frozen)))
        split.append(replace(stage, epochs=stage.epochs - epochs, sites=[]))
    return split


def assign(plan: Plan, groups: Sequence[Sequence[str]]) -> Plan:
    """The plan with every replaced site in its stage; each must be named exactly once."""
    stage_of: dict[str, int] = {}
    for index, names in enumerate(groups):
        for name in names:
            if not plan[name].replaced:
                raise HalutError(f"schedule: stage {index} names {name}, which the plan keeps")
            if name in stage_of:
                raise HalutError(f"schedule: {name} is in stages {stage_of[name]} and {index}")
            stage_of[name] = index
    missing = [e.site.name for e in plan.replaced if e.site.name not in stage_of]
    if missing:
        raise HalutError(f"schedule: no stage replaces {', '.join(missing)}")
    return plan.with_stages(stage_of)
