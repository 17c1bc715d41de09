"""Policies: ordered rules that say which operator a site gets. The first match wins."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from halut.configs import Config
from halut.errors import HalutError
from halut.replace.operator_registry import make_operator
from halut.sites.attention import KIND
from halut.sites.find import Site, Unsupported
from halut.sites.plan import KEEP, Entry, Plan

KINDS = ("linear", "conv2d", "pointwise", "spatial", "depthwise", "grouped", "attention")


@dataclass
class Rule:
    """Sites that match every given condition get `operator` ("keep": stay exact).

    `name` is a glob over module names (`layer1.*.conv?`) or, between slashes, a regular expression
    (`/layer[12]\\..*conv1/`). `kind` is one of linear, conv2d, pointwise (1x1), spatial (larger
    than 1x1), depthwise, grouped, attention (its two products; without a kind no rule means them).
    `operator` is a name, a configuration such as `halut.PQ(V=4)`, "keep" (the default: so a rule
    without one leaves its sites exact), or None: the default operator. `options` are laid over that
    operator's options.

    Raises HalutError if a field has a wrong type.
    """

    name: str = "*"
    kind: str | None = None
    kernel: tuple[int, int] | None = None
    min_inputs: int | None = None
    max_inputs: int | None = None
    operator: str | None = KEEP
    options: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        operator: Any = self.operator
        if isinstance(operator, Config):
            self.operator, self.options = operator.name, operator.options()
        for key in ("name", "kind", "operator", "reason"):
            value = getattr(self, key)
            if not isinstance(value, str) and (value is not None or key in ("name", "reason")):
                raise HalutError(f"policy: a rule's {key} must be text, got {value!r}")
        for key in ("min_inputs", "max_inputs"):
            if not isinstance(getattr(self, key), int | None):
                raise HalutError(
                    f"policy: a rule's {key} must be a number, got {getattr(self, key)!r}"
                )
        size = self.kernel
        if size is not None and not (
            isinstance(size, Sequence) and len(size) == 2 and all(isinstance(s, int) for s in size)
        ):
            raise HalutError(f"policy: a rule's kernel must be two numbers, got {size!r}")
        if not isinstance(self.options, Mapping):
            raise HalutError(f"policy: a rule's options must be a mapping, got {self.options!r}")
        if "name" in self.options:
            raise HalutError("policy: a rule names its operator by operator, not in its options")

    def matches(self, site: Site) -> bool:
        """True if the site meets every condition."""
        return (
            matches_name(self.name, site.name)
            and (site.kind != KIND if self.kind is None else is_kind(site, self.kind))
            and (self.kernel is None or kernel_of(site) == tuple(self.kernel))
            and (self.min_inputs is None or self.min_inputs <= site.D)
            and (self.max_inputs is None or self.max_inputs >= site.D)
        )


def matches_name(pattern: str, name: str) -> bool:
    """Glob, or a regular expression between slashes, against the whole module name."""
    if len(pattern) > 1 and pattern.startswith("/") and pattern.endswith("/"):
        try:
            return re.fullmatch(pattern[1:-1], name) is not None
        except re.error as error:
            raise HalutError(f"policy: {pattern} is not a regular expression: {error}") from error
    return fnmatchcase(name, pattern)


def is_kind(site: Site, kind: str) -> bool:
    """True if the site is of that kind; raises HalutError on a kind nobody knows."""
    if kind not in KINDS:
        raise HalutError(f"policy: unknown kind {kind!r}; choose one of: {', '.join(KINDS)}")
    return {
        "linear": site.kind == "linear",
        "conv2d": site.kind == "conv2d",
        "pointwise": site.kind == "conv2d" and site.taps == 1,
        "spatial": site.kind == "conv2d" and site.taps > 1,
        "depthwise": site.depthwise,
        "grouped": site.kind == "conv2d" and site.groups > 1,
        "attention": site.kind == KIND,
    }[kind]


def kernel_of(site: Site) -> tuple[int, int] | None:
    """Kernel size of a convolution, None for a Linear."""
    return site.geometry.kernel_size if site.geometry else None


def simple_rules(
    sites: Sequence[Site],
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    kinds: Sequence[str] = (),
    keep_first: bool = True,
    keep_last: bool = True,
    keep_depthwise: bool = True,
) -> list[Rule]:
    """The rules that stand for the policy's short options, in their order of precedence."""
    rules = excluding_rules(sites, keep, only)
    if keep_first and sites:
        rules.append(Rule(name=_literal(sites[0].name), reason="first layer (policy.keep_first)"))
    if keep_last and sites:
        rules.append(Rule(name=_literal(sites[-1].name), reason="last layer (policy.keep_last)"))
    if keep_depthwise:
        rules.append(Rule(kind="depthwise", reason="depthwise (policy.keep_depthwise)"))
    names: list[str] = list(only) or ["*"]
    of_kind: list[str | None] = [*kinds] or [None]
    rules += [Rule(name=n, kind=k, operator=None) for n in names for k in of_kind]
    return rules


def excluding_rules(sites: Sequence[Site], keep: Sequence[str], only: Sequence[str]) -> list[Rule]:
    """The first of `simple_rules`: they keep what `keep` names, and what `only`, if any, does not.

    Of what `only` leaves, further rules say what it becomes.
    """
    rules = [Rule(name=pattern, reason="policy.keep") for pattern in keep]
    for site in sites if only else ():
        if not any(matches_name(pattern, site.name) for pattern in only):
            kind = KIND if site.kind == KIND else None
            rules.append(Rule(_literal(site.name), kind, reason="not in policy.only"))
    return rules


def _literal(name: str) -> str:
    return f"/{re.escape(name)}/"


def resolve(
    sites: Sequence[Site],
    rules: Sequence[Rule],
    operator: str,
    options: dict[str, Any],
    unsupported: Sequence[Unsupported] = (),
    model: dict[str, Any] | None = None,
) -> Plan:
    """The plan that `rules` make of `sites`; `operator` and `options` are the default operator's.

    Raises HalutError on a name pattern that matches no layer, options that do not fit a site, and
    a policy that replaces nothing.
    """
    check_names(rules, sites, unsupported)
    entries = tuple(_entry(site, rules, operator, options) for site in sites)
    if not any(entry.replaced for entry in entries):
        reasons = [(e.site.name, e.reason) for e in entries]
        reasons += [(each.name, each.reason) for each in unsupported]
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons[:8])
        raise HalutError(f"the policy replaces nothing: no site matches a replacing rule ({why})")
    skipped = {u.name: u.reason for u in unsupported}
    return Plan(entries, dict(model or {}), skipped)


def check_names(
    rules: Sequence[Rule], sites: Sequence[Site], unsupported: Sequence[Unsupported] = ()
) -> None:
    """Raise HalutError for a name pattern that matches no layer, naming the closest ones."""
    names = [site.name for site in sites]
    every = names + [u.name for u in unsupported]
    for rule in rules:
        if rule.kind is not None and rule.kind not in KINDS:
            is_kind(sites[0], rule.kind)
        if not any(matches_name(rule.name, name) for name in every):
            close = difflib.get_close_matches(rule.name, names, n=5, cutoff=0.3) or names[:8]
            raise HalutError(
                f"policy: {rule.name!r} matches no layer; the network has "
                f"{len(names)}, among them: {', '.join(close)}"
            )


def _entry(site: Site, rules: Sequence[Rule], default: str, options: dict[str, Any]) -> Entry:
    rule = next((rule for rule in rules if rule.matches(site)), None)
    if rule is None:
        return Entry(site, KEEP, reason="no rule matches")
    if rule.operator == KEEP:
        return Entry(site, KEEP, reason=rule.reason or f"rule {rule.name!r}")
    name = rule.operator or default
    merged = merge_options(options if name == default else {}, rule.options)
    operator = make_operator(name, **merged)
    reason = operator.supports(site)
    if reason:
        return Entry(site, KEEP, reason=reason)
    operator.check(site)
    return Entry(site, name, operator.plan_options(site))


def merge_options(options: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`options` with `own` in front, mappings in them alike."""
    merged = {**options, **own}
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(options.get(key), dict):
            merged[key] = merge_options(options[key], value)
    return merged
