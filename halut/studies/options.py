"""`--options 'tree C=16,32 K=16'`: operators and their options as words, lists in full product."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from halut.analysis.run_figures import nested
from halut.analysis.sensitivity import Candidate
from halut.configs import Config
from halut.errors import HalutError
from halut.option import unknown
from halut.replace.operator_registry import (
    config_of,
    config_type,
    make_operator,
    operator_names,
    operator_of,
)
from halut.replace.policy import matches_name
from halut.sites.find import Site
from halut.sites.plan import Plan


@dataclass(frozen=True)
class Choice:
    """A candidate as it was asked for: `options` are those that were typed, or, where the policy
    says what a site becomes, those that are not the default; `label` is the operator with them."""

    label: str
    options: dict[str, Any]
    candidate: Candidate


@dataclass(frozen=True)
class Selection:
    """Words of `--options`: the configuration, and the options that were typed."""

    options: dict[str, Any]
    config: Config


def configs_of(texts: Iterable[str]) -> dict[str, Selection]:
    """The configurations that the words mean, by their label.

    Values are written as on train.py's command line; a key with dots is an option of an option.
    Raises HalutError for what is unknown or out of range, naming the choices.

    >>> list(configs_of(["tree C=2,4 K=8", "integer"]))
    ['tree C=2 K=8', 'tree C=4 K=8', 'integer']
    """
    configs: dict[str, Selection] = {}
    for text in texts:
        name, *words = text.split() or [""]
        if "=" in name:
            raise HalutError(
                f"--options: {text!r} names no operator; write options of train.py in front of it"
            )
        if name not in operator_names():
            raise HalutError(f"--options: {unknown('operator', name, operator_names())}")
        keys, values = zip(*map(_values, words), strict=True) if words else ((), ())
        if twice := [key for index, key in enumerate(keys) if key in keys[:index]]:
            raise HalutError(
                f"--options '{text}': {twice[0]} is given twice; several values are {twice[0]}=A,B"
            )
        for combination in itertools.product(*values):
            pairs = dict(zip(keys, combination, strict=True))
            label = _label(name, pairs)
            try:
                selection = Selection(nested(pairs), config_of(name, nested(pairs)))
                operator_of(selection.config)
            except HalutError as error:
                raise HalutError(f"--options '{label}': {error}") from error
            configs[label] = selection
    return configs


def _values(word: str) -> tuple[str, list[Any]]:
    """KEY=A,B as the key and its values."""
    if "=" not in word:
        raise HalutError(f"--options: {word!r} is no KEY=VALUE or KEY=A,B,C")
    try:
        override = OverridesParser.create().parse_override(word)
        key = override.get_key_element()
        if not override.is_sweep_override():
            return key, [override.value()]
        values = list(override.sweep_iterator())
    except HydraException as error:
        raise HalutError(f"--options: {word!r} cannot be read") from error
    return key, [each.text if isinstance(each, QuotedString) else each for each in values]


def _text(value: Any) -> str:
    """A value as YAML has it."""
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def choices_of(
    plan: Plan, default: Config, texts: Sequence[str], patterns: Sequence[str]
) -> list[Choice]:
    """The candidates of `texts` at the sites of `patterns`, site by site, each outcome once.

    Without patterns: the sites that the plan replaces. Without texts: what the plan makes of a
    site, or `default` where it keeps it.
    """
    sites = chosen_sites(plan, patterns)
    if texts:
        configs = configs_of(texts)
        every = [
            Choice(label, selection.options, Candidate.of(site, selection.config))
            for site in sites
            for label, selection in configs.items()
        ]
    else:
        every = [_own(plan, site, default) for site in sites]
    first: dict[str, Choice] = {}
    for choice in every:
        first.setdefault(repr(choice.candidate), choice)
    return list(first.values())


def refuse_impossible(choices: Sequence[Choice]) -> None:
    """Raise HalutError for words that no site can have, with what each site says."""
    for label in dict.fromkeys(choice.label for choice in choices):
        own = [choice.candidate for choice in choices if choice.label == label]
        if all(candidate.reason is not None for candidate in own):
            reasons = dict.fromkeys(str(candidate.reason) for candidate in own)
            raise HalutError(f"no site can be {label}: {'; '.join(reasons)}")


def _own(plan: Plan, site: Site, default: Config) -> Choice:
    entry = plan[site.name]
    candidate = Candidate(entry) if entry.replaced else Candidate.of(site, default)
    operator, options = candidate.entry.operator, candidate.entry.options
    defaults = config_type(operator)().options()
    own = {k: v for k, v in options.items() if v is not None and v != defaults.get(k)}
    shown = make_operator(operator, **options).summary(site)
    return Choice(_label(operator, shown), own, candidate)


def _label(operator: str, options: Mapping[str, Any]) -> str:
    return " ".join([operator, *(f"{key}={_text(value)}" for key, value in options.items())])


def chosen_sites(plan: Plan, patterns: Sequence[str]) -> list[Site]:
    """The plan's sites that a pattern matches, or those it replaces; HalutError if one matches
    none."""
    if not patterns:
        return [entry.site for entry in plan.replaced]
    names = [entry.site.name for entry in plan]
    for pattern in patterns:
        if not any(matches_name(pattern, name) for name in names):
            close = difflib.get_close_matches(pattern, names, n=5, cutoff=0.3) or names[:8]
            raise HalutError(
                f"--sites: {pattern!r} matches no layer; the network has {len(names)}, among them: "
                f"{', '.join(close)}"
            )
    return [e.site for e in plan if any(matches_name(p, e.site.name) for p in patterns)]
