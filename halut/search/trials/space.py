"""Spaces: parameters of options and of sites, from which trials' overrides are made."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from halut.configs import Tree
from halut.errors import HalutError
from halut.option import unknown
from halut.search.trials.parameter import Choices, Parameter, Value, parameters_of, text_of
from halut.sites.plan import KEEP, Plan
from halut.studies.options import Choice, choices_of, refuse_impossible
from halut.training.config.command import override_value

Values = dict[str, Value]
Choose = Callable[[Parameter, Values], Value]
"""Chooses a parameter's value; those before it have theirs."""
Network = Callable[[list[str]], Plan]
"""The plan, of the policy, of the network that overrides build."""
SITE = "site:"
EXACT = "exact"
"""The operator of exact products."""
MAX_POINTS = 100_000
"""Points of a grid."""
SET = ("run_dir", "results", "test", "seed")
"""Keys that a search sets itself."""
RESERVED = (*SET, "plan")
"""Keys whose values a search does not choose."""
RULED = ("policy.", "policy=", "halut=", "halut.")
"""Overrides in whose place the choices of sites are."""


@dataclass(frozen=True)
class SiteChoices:
    """What the sites of a pattern may become, None: of those that the policy replaces; `shared`:
    all of them the same."""

    options: tuple[str, ...]
    pattern: str | None = None
    shared: bool = False

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> SiteChoices:
        """Those of search.sites; HalutError for unknown keys and missing options."""
        known = ("name", "options", "shared")
        for key in entry:
            if key not in known:
                raise HalutError(f"search.sites: {unknown('key', str(key), known)}")
        options = entry.get("options")
        if not isinstance(options, list) or not options:
            raise HalutError("search.sites: give options: [keep, tree V=9, ...]")
        name = entry.get("name")
        return cls(
            tuple(map(str, options)), None if name is None else str(name), bool(entry.get("shared"))
        )


@dataclass(frozen=True)
class TrialSpace:
    """All that a sampler chooses, beside the overrides that every trial has."""

    fixed: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    sites: tuple[SiteChoices, ...] = ()

    def trial(self, network: Network, choose: Choose) -> tuple[Values, list[str]]:
        """The values of one trial, and its overrides.

        Parameters of sites are those of the network that the others build: see `Parameter`.
        """
        values: Values = {}
        for parameter in self.parameters:
            if parameter.active(values):
                values[parameter.name] = choose(parameter, values)
        overrides = self.overrides(values)
        if not self.sites:
            return values, overrides
        plan = network(overrides)
        by_site: dict[str, Choice | None] = {}
        for parameter, options in self.site_parameters(plan):
            value = values[parameter.name] = choose(parameter, values)
            by_site |= {site: options[str(value)].get(site) for site in parameter.keys}
        kept = [each for each in overrides if not each.startswith(RULED) or "policy.share" in each]
        return values, [*kept, "policy=everything", rules(by_site)]

    def points(self, network: Network) -> list[tuple[Values, list[str]]]:
        """Every trial of the space, once; HalutError if there are too many."""
        points = list(itertools.islice(self._points(network, []), MAX_POINTS + 1))
        if len(points) > MAX_POINTS:
            raise HalutError(f"sampler=grid: the space has more than {MAX_POINTS:,} points")
        return points

    def _points(self, network: Network, prefix: list[Value]) -> Iterator[tuple[Values, list[str]]]:
        """Those that begin with these values: the next parameter branches."""
        branches: list[Value] | None = None
        taken = iter(prefix)

        def choose(parameter: Parameter, _: Values) -> Value:
            nonlocal branches
            own = values_of(parameter)
            value = next(taken, None)
            if value is None:
                branches = branches or own
                return own[0]
            return value

        point = self.trial(network, choose)
        if branches is None:
            yield point
            return
        for value in branches:
            yield from self._points(network, [*prefix, value])

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """The overrides of these values, without those of sites."""
        lists: dict[str, list[str]] = {}
        own = []
        for parameter in self.parameters:
            if parameter.name not in values:
                continue
            if parameter.element is not None:
                chosen = lists.setdefault(parameter.keys[0], [])
                if values[parameter.name] == "true":
                    chosen.append(parameter.element)
            else:
                own += [f"{key}={values[parameter.name]}" for key in parameter.keys]
        own += [f"{key}=[{','.join(elements)}]" for key, elements in lists.items()]
        return [*self.fixed, *own]

    def site_parameters(
        self, plan: Plan
    ) -> list[tuple[Parameter, dict[str, dict[str, Choice | None]]]]:
        """A parameter for each site, or for those that share one, with what each of its values
        makes of each of its sites; None: keep. `keys` are the sites' names.

        Only what a site supports is among its values; HalutError for an option that no site of its
        pattern supports, and a site that two patterns match belongs to the first.
        """
        seen: set[str] = set()
        result = []
        for choices in self.sites:
            by_site = _supported(plan, choices)
            own = {site: options for site, options in by_site.items() if site not in seen}
            if by_site and not own:
                raise HalutError(f"{choices.pattern or '*'}: an earlier pattern has all its sites")
            seen |= own.keys()
            groups = [tuple(own)] if choices.shared else [(site,) for site in own]
            for group in groups:
                labels = [each for each in own[group[0]] if all(each in own[s] for s in group)]
                name = f"{SITE}{choices.pattern or '*'}" if choices.shared else SITE + group[0]
                if len(labels) < 2:
                    raise HalutError(f"{name} can be {labels[0] if labels else 'nothing'} alone")
                if len(labels) < len(choices.options):  # one name has one set of values
                    name += f" ({len(labels)} options)"
                parameter = Parameter(name, group, Choices(tuple(labels)))
                result.append((parameter, {lab: {s: own[s][lab] for s in group} for lab in labels}))
        return result


def _supported(plan: Plan, choices: SiteChoices) -> dict[str, dict[str, Choice | None]]:
    """By site, by label: what it can become; None: keep."""
    texts = [text for text in choices.options if text != KEEP]
    patterns = [] if choices.pattern is None else [choices.pattern]
    every = choices_of(plan, Tree(), texts, patterns) if texts else []
    refuse_impossible(every)
    by_site: dict[str, dict[str, Choice | None]] = {}
    for choice in every:
        own = by_site.setdefault(choice.candidate.site.name, {})
        if not own and KEEP in choices.options:
            own[KEEP] = None
        if choice.candidate.reason is None:
            own[choice.label] = choice
    return by_site


def rules(by_site: Mapping[str, Choice | None]) -> str:
    """policy.rules=[...] that make of each site what was chosen, and keep all others.

    A run replaces something: where all are kept, they become exact layers, which compute the same.
    """
    entries: list[dict[str, Any]] = []
    kept = KEEP if any(by_site.values()) else EXACT
    for site, choice in by_site.items():
        if choice is None:
            entries.append({"name": site, "operator": kept})
        else:
            own = {"name": site, "operator": choice.candidate.entry.operator}
            entries.append({**own, **({"options": choice.options} if choice.options else {})})
    entries.append({"operator": KEEP, "reason": "not searched"})
    return f"policy.rules={_literal(entries)}"


def values_of(parameter: Parameter) -> list[Value]:
    """All values of a parameter; HalutError if there are infinitely many."""
    values = parameter.domain.values
    if values is None:
        raise HalutError(
            f"sampler=grid has no list of {parameter.name}: give range(START,STOP,STEP) or A,B"
        )
    return list(values)


def space_of(
    words: Sequence[str], space: Mapping[str, Any], sites: Sequence[SiteChoices]
) -> TrialSpace:
    """The space of a command's words, those with several values laid over `space`, and of sites.

    Raises HalutError for a key that a search sets itself or that stands in two places, and for a
    condition that nothing fulfills.
    """
    fixed: dict[str, str] = {}
    swept = dict(space)
    for word in words:
        key, equals, text = word.partition("=")
        for earlier in [each for each in swept if each.lstrip("+") == key.lstrip("+")]:
            del swept[earlier]
        fixed.pop(key, None)  # of equal keys the last word counts
        if equals and parameters_of(key, text):
            swept[key] = text
        else:
            fixed[key] = word
    parameters: list[Parameter] = []
    for key, text in swept.items():
        own = parameters_of(key, text)
        if not own:
            fixed[key] = f"{key}={text_of(text)}"
        parameters += own
    _check_keys(fixed, swept)
    parameters = _parents_first(parameters)
    if sites and (ruled := [p.name for p in parameters if p.name.startswith("halut")]):
        raise HalutError(
            f"{ruled[0]} has no effect where options of sites are given: write it there"
        )
    if not parameters and all(set(each.options) == {KEEP} for each in sites):
        raise HalutError(
            "nothing to search: give several values of a key, KEY=A,B, or --options of sites"
        )
    return TrialSpace(tuple(fixed.values()), tuple(parameters), tuple(sites))


def _check_keys(fixed: Mapping[str, str], swept: Mapping[str, Any]) -> None:
    owners: dict[str, str] = {}
    for name in dict.fromkeys((*fixed, *swept)):
        for key in name.lstrip("+").split("+"):
            if key.split(".")[0] in (RESERVED if name in swept else SET):
                raise HalutError(
                    f"{key}: a search sets it itself; seeds=0,1,2 repeats a study, --out and "
                    "--results say where it is kept"
                )
            if key in owners:
                raise HalutError(f"{key} stands in {owners[key]}=... and in {name}=...")
            owners[key] = name


def _parents_first(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Each behind those that its condition names, else in the order given."""
    by_name = {parameter.name: parameter for parameter in parameters}
    placed: dict[str, Parameter] = {}

    def place(parameter: Parameter, below: tuple[str, ...]) -> None:
        for name, values in parameter.when.items():
            where = f"{parameter.name}: if {name}={','.join(values)}"
            if name not in by_name:
                raise HalutError(f"{where}: {unknown('parameter', name, list(by_name))}")
            if name in (*below, parameter.name):
                raise HalutError(f"{where}: the conditions go round in a circle")
            known = [str(each) for each in by_name[name].domain.values or ()]
            for value in values if known else ():
                if value not in known:
                    raise HalutError(f"{where}: {unknown('value', value, known)}")
            if name not in placed:
                place(by_name[name], (*below, parameter.name))
        placed.setdefault(parameter.name, parameter)

    for parameter in parameters:
        place(parameter, ())
    return list(placed.values())


def extended(space: TrialSpace, words: Sequence[str]) -> TrialSpace:
    """With further fixed overrides, which win."""
    return replace(space, fixed=(*space.fixed, *words))


def _literal(value: Any) -> str:
    """A plain value in the words of an override."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z_][\w.]*", value) else override_value(value)
    return json.dumps(value)
