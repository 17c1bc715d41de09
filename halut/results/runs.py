"""Records of finished run folders, and the import of folders into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halut.analysis.run_figures import (
    FAILED,
    FIGURES,
    FINISHED,
    RunRecord,
    is_number,
    mapping,
    read_run,
    run_folders,
)
from halut.analysis.sweep_results import NOT_AXES, SEED
from halut.analysis.variants import COSTS, variants
from halut.errors import HalutError, reason
from halut.io import read_json, reading
from halut.models.weights import read_state
from halut.replace.swap import state_digest
from halut.results.record import DIGEST_LENGTH, Record, timestamp
from halut.results.store import Store

WEIGHTS = Path("base") / "weights.safetensors"
"""The exact network in a run folder."""
OPERATOR = "halut."
ELSEWHERE = (*NOT_AXES, SEED, "model.", "data.name", "capture.samples")
"""Options of a run that identify nothing, or that its record has in another field."""


@dataclass
class Imported:
    """What an import did: records appended, those that the store had already, and what was left
    out, a line each. `failed` counts the failed and damaged runs and the folders without a run."""

    added: list[Record] = field(default_factory=list)
    present: int = 0
    problems: list[str] = field(default_factory=list)
    failed: int = 0


def record_of_run(run: RunRecord) -> Record:
    """The record of a finished run.

    `operator` is that of its replaced layers, None where they differ; `options` are those of the
    group halut by dotted key, if that operator has them all from there; `settings` is the rest of
    the configuration that decides the figures; `figures` are those of
    halut.analysis.run_figures.FIGURES that the run has, and what its variants cost:
    cost.variants.int8.bytes. Raises HalutError if a file of the folder is damaged.

    >>> record_of_run(read_run(Path("runs/mine"))).figures["lost"]
    0.3
    """
    path = run.path / "report.json"
    report = read_json(path, {"model": dict, "data": dict})
    with reading(path):
        model, data = report["model"], report["data"]
        samples = mapping(data.get("evaluated")) or mapping(data.get("samples"))
        split = "val" if run.figures.get("test_accuracy") is None else "test"
        digest = mapping(data.get("digests")).get(split)
        operators = {site["operator"] for site in report.get("sites", []) if "operator" in site}
        environment = mapping(report.get("environment"))
        operator = operators.pop() if len(operators) == 1 else None
        others = any(run.config.get(key) for key in ("plan", "policy.rules"))
        of_group = operator == run.config.get("halut.name") and not others
        options = {
            key.removeprefix(OPERATOR): value
            for key, value in run.config.items()
            if of_group and key.startswith(OPERATOR) and key != "halut.name"
        }
        elsewhere = (*ELSEWHERE, OPERATOR) if of_group else ELSEWHERE
        return Record(
            "run",
            {
                "model": model.get("name"),
                "options": mapping(model.get("options")),
                "weights": _weights_digest(run.path / WEIGHTS),
            },
            {
                "name": data.get("name"),
                "split": split,
                "samples": samples.get(split),
                "digest": digest[:DIGEST_LENGTH] if digest else None,
            },
            {
                **{key: value for key in FIGURES if (value := run.figures.get(key)) is not None},
                **_variant_costs(report),
            },
            operator=operator,
            options=options,
            seed=run.config.get(SEED) or 0,
            calibration=run.config.get("capture.samples"),
            settings={k: v for k, v in run.config.items() if not k.startswith(elsewhere)},
            detail={
                "sites": len(report.get("sites", [])),
                "energies": mapping(mapping(report.get("cost")).get("energies")).get("name"),
            },
            context={
                "command": report.get("command"),
                "commit": environment.get("commit"),
                "versions": {
                    key: environment[key]
                    for key in ("halut", "python", "torch")
                    if key in environment
                },
                "machine": environment.get("device"),
                "time": timestamp(path.stat().st_mtime),
                "seconds": run.figures.get("seconds"),
                "run": str(run.path.resolve()),
            },
        )


def _variant_costs(report: Mapping[str, Any]) -> dict[str, float]:
    """What the networks cost whose accuracies stand beside the run's, by cost.variants.NAME.COST,
    of reports of earlier versions as far as they tell."""
    rows = {row["variant"].lower(): row for row in variants(report)}
    names = [name for name in ("exact", *mapping(report.get("ptq"))) if name in rows]
    return {
        f"cost.variants.{name}.{cost}": float(rows[name][cost])
        for name in names
        for cost in COSTS
        if is_number(rows[name][cost])
    }


def import_runs(
    store: Store,
    folders: Iterable[Path | str],
    progress: Callable[[RunRecord], None] = lambda run: None,
) -> Imported:
    """Append the records of the finished runs at and below `folders` that the store lacks.

    What is failed, unfinished or damaged, and a folder without a run, is named in `problems`.
    OSError if the store cannot be written.
    """
    outcome = Imported()
    store.prepare()
    keys = store.keys()
    for folder in map(Path, folders):
        paths = list(run_folders(folder)) if folder.is_dir() else []
        if not paths:
            what = "holds no run folder" if folder.is_dir() else "no such folder"
            outcome.problems.append(f"{folder}: {what}")
            outcome.failed += 1
        for path in paths:
            run = read_run(path)
            progress(run)
            if run.status != FINISHED:
                outcome.problems.append(f"{run.status}: {path}: {run.error}")
                outcome.failed += run.status == FAILED
                continue
            try:
                record = record_of_run(run)
            except (HalutError, OSError) as error:
                outcome.problems.append(f"damaged: {path}: {reason(error)}")
                outcome.failed += 1
                continue
            if record.key in keys:
                outcome.present += 1
                continue
            store.append(record)
            keys.add(record.key)
            outcome.added.append(record)
    return outcome


def _weights_digest(path: Path) -> str | None:
    """The digest of the exact network's weights; None if the folder has them no more."""
    if not path.is_file():
        return None
    state = read_state(path)
    assert isinstance(state, Mapping)
    return state_digest(state)[:DIGEST_LENGTH]
