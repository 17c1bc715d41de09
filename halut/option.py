"""Options of configurations: help text, choices, and conditions for having an effect.

The text is what `--help` shows; `needs` is what refuses an option that nothing reads.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, cast

from halut.errors import HalutError

Needs = Callable[[Any, Any], str | None]
"""(the dataclass of the option, the whole configuration) -> why the option has no effect there,
and what would make it matter; None: it has one."""

RENAMED = {
    "halut.parameterisation": "halut.parameterization",
    "optim.name": "optim.optimizer",
    "trainer.accumulate": "trainer.accumulate_grad_batches",
    "trainer.clip": "trainer.gradient_clip_val",
    "trainer.progress": "trainer.enable_progress_bar",
}
"""Keys of version 0.1 that have another name now. They are read for one version."""


def option(
    default: Any,
    text: str,
    *,
    choices: Sequence[str] = (),
    needs: Needs | None = None,
    names: Callable[[], Sequence[str]] | None = None,
) -> Any:
    """A dataclass field with its text; a list, a dict, or what a class or function makes, as its
    default is made anew.

    `choices` are all there are; `names`, where other packages have too many for a line, gives
    lines that list them, which `--help GROUP` shows.
    """
    metadata = {"help": text, "choices": tuple(choices), "needs": needs, "names": names}
    if isinstance(default, list | dict):
        stored = default
        return dataclasses.field(default_factory=lambda: stored.copy(), metadata=metadata)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def redefined(base: type, name: str, default: Any) -> Any:
    """The field `name` of a base class with another default."""
    of = next(f for f in dataclasses.fields(base) if f.name == name).metadata
    return option(default, of["help"], choices=of["choices"], needs=of["needs"])


def every(*needs: Needs) -> Needs:
    """What has an effect if all of `needs` hold; else the first reason why not."""

    def why(own: Any, run: Any) -> str | None:
        reasons = (need(own, run) for need in needs)
        return next((reason for reason in reasons if reason is not None), None)

    return why


def where(holds: Callable[[Any], bool], otherwise: str) -> Needs:
    """What has an effect where `holds(own)`, else `otherwise` is why not."""
    return lambda own, run: None if holds(own) else otherwise


def never(reason: str) -> Needs:
    """What has no effect at all, as in a subclass that does not read its base's option."""
    return lambda own, run: reason


def while_training(own: Any, run: Any) -> str | None:
    """What only a fit reads, of the base, of a stage or of the baseline."""
    return run.untrained()


def of_training_runs(own: Any, run: Any) -> str | None:
    """What only training runs read, and evaluations do not."""
    return None if run.trains else run.untrained()


def new_name(key: str) -> str:
    """The name that the option `key`, or the group it lies in, has now."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def with_new_names(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested options as plain values, under the names they have now; none leaves its group.

    The options of policy.rules are those of the group halut.
    """
    renamed = {}
    for key, value in config.items():
        if isinstance(value, dict):
            value = with_new_names(value, f"{path}{key}.")
        elif f"{path}{key}" == "policy.rules" and isinstance(value, list):
            value = [rule_with_new_names(rule) for rule in value]
        renamed[new_name(path + key).removeprefix(path)] = value
    return renamed


def rule_with_new_names(rule: Any) -> Any:
    """An entry of policy.rules whose options have the names of now."""
    options = rule.get("options") if isinstance(rule, dict) else None
    if not isinstance(options, dict):
        return rule
    return {**rule, "options": with_new_names(options, "halut.")}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default, or None if there is none."""
    # Not by identity: dataclasses that were sent to a job bring a MISSING of their own.
    missing, factory = type(dataclasses.MISSING), cast(Any, field.default_factory)
    if not isinstance(factory, missing):
        return factory()
    return None if isinstance(field.default, missing) else field.default


def why_without_effect(own: Any, key: str, run: Any = None) -> str | None:
    """Why the option `key`, a path of names from `own` on, has no effect; None: it has.

    `run` is the whole configuration, `own` itself if it is not given. What its groups need is asked
    first. Paths that are no fields (keys of a mapping) end the walk.
    """
    run = own if run is None else run
    for name in key.split("."):
        if not dataclasses.is_dataclass(own):
            return None
        field = next((f for f in dataclasses.fields(own) if f.name == name), None)
        if field is None:
            return None
        needs: Needs | None = field.metadata.get("needs")
        reason = needs(own, run) if needs is not None else None
        if reason is not None:
            return reason
        own = getattr(own, name)
    return None


@dataclasses.dataclass(frozen=True)
class Value:
    """One option of a configuration: its field, what it is, and what it would be by default."""

    path: str
    field: dataclasses.Field[Any]
    value: Any
    default: Any

    @property
    def off(self) -> bool:
        """True for null, and for false where that is the default: nothing is asked for."""
        return self.value is None or (self.value is False and self.default is False)


def options_of(config: Any, path: str = "", defaults: Any = None) -> Iterator[Value]:
    """Every option of a configuration that is no group of others.

    `defaults` is the same dataclass as it is by default, where its fields' own do not say it.
    """
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{path}{field.name}"
        default = default_of(field) if defaults is None else getattr(defaults, field.name)
        if dataclasses.is_dataclass(value):
            yield from options_of(value, f"{name}.", default)
        else:
            yield Value(name, field, value, default)


def without_effect(config: Any, keys: Iterable[str]) -> dict[str, str]:
    """Those of `keys` that have no effect in the configuration, each with the reason."""
    values = {each.path: each for each in options_of(config)}
    reasons = {}
    for key in keys:
        if key in values and values[key].off:
            continue
        reason = why_without_effect(config, key)
        if reason is not None:
            reasons[key] = reason
    return reasons


def check_choices(config: Any, path: str = "") -> None:
    """Raise HalutError for a value that is none of its option's choices."""
    for each in options_of(config, path):
        choices = each.field.metadata.get("choices")
        if choices and each.value is not None and each.value not in choices:
            raise HalutError(unknown(each.path, each.value, choices))


def unknown(noun: str, value: str, choices: Collection[str]) -> str:
    """unknown NOUN 'value', the nearest choice if one is near, and all of them."""
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown {noun} {value!r}; {hint}choose one of: {', '.join(choices)}"


def choice(key: str, value: Any, choices: Collection[str]) -> None:
    """Raise HalutError unless the option's value is one of `choices`."""
    if value not in choices:
        raise HalutError(unknown(key, value, choices))


def between(key: str, value: float, low: float, high: float = float("inf"), why: str = "") -> None:
    """Raise HalutError unless low <= value <= high, saying why."""
    if not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"in {low}..{high}"
        raise HalutError(f"{key} must be {bounds}, got {value}{why and f': {why}'}")
