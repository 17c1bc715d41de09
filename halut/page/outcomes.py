"""Whole networks, exact and replaced: the points of the front and the lines of the headline."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from halut.analysis.run_figures import flat, is_number
from halut.analysis.sweep_results import NOT_AXES, SEED
from halut.analysis.variants import COSTS as VARIANT_COSTS
from halut.page.measurements import subject_of
from halut.results.record import Record

COSTS = {
    "bytes": "bytes of the network",
    "operations": "operations",
    "bops": "bit operations",
    "weight_bits": "bits a weight",
    "seconds": "time of the run",
}
"""Axes of the front that every run tells, of earlier versions too."""
EXTRA = {"energy": "energy of a sample", "latency": "latency"}
"""Axes that runs (energy) and cost records bring, and how their names begin."""
UNITS = {"energy": "J", "latency": "s", "seconds": "s"}
"""Of the axes that have one."""
APART = (
    *(*NOT_AXES, SEED, "schedule.cache", "plugins", "sweep.", "hydra."),
    *("baseline", "ptq", "data.name", "model.name"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
)
"""Keys, by how they begin, that make no other configuration: the seed, where and how it ran, what
stands beside it, and what the subject says."""
SIZES = ("bytes", "operations", "bops")
LABELED = 4
"""Options in a label."""
NAMES = {"exact": "exact", "baseline": "exact, fine-tuned", "int8": "INT8", "int4": "INT4"}
TOLD = ("subject", "variant", "operator", "series", "label", "options", "command")
"""What a line of the headline has from the first of its points."""
VARIANT_OF_COST = {"exact": "exact", "int8": "INT8", "int4": "INT4", "plan": "ours"}


def points(runs: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> list[dict[str, Any]]:
    """A point for every variant of every run and every record of a whole network.

    {"subject", "variant" (exact, exact, fine-tuned, INT8, INT4, ours), "label", "options",
    "operator", "series", "accuracy", "val_accuracy", "lost", "seed", "source", "command", and
    COSTS}; percent and points, test split. `operator` is that of ours, `series` the operator or the
    variant, which the front tells apart. `lost` is against the exact network of the same run;
    `options` are all that tell its configuration from others, `label` the few that tell most.
    """
    outcomes = [_of_run(run) for run in runs if run["variants"]]
    outcomes += [_of_record(record) for record in records if record.kind == "run"]
    labels = _labels([(each["subject"], each["config"]) for each in outcomes])
    rows = []
    for outcome, (label, options) in zip(outcomes, labels, strict=True):
        for row in outcome["rows"]:
            ours = row["variant"] == "ours"
            operator = row.pop("operator", None) or "ours"
            name = f"{operator} {label}".strip()
            shared = {key: outcome[key] for key in ("subject", "seed", "source", "command")}
            told = {
                "label": name if ours else row["variant"],
                "options": options if ours else None,
                "operator": operator if ours else None,
                "series": operator if ours else row["variant"],
            }
            rows.append({**shared, **row, **told})
    return _with_costs(_numbered(rows), records)


def _numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels that several configurations of a subject have, with a number behind."""
    options: dict[tuple[Any, Any], dict[Any, int]] = defaultdict(dict)
    for row in rows:
        known = options[row["subject"], row["label"]]
        number = known.setdefault(row["options"], 1 + len(known))
        row["label"] += f" ({number})" if number > 1 else ""
    return rows


def _of_run(run: Mapping[str, Any]) -> dict[str, Any]:
    exact = run["variants"][0]["test_accuracy"]
    figures, rows = run["figures"], []
    for variant in run["variants"]:
        ours = variant["variant"].startswith("ours")
        row = {
            "variant": "ours" if ours else variant["variant"],
            "accuracy": variant["test_accuracy"],
            "val_accuracy": variant["val_accuracy"],
            "lost": difference(exact, variant["test_accuracy"]),
            **{key: value for key, value in variant.items() if _is_cost(key)},
        }
        if ours:
            known = {**figures, "seconds": run["seconds"]}
            row |= {k: v for k, v in known.items() if _is_cost(k) and row.get(k) is None}
            name = variant["variant"]
            row["operator"] = name[6:-1] if "(" in name else None
        rows.append(row)
    keys = ("subject", "seed", "command", "config")
    return {**{key: run[key] for key in keys}, "source": run["name"], "rows": rows}


def _of_record(record: Record) -> dict[str, Any]:
    """The variants of a record; costs of those but ours are its cost.variants.NAME.COST."""
    figures = record.figures
    exact = figures.get("exact_accuracy")
    rows: list[dict[str, Any]] = []
    for key, variant in NAMES.items():
        accuracy = figures.get(f"{key}_accuracy")
        if accuracy is None:
            continue
        row = {"variant": variant, "accuracy": accuracy, "lost": difference(exact, accuracy)}
        place = f"cost.variants.{'exact' if key == 'baseline' else key}"
        rows.append({**row, **{cost: figures.get(f"{place}.{cost}") for cost in VARIANT_COSTS}})
    test = figures.get("test_accuracy", figures.get("accuracy"))
    ours: dict[str, Any] = {"variant": "ours", "accuracy": test, "lost": difference(exact, test)}
    ours["val_accuracy"] = figures.get("val_accuracy")
    ours |= {key: value for key, value in figures.items() if _is_cost(key)}
    ours["operator"] = record.operator or _operator_of(record.settings)
    config = {**record.settings, **{f"halut.{k}": v for k, v in flat(dict(record.options))}}
    config |= {f"model.options.{k}": v for k, v in flat(dict(record.network.get("options") or {}))}
    config["capture.samples"] = record.calibration
    if record.operator is not None:
        config["halut.name"] = record.operator
    return {
        "subject": subject_of(record),
        "seed": record.seed,
        "command": record.context.get("command"),
        "config": config,
        "source": record.key,
        "rows": [*rows, ours],
    }


def _operator_of(settings: Mapping[str, Any]) -> str | None:
    """The operator of a run whose record tells none; "mixed" where a plan or rules give several."""
    ruled = any(settings.get(key) for key in ("plan", "policy.rules"))
    return "mixed" if ruled else settings.get("halut.name")


def _is_cost(name: str) -> bool:
    return name in COSTS or name.startswith(tuple(EXTRA))


def _labels(outcomes: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """(KEY=VALUE ... of the LABELED keys with most values, the same of all keys) that differ.

    Among the configurations of one subject, seeds apart; options of operators among runs of the
    same operator alone. A configuration that lacks a key differs in nothing by that, as older
    ones do; null is not written.
    """
    kept = [
        {
            k: json.dumps(v, sort_keys=True, default=str)
            for k, v in config.items()
            if not k.startswith(APART)
        }
        for _, config in outcomes
    ]
    whole = [subject for subject, _ in outcomes]
    same = [(s, c.get("halut.name")) for s, c in zip(whole, kept, strict=True)]
    shared, own = _distinct(whole, kept, False), _distinct(same, kept, True)
    labels = []
    for subject, kind, config in zip(whole, same, kept, strict=True):
        values = {**shared[subject], **own[kind]}
        keys = [key for key in sorted(config) if key != "halut.name" and len(values[key]) > 1]
        telling = sorted(keys, key=lambda key: -len(values[key]))[:LABELED]
        labels.append((_options(config, sorted(telling)), _options(config, keys)))
    return labels


def _options(config: Mapping[str, str], keys: Sequence[str]) -> str:
    quote = chr(34)
    return " ".join(
        f"{key.removeprefix('halut.')}={config[key].strip(quote)}"
        for key in keys
        if config[key] != "null"
    )


def _distinct(
    groups: Sequence[Any], configs: Sequence[Mapping[str, str]], of_operator: bool
) -> dict[Any, dict[str, set[str]]]:
    """The values of every key in each group, of keys `halut.*` or of the others."""
    values: dict[Any, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for group, config in zip(groups, configs, strict=True):
        for key, value in config.items():
            if key.startswith("halut.") == of_operator:
                values[group][key].add(value)
    return values


def _with_costs(rows: list[dict[str, Any]], records: Sequence[Record]) -> list[dict[str, Any]]:
    """Energies and latencies of cost records, where network, variant and costs are the same.

    The same is what has as many bytes, or as many operations and bit operations. An exact network
    whose costs are not told has those of its cost record.
    """
    costs = [
        (record.network.get("model"), VARIANT_OF_COST.get(variant), record.figures)
        for record in records
        if record.kind == "cost"
        and record.site is None
        and (variant := str(record.settings.get("variant"))) in VARIANT_OF_COST
    ]
    for row in rows:
        model = row["subject"].partition(" on ")[0]
        variant = "exact" if row["variant"].startswith("exact") else row["variant"]
        for of_model, of_variant, figures in costs:
            if (of_model, of_variant) != (model, variant):
                continue
            if variant == "exact" and all(row.get(key) is None for key in SIZES):
                row |= {key: figures.get(key) for key in SIZES}
            same = [row.get(key) is not None and row[key] == figures.get(key) for key in SIZES]
            if same[0] or all(same[1:]):
                extra = {k: v for k, v in figures.items() if k.startswith(tuple(EXTRA))}
                row |= {k: v for k, v in extra.items() if row.get(k) is None}
    return rows


def headline(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points of one variant (ours: of one configuration) over their seeds, in order.

    TOLD, "seeds" and of every figure its mean and, as
    NAME_std, its sample standard deviation over seeds (None for one). Equal exact networks that
    several runs started from count once.
    """
    groups: dict[tuple[Any, ...], dict[Any, Mapping[str, Any]]] = defaultdict(dict)
    sizes: dict[tuple[Any, Any], dict[Any, None]] = defaultdict(dict)
    for row in rows:
        if row.get("bytes") is not None:
            sizes[row["subject"], row["variant"]][row["bytes"]] = None
    for row in rows:
        ours = row["variant"] == "ours"
        key: tuple[Any, ...] = (row["subject"], row["label"] if ours else row["variant"])
        if not ours:  # one that tells no bytes has those of the only ones that do
            known = list(sizes[row["subject"], row["variant"]])
            size = row.get("bytes")
            key += (known[0] if size is None and len(known) == 1 else size,)
        measured = (row["seed"], row["accuracy"], row["lost"])
        groups[key].setdefault((row["source"], *measured) if ours else measured, row)
    lines = []
    for group in groups.values():
        members = list(group.values())
        first = members[0]
        names = dict.fromkeys(name for row in members for name in row)
        figures: dict[str, float | None] = {}
        for name in names:
            values = [float(row[name]) for row in members if is_number(row.get(name))]
            if name not in ("seed",) and values:
                figures[name] = fmean(values)
                figures[f"{name}_std"] = stdev(values) if len(values) > 1 else None
        seeds = len({row["seed"] for row in members})
        told = {k: first[k] for k in TOLD}
        lines.append({**told, "seeds": seeds, "count": len(members), **figures})
    order = list(dict.fromkeys(line["subject"] for line in lines))
    ranks = [*NAMES.values(), "ours"]

    def rank(line: Mapping[str, Any]) -> tuple[float, float, float]:
        variant = line["variant"]
        best = -(line.get("accuracy") or 0.0) if variant == "ours" else 0.0
        known = ranks.index(variant) if variant in ranks else len(ranks) - 1.5
        return order.index(line["subject"]), known, best

    return sorted(lines, key=rank)


def repeated_seeds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note for every configuration with several runs of one seed: they count as if of several."""
    runs = Counter((r["subject"], r["label"], r["seed"]) for r in rows if r["variant"] == "ours")
    return [
        f"{subject}, {label}: {count} runs of seed {seed}; each counts for the mean and the spread"
        for (subject, label, seed), count in runs.items()
        if count > 1
    ]


def difference(exact: float | None, accuracy: float | None) -> float | None:
    """Points lost; None where one is not known."""
    return None if exact is None or accuracy is None else exact - accuracy
