"""Run folder: files, state, and checks before resuming."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from halut.analysis.run_figures import ERROR
from halut.errors import HalutError, reason
from halut.io import TEMPORARY, Kind, read_json, write_bytes, write_json
from halut.models.weights import load_weights, save_weights
from halut.option import with_new_names
from halut.replace.operator_registry import config_type, operator_names
from halut.training.cluster import slurm
from halut.training.cluster.lock import LOCK, TAKING
from halut.training.config.run_config import TrainConfig, plain_values

PLACEMENT_OPTIONS = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "threads",
    "enable_progress_bar",
)
CHECKPOINT_OPTIONS = ("checkpoint_every", "checkpoint_minutes", "ranks", "requeue", "max_requeues")
MACHINE_OPTIONS = ("root", "workers", "download")
"""Options of data that say where and how it is read, not what it is."""
MUTABLE_ON_RESUME = (
    ("trainer", (*PLACEMENT_OPTIONS, *CHECKPOINT_OPTIONS)),
    ("data", MACHINE_OPTIONS),
    ("schedule", ("cache",)),
    ("logger", ()),
    ("debug", ("traceback",)),
    ("run_dir", ()),
    ("results", ()),
    ("test", ()),
    ("sweep", ()),
    ("search", ()),
)
"""What may differ between the command that started a run and the one that resumes it."""

BEFORE: dict[str, dict[str, Any]] = {
    "halut": {"output_metric": False, "boosting": 0},
    "schedule": {"refit": False},
}
"""What runs did that began before there were these options, whose defaults are others."""


def config_hash(config: dict[str, Any]) -> str:
    """First 10 digits of the SHA-256 of a configuration's JSON with sorted keys."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def resume_relevant_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what may change between start and resume."""
    relevant = json.loads(json.dumps(config, default=str))
    if not relevant.get("plugins"):
        relevant.pop("plugins", None)  # runs of before there were plugins have no such key
    for group, keys in MUTABLE_ON_RESUME:
        if not keys:
            relevant.pop(group, None)
        for key in keys:
            if isinstance(relevant.get(group), dict):
                relevant[group].pop(key, None)
    return relevant


def default_path(config: dict[str, Any]) -> Path:
    """runs/DATE-TIME-HASH; in a SLURM job runs/slurm-JOB-HASH, which a requeued job finds again."""
    if slurm.job() is not None:
        return Path("runs") / f"slurm-{slurm.job()}-{config_hash(resume_relevant_config(config))}"
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{now}-{config_hash(resume_relevant_config(config))}"


class RunFolder:
    """Paths and JSON of one run; every file is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def check(self, config: dict[str, Any]) -> bool:
        """True if a run of this configuration is to be resumed, False if the folder is new.

        Raises HalutError, leaving everything as it is, if the folder holds something else.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:  # the libraries that read weights refuse it later
            raise HalutError(f"run_dir={self.path}: the name is no UTF-8") from error
        if self.path.exists() and not self.path.is_dir():
            raise HalutError(f"run_dir={self.path} is a file")
        if not self.path.exists() or all(map(_of_no_run, self.path.iterdir())):
            return False
        saved = self.read("config.json", {})
        if saved is None:
            raise HalutError(
                f"run_dir={self.path} is not empty and holds no run; give another folder"
            )
        saved = with_defaults(with_new_names(saved))
        differing = sorted(
            _differences(resume_relevant_config(saved), resume_relevant_config(config))
        )
        if differing:
            raise HalutError(
                f"run_dir={self.path} holds a run of another configuration; it differs in "
                f"{', '.join(differing[:8])}. Give another run_dir, or the same options to resume"
            )
        return True

    def start(self, config: dict[str, Any]) -> None:
        """Write the configuration of a new run."""
        write_json(self.path / "config.json", config)
        write_bytes(self.path / "config.yaml", OmegaConf.to_yaml(config).encode())

    def stage(self, index: int) -> Path:
        """stage_NN."""
        return self.path / f"stage_{index:02d}"

    def read(self, name: str | Path, fields: Mapping[str, Kind] | None = None) -> Any:
        """A JSON file of the folder, or None if it is not there.

        HalutError if it is damaged, or not an object with the keys of `fields`, of those types.
        """
        path = self.path / name
        return read_json(path, fields) if path.exists() else None

    def write(self, name: str | Path, content: Any) -> None:
        """A JSON file of the folder."""
        write_json(self.path / name, content)

    def fail(self, error: BaseException, config: dict[str, Any] | None) -> None:
        """Note in error.json, where that can be written, why this attempt ended, for tables."""
        details = traceback.format_exception(type(error), error, error.__traceback__)
        line = reason(error) or " ".join(f"{type(error).__name__}: {error}".split())
        with contextlib.suppress(OSError, UnicodeError):  # the disk may be full
            self.write(ERROR, {"error": line, "traceback": "".join(details), "config": config})

    def begin(self) -> None:
        """Forget why an earlier attempt ended."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (self.path / ERROR).unlink()

    def next_action(self, action: str, **details: Any) -> None:
        """Note in state.json what the run does next, for people and for the resume."""
        state = self.read("state.json", {}) or {}
        self.write("state.json", {**state, "next": action, **details})


def _of_no_run(path: Path) -> bool:
    """True for what a run leaves that has not begun: an error, or what a kill left behind."""
    return path.name in (ERROR, LOCK, TAKING) or path.name.startswith(TEMPORARY)


def with_defaults(saved: dict[str, Any]) -> dict[str, Any]:
    """The configuration of an earlier version: options that came later have their defaults."""

    def filled(values: Any, defaults: Any) -> Any:
        if not (isinstance(values, dict) and isinstance(defaults, dict) and defaults):
            return values
        known = {key: filled(value, defaults.get(key)) for key, value in values.items()}
        return {**defaults, **known}

    defaults = asdict(TrainConfig())
    operator = saved.get("halut")
    if isinstance(operator, dict) and operator.get("name") in operator_names():
        defaults["halut"] = plain_values(config_type(operator["name"])())
    for group, values in BEFORE.items():
        if isinstance(own := defaults.get(group), dict):
            own.update({key: value for key, value in values.items() if key in own})
    return dict(filled(saved, defaults))


def _differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = []
        for key in {*a, *b}:
            keys += _differences(a.get(key), b.get(key), f"{prefix}{key}.")
        return keys
    return [] if a == b else [prefix.rstrip(".")]


def save_network(path: Path, network: nn.Module) -> None:
    """All parameters and buffers as safetensors."""
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    save_weights(path, state, {})


def load_network(path: Path, network: nn.Module) -> None:
    """Strictly load what save_network wrote."""
    with torch.no_grad():
        load_weights(network, path)
