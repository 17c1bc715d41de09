"""Checks that every key of a space changes the network that is built, the plan or the training."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from halut.analysis.sweep_results import NOT_AXES
from halut.errors import HalutError
from halut.search.trials.parameter import Choices, Parameter, Value
from halut.search.trials.planner import Planner
from halut.search.trials.space import TrialSpace, Values
from halut.search.trials.trial import TrialFailed, failing

ATTEMPTS = 6
"""Points of the rest of the space at which a parameter is tried."""
VALUES = 3
"""Values of a parameter that are tried: the first, the last and the one in the middle."""
KEPT = (*NOT_AXES, "schedule.cache", "sweep.", "plugins")
"""Keys, by how they begin, that say where and how a run is kept."""
OF_STAGES = ("schedule.order", "schedule.per_stage", "schedule.blocks", "schedule.stages")


def check_effects(space: TrialSpace, planner: Planner) -> None:
    """Raise HalutError for a parameter that changes nothing wherever it was tried.

    A key of `model` has to change the network, one of `halut` or `policy` the plan, one that
    orders stages the stages; others change the training, or train.py refuses them as having no
    effect. Sites have to have something to choose.
    """
    for parameter in space.parameters:
        for key in parameter.keys:
            if key.lstrip("+").startswith(KEPT):
                raise HalutError(
                    f"{key} cannot be searched: it says how a run is kept, not what it is"
                )
        _check(space, planner, parameter)
    if space.sites:
        _, overrides = space.trial(planner.plan, lambda parameter, _: some_values(parameter)[0])
        planner.config(overrides)


def some_values(parameter: Parameter) -> list[Value]:
    """Up to VALUES values of a parameter, the ends among them."""
    domain = parameter.domain
    if isinstance(domain, Choices):
        values: list[Value] = list(domain.values)
    else:
        middle = (domain.low * domain.high) ** 0.5 if domain.log else (domain.low + domain.high) / 2
        values = domain.values or [domain.low, middle, domain.high]
    return list(dict.fromkeys((values[0], values[len(values) // 2], values[-1])))[:VALUES]


def _check(space: TrialSpace, planner: Planner, parameter: Parameter) -> None:
    reasons: list[str] = []
    for others in _bases(space, parameter):
        effects = set()
        for value in some_values(parameter):
            overrides = space.overrides({**others, parameter.name: value})
            try:
                with failing():
                    effects.add(_effect(planner, parameter, overrides, value))
            except TrialFailed as error:
                reasons.append(str(error))
        if len(effects) > 1:
            return
    if reasons:
        raise HalutError(f"{reasons[-1]} (wherever {parameter.name} was tried)")
    raise HalutError(
        f"{parameter.name} has no effect: neither network nor plan nor stages differ by it, "
        "whatever the other keys are"
    )


def _effect(planner: Planner, parameter: Parameter, overrides: list[str], value: Value) -> str:
    """What differs if the parameter has an effect. HalutError for what train.py refuses."""
    config = planner.config(overrides)
    keys = [key.lstrip("+") for key in parameter.keys]
    if any(key.split(".")[0] == "model" for key in keys):
        return planner.built(overrides)
    if any(key.split(".")[0] in ("halut", "policy") for key in keys):
        return planner.planned(overrides)
    if any(key in OF_STAGES for key in keys):
        return repr((config.schedule.order, planner.stages(overrides)))
    return str(value)


def _bases(space: TrialSpace, parameter: Parameter) -> Iterator[Values]:
    """Values of all other parameters with which the parameter is there: the first ones, then some
    drawn at random."""
    draw = random.Random(0)
    for attempt in range(ATTEMPTS):
        values: Values = {}
        for each in space.parameters:
            if each.name == parameter.name or not each.active(values):
                continue
            own = _allowed(each, parameter.when)
            values[each.name] = draw.choice(own) if attempt else own[0]
        if parameter.active(values):
            yield values


def _allowed(parameter: Parameter, when: Mapping[str, tuple[str, ...]]) -> list[Value]:
    own = some_values(parameter)
    if parameter.name not in when:
        return own
    every = list(parameter.domain.values or own)
    return [value for value in every if str(value) in when[parameter.name]] or own
