"""Bundles: a folder others can load, of tensors and JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from halut.analysis.run_figures import normalized_mse_of
from halut.analysis.variants import COLUMNS, variant_cells, variants
from halut.errors import HalutError
from halut.io import read_json, reading, write_bytes, write_json
from halut.models.build import build_model
from halut.models.weights import load_weights, save_weights
from halut.replace import swap
from halut.replace.ptq import told
from halut.sites.plan import Plan


def save_bundle(path: Path, network: nn.Module, plan: Plan, report: dict[str, Any]) -> None:
    """Write model.safetensors, plan.json, report.json and README.md (the card) into `path`."""
    path.mkdir(parents=True, exist_ok=True)
    save_weights(path / "model.safetensors", network.state_dict())
    plan.save(path / "plan.json")
    write_json(path / "report.json", report)
    write_bytes(path / "README.md", card(plan, report).encode())


def load_bundle(path: Path) -> tuple[nn.Module, Plan, dict[str, Any]]:
    """The network with its operators, its plan and its report, from a bundle or a run folder.

    Builds the exact network by name, replays the plan, loads strictly; learns nothing again.
    Raises HalutError if a file is missing, damaged, or of another version or network.
    """
    path = Path(path)
    plan = read_plan(path)
    with reading(_folder(path) / "plan.json"):
        network = exact_network(plan)
    fill(network, plan, path)
    return network.eval(), plan, _report(_folder(path) / "report.json")


def read_plan(path: Path) -> Plan:
    """The plan of a bundle or a run folder; HalutError if it is neither."""
    for name in ("plan.json", "model.safetensors"):
        if not (_folder(path) / name).exists():
            raise HalutError(
                f"{path} is neither a bundle nor a finished run: it has no {name}{_reached(path)}"
            )
    return Plan.load(_folder(path) / "plan.json")


def _reached(path: Path) -> str:
    """What an unfinished run has of its stages, in words."""
    stages = sorted(path.glob("stage_*/stage.json"))
    if not stages:
        return ""
    last = read_json(stages[-1], {})
    accuracy = last.get("val_accuracy_after_training")
    shown = f", validation {accuracy:.2f}" if isinstance(accuracy, int | float) else ""
    count = f"{len(stages)} stage{'s are' if len(stages) > 1 else ' is'}"
    return f"; {count} finished{shown}, and the command that began it goes on"


def fill(network: nn.Module, plan: Plan, path: Path) -> None:
    """Give the exact network the plan's operators, and the weights of a bundle or a run folder."""
    with reading(_folder(path) / "plan.json"):
        swap.apply(network, plan)
    load_weights(network, _folder(path) / "model.safetensors")


def _folder(path: Path) -> Path:
    return path / "bundle" if (path / "bundle").is_dir() else path


def _report(path: Path) -> dict[str, Any]:
    """A bundle's report, {} if it has none; what others read of it has the type it should."""
    if not path.exists():
        return {}
    report: dict[str, Any] = read_json(path, {})
    with reading(path):
        for part in ("data", "final", "base", "baseline", "ptq"):
            known = _object(part, report.get(part))
            entries = known.values() if part == "ptq" else [known]
            for entry in entries if part != "data" else []:
                for key, value in _object(part, entry).items():
                    if key.endswith("_accuracy") and not isinstance(value, int | float | None):
                        raise TypeError(f"{part}.{key} is no number")
        data = _object("data", report.get("data"))
        if not isinstance(data.get("name"), str | None):
            raise TypeError("data.name is no text")
        _object("data.settings", data.get("settings"))
        for split, count in _object("data.evaluated", data.get("evaluated")).items():
            if not isinstance(count, int):
                raise TypeError(f"data.evaluated.{split} is no number")
    return report


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise TypeError(f"{name} is no object")
    return value or {}


def exact_network(plan: Plan) -> nn.Module:
    """The plan's network before any replacement, with random weights."""
    m = plan.model
    if not m:
        raise HalutError(
            "the plan does not say how to build its network, which no registry holds: give "
            "halut.load a factory of the exact network, or use halut.load_into"
        )
    for key in ("name", "num_classes", "in_channels"):
        if key not in m:
            raise HalutError(f"the plan does not say how to build its network: model.{key} missing")
    source, options = m.get("source", "auto"), m.get("options", {})
    return build_model(m["name"], m["num_classes"], m["in_channels"], source=source, **options)


def card(plan: Plan, report: dict[str, Any]) -> str:
    """A model card in Markdown."""
    model = plan.model
    name, count = model.get("name", "Network"), len(plan.replaced)
    lines = [
        f"# {name}, {count} of {len(plan.entries)} layers replaced",
        "",
        f"| variant | {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * len(COLUMNS)}",
        *(f"| {row['variant']} | {' | '.join(variant_cells(row))} |" for row in variants(report)),
        "",
        *(f"- {name.upper()}: {told(entry)}" for name, entry in report.get("ptq", {}).items()),
        *([f"- data: {report['data'].get('name')}"] if "data" in report else []),
        *([f"- made by: `{report['command']}`"] if "command" in report else []),
        "",
        "| site | operator | normalized error |",
        "|---|---|---|",
    ]
    if "sites" in report:
        sites = [(s["name"], s["operator"], normalized_mse_of(s)) for s in report["sites"]]
    else:
        sites = [(entry.site.name, entry.operator, "") for entry in plan.replaced]
    lines += [f"| {name} | {operator} | {error} |" for name, operator, error in sites]
    verb = "halut.load(FOLDER)" if model else "halut.load_into(network, FOLDER)"
    lines += ["", f"Load with `{verb}`."]
    return "\n".join(lines) + "\n"
