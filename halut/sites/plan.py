"""Plans: what becomes of every site of one network. Frozen, versioned, JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from halut.errors import HalutError
from halut.io import read_json, write_json
from halut.sites.find import Site

VERSION = 1
KEEP = "keep"


@dataclass(frozen=True)
class Entry:
    """One site and its operator. `stage` is None for sites that are kept as they are.

    Sites with the same `shares`, which is the name of one of them, have one encoder.
    """

    site: Site
    operator: str
    options: dict[str, Any] = field(default_factory=dict)
    stage: int | None = None
    reason: str = ""
    shares: str | None = None

    @property
    def replaced(self) -> bool:
        """True if the site does not stay as it is."""
        return self.operator != KEEP

    @property
    def has_tables(self) -> bool:
        """True if look-up tables replace the site."""
        return "K" in self.options


@dataclass(frozen=True)
class Plan:
    """Entries in the order the network calls them, and how to build that network again.

    `model` holds the arguments of halut.models.build_model; `unsupported` names the layers that
    multiply but are no sites, with the reason. `plugins` says what of all this halut does not
    bring: {module or file: {noun: names}}.
    """

    entries: tuple[Entry, ...]
    model: dict[str, Any] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    version: int = VERSION
    plugins: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def replaced(self) -> list[Entry]:
        """The entries whose site is replaced, in order."""
        return [entry for entry in self.entries if entry.replaced]

    @property
    def stages(self) -> int:
        """Number of stages."""
        return 1 + max((e.stage for e in self.replaced if e.stage is not None), default=-1)

    @property
    def digest(self) -> str:
        """Of what becomes of every site: equal for equal plans."""
        entries = [(e.site.to_dict(), e.operator, e.options, e.shares) for e in self.entries]
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]

    def stage(self, index: int) -> list[Entry]:
        """The entries replaced in one stage."""
        return [entry for entry in self.replaced if entry.stage == index]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.site.name == name:
                return entry
        raise HalutError(f"the plan has no site {name!r}")

    @property
    def network(self) -> str:
        """The network it is for in words: "resnet8 (width=8)"."""
        options = ", ".join(f"{k}={v}" for k, v in self.model.get("options", {}).items())
        name = self.model.get("name", "a network without a name")
        return f"{name} ({options})" if options else str(name)

    def difference(self, sites: Sequence[Site]) -> str | None:
        """The first of `sites`, those of a network, that is not as the plan has it; None: all are.

        >>> plan.difference(find_sites(network, example)[0])
        'conv1 has M=16, in the plan M=8'
        """
        planned = {entry.site.name: entry.site for entry in self}
        for site in sites:
            if site.name not in planned:
                return f"the plan has no site {site.name}"
            here, there = site.to_dict(), planned[site.name].to_dict()
            keys = [key for key in here if here[key] != there[key]]
            if keys:
                told = [", ".join(f"{k}={side[k]}" for k in keys) for side in (here, there)]
                return f"{site.name} has {told[0]}, in the plan {told[1]}"
        names = [site.name for site in sites]
        if missing := [name for name in planned if name not in names]:
            return f"there is no site {missing[0]}"
        moved = [a for a, b in zip(names, planned, strict=True) if a != b]
        return f"{moved[0]} comes at another place in the plan" if moved else None

    def with_stages(self, stage_of: dict[str, int]) -> Plan:
        """The same plan with sites assigned to stages by name."""
        entries = tuple(replace(e, stage=stage_of.get(e.site.name)) for e in self.entries)
        return replace(self, entries=entries)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "version": self.version,
            "model": self.model,
            "entries": [
                {
                    "site": e.site.to_dict(),
                    "operator": e.operator,
                    "options": e.options,
                    "stage": e.stage,
                    "reason": e.reason,
                    "shares": e.shares,
                }
                for e in self.entries
            ],
            "unsupported": self.unsupported,
            **({"plugins": self.plugins} if self.plugins else {}),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any], source: str = "plan") -> Plan:
        """Inverse of to_dict. Raises HalutError on another version or missing fields."""
        version = fields.get("version") if isinstance(fields, dict) else None
        if version != VERSION:
            raise HalutError(
                f"{source}: plan version {version!r} cannot be read; this halut reads {VERSION}"
            )
        try:
            entries = tuple(_entry(e) for e in fields["entries"])
            model, unsupported = dict(fields["model"]), dict(fields.get("unsupported", {}))
            plugins = _plugins(fields.get("plugins", {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HalutError(f"{source}: not a plan: {error!r}") from error
        return cls(entries, model, unsupported, plugins=plugins)

    def save(self, path: Path) -> None:
        """Write plan.json atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan.json. Raises HalutError if it is missing, damaged or of another version."""
        try:
            fields = read_json(Path(path))
        except FileNotFoundError as error:
            raise HalutError(f"{path}: no such plan") from error
        except OSError as error:
            raise HalutError(f"{path}: the plan cannot be read: {error.strerror}") from error
        return cls.from_dict(fields, str(path))


def _plugins(fields: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """The plugins of a plan.json; raises TypeError or the like if they are none."""
    for plugin, entries in fields.items():
        for noun, names in entries.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"plugins: {plugin}: {noun} must be a list of names, got {names!r}")
    return fields


def _entry(fields: dict[str, Any]) -> Entry:
    """One entry of a plan.json; raises KeyError, TypeError or the like if it is none."""
    stage = fields["stage"]
    for key, kind in (("operator", str), ("options", dict)):
        if not isinstance(fields[key], kind):
            raise TypeError(f"{key} must be {kind.__name__}, got {fields[key]!r}")
    if stage is not None and (not isinstance(stage, int) or stage < 0):
        raise TypeError(f"stage must be a number from 0 or null, got {stage!r}")
    shares = fields.get("shares")
    if shares is not None and not isinstance(shares, str):
        raise TypeError(f"shares must be a site's name or null, got {shares!r}")
    site = Site.from_dict(fields["site"])
    reason = fields.get("reason", "")
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a text, got {reason!r}")
    return Entry(site, fields["operator"], fields["options"], stage, reason, shares)
