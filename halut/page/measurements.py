"""Records of a store as rows of the page, and what is wrong with them in notes."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from halut.analysis.run_figures import flat, mapping
from halut.page.shapes import sizes
from halut.results.record import Record

LABELED = ("C", "V", "K", "bits", "width", "weight.width")
"""Options that a label has first."""


def record_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A flat row for every record: what identifies it, then its figures by their own names.

    `option` is a label for charts: that of its detail, or its operator with C, V, K, the bits and
    those options in which records of that operator differ; `family` is it without C, V and K, the
    records of one heat map; `asked` are its options in JSON, those that were given where the detail
    tells them.
    """
    labels = option_labels(records)
    return [_row(record, label) for record, label in zip(records, labels, strict=True)]


def _row(record: Record, label: str | None) -> dict[str, Any]:
    shape = mapping(record.detail.get("shape"))
    return {
        "kind": record.kind,
        "subject": subject_of(record),
        "model": record.network.get("model"),
        "weights": record.network.get("weights"),
        "data": record.data.get("name"),
        "split": record.data.get("split"),
        "samples": record.data.get("samples"),
        "site": record.site,
        "site_kind": shape.get("kind"),
        "operator": record.operator,
        "option": label,
        "family": None if label is None else re.sub(r" [CVK]=\S+", "", label),
        **sizes(record.operator, record.options, shape.get("D")),
        "score": record.score,
        "calibration": record.calibration,
        "seed": record.seed,
        "asked": json.dumps(record.detail.get("asked", record.options), default=str)
        if record.operator is not None
        else None,
        "variant": record.settings.get("variant"),
        "settings": words(record.settings) or None,
        "command": record.context.get("command"),
        "run": run_name(record),
        "time": record.context.get("time"),
        "reason": record.detail.get("reason"),
        "stage": shape.get("stage", record.detail.get("stage")),
        "not_finite": " ".join(record.not_finite) or None,
        **record.figures,
    }


def run_name(record: Record) -> str | None:
    """The last two parts of its run folder's path, as FOLDER/RUN of a sweep."""
    run = record.context.get("run")
    return None if run is None else "/".join(str(run).replace("\\", "/").split("/")[-2:])


def subject_of(record: Record) -> str:
    """MODEL on DATA."""
    return f"{record.network.get('model', '?')} on {record.data.get('name', '?')}"


def option_labels(records: Sequence[Record]) -> list[str | None]:
    """OPERATOR KEY=VALUE ... of each record: what tells an operator's options in its kind apart."""
    options = [dict(flat(dict(record.options))) for record in records]
    values: dict[Any, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record, each in zip(records, options, strict=True):
        for key, value in each.items():
            values[record.kind, record.operator][key].add(
                json.dumps(value, sort_keys=True, default=str)
            )
    labels: list[str | None] = []
    for record, each in zip(records, options, strict=True):
        if record.operator is None or isinstance(record.detail.get("label"), str):
            labels.append(record.detail.get("label"))
            continue
        kinds = values[record.kind, record.operator]
        keys = [key for key in LABELED if key in each]
        keys += [key for key in each if key not in keys and len(kinds[key]) > 1]
        words_of = [f"{key}={_short(each[key])}" for key in keys if each[key] is not None]
        labels.append(" ".join([record.operator, *words_of]))
    return labels


def words(settings: Mapping[str, Any]) -> str:
    """KEY=VALUE ..., in order of the keys."""
    return " ".join(f"{key}={_short(settings[key])}" for key in sorted(settings))


def record_notes(records: Sequence[Record], sites: Mapping[str, Iterable[str]]) -> list[str]:
    """What a reader has to know before comparing the records.

    Figures that are not finite, several networks or sets of weights in one store, several data
    sets, and sites that the plan of the same network does not have (`sites`: names by model).
    """
    notes = []
    broken = Counter(name for record in records for name in record.not_finite)
    if broken:
        names = ", ".join(f"{name} ({count})" for name, count in broken.items())
        count = sum(bool(record.not_finite) for record in records)
        has = "record has" if count == 1 else "records have"
        notes.append(f"{count:,} {has} figures that are not finite, shown as empty: {names}")
    subjects = Counter(map(subject_of, records))
    if len(subjects) > 1:
        names = ", ".join(f"{name} ({count})" for name, count in subjects.items())
        notes.append(f"records of several networks or data sets: {names}; filter by model and data")
    weights: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.kind != "run" and record.network.get("weights") is not None:
            weights[subject_of(record)].add(str(record.network["weights"]))
    for name, digests in weights.items():
        if len(digests) > 1:
            notes.append(f"{name}: records of {len(digests)} sets of weights, each its own network")
    for model, names_of_model in sites.items():
        known = set(names_of_model)
        strange = Counter(
            record.site
            for record in records
            if record.network.get("model") == model and record.site and record.site not in known
        )
        if strange:
            listed = ", ".join(f"{site} ({count})" for site, count in list(strange.items())[:8])
            more = f" and {len(strange) - 8} more" if len(strange) > 8 else ""
            notes.append(f"sites that the plan of {model} does not have: {listed}{more}")
    return notes


def _short(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
