"""Weights & Biases logger: one W&B run over all stages, with the bundle as an artifact.

A resumed run is the same W&B run: state.json keeps its id, its stages and, where a process ended in
order, the last row. W&B wants one increasing number per row: we give it the step plus the number of
stages begun before, so that figures of one step and stage share a row, and a stage's first row is
not its predecessor's last. Charts are drawn over `step` itself.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halut.errors import HalutError
from halut.io import reading
from halut.page.plain import run_tables
from halut.training.config.run_config import LoggerConfig
from halut.training.logging.metrics import numbers_of
from halut.training.logging.progress import console
from halut.training.run_folder import RunFolder

STAGE_RESULT = "stage/"
"""Keys that begin so are results of a stage and go to the run's summary too, one per stage."""

FLUSH = "x_transaction_log_flush_interval"
"""Seconds of figures that a kill of all processes may cost; W&B's own choice is 15."""


class WandbStageLogger:
    """One W&B run. Every row carries `step`, monotonic over all stages, and `stage`, its name.

    `stage/index` is the stage's number, for charts over stages; the summary holds each stage's
    results as `stage_NN/...` and, at the end, the figures of the report. Raises HalutError if wandb
    is not installed or, online, if the server refuses or does not answer. `options` are further
    arguments of wandb.init.

    Lightning's WandbLogger does not serve: it leaves the row's number to W&B, which then counts
    calls, so that figures of one step are several rows and a resumed run has some twice.
    """

    name = "wandb"

    def __init__(
        self,
        settings: LoggerConfig,
        plain: Mapping[str, Any],
        folder: RunFolder,
        offline: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.offline = offline
        self.options = dict(options or {})
        self.folder = folder
        self.wandb = _import()
        state = folder.read("state.json", {}) or {}
        known = state.get("wandb_id")
        with reading(folder.path / "state.json"):
            self.id = str(known or secrets.token_hex(6))
            self.stages: list[str] = list(map(str, state.get("wandb_stages", [])))
            self.first = int(state.get("wandb_row", 0))
        self.row = self.step = 0
        self.complete = False
        self.run = self._start(settings, plain)
        if not known:
            self._remember(wandb_id=self.id)
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def _start(self, settings: LoggerConfig, plain: Mapping[str, Any]) -> Any:
        options: dict[str, Any] = {"silent": True, "console": "off"}
        if FLUSH in self.wandb.Settings.model_fields:
            options[FLUSH] = 1.0
        self.wandb.setup(self.wandb.Settings(silent=True))
        self.folder.path.mkdir(parents=True, exist_ok=True)
        try:
            arguments = {
                "project": settings.project,
                "entity": settings.entity,
                "group": settings.group,
                "tags": list(settings.tags) or None,
                "name": self.folder.path.name,
                "dir": str(self.folder.path),
                "mode": "offline" if self.offline else "online",
                "settings": self.wandb.Settings(**options),
                **self.options,
            }
            run = self.wandb.init(
                id=self.id, resume="allow", config=dict(plain), reinit="create_new", **arguments
            )
        except self.wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise HalutError(
                f"logger=wandb: W&B did not start: {reason}; "
                "logger=wandb_offline and logger=csv need no account and no network"
            ) from error
        if run.url:
            console.print(f"W&B: {run.url}", soft_wrap=True, markup=False, highlight=False)
        return run

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of one step.

        Rows before the last one of an earlier process are left out, for a resumed run counts again
        from its checkpoint. W&B takes no smaller step after a larger one: such figures of this
        process (validation that is reported late) join the latest row.
        """
        if stage not in self.stages:
            self.stages.append(stage)
            self._remember(wandb_stages=self.stages)
        begun_before = self.stages.index(stage)
        if step + begun_before < self.first:
            return
        self.step = max(self.step, step)
        self.row = max(self.row, self.step + begun_before)
        row: dict[str, Any] = {**figures, "step": self.step, "stage": stage}
        number = re.fullmatch(r"stage_(\d+)", stage)
        if number:
            row["stage/index"] = int(number[1])
        self.run.log(row, step=self.row)
        for key, value in figures.items():
            if key.startswith(STAGE_RESULT):
                self.run.summary[f"{stage}/{key.removeprefix(STAGE_RESULT)}"] = value

    def log_bundle(self, folder: Path, report: Mapping[str, Any]) -> None:
        """Log the bundle as an artifact of type "model" with its plan and report, the report's
        numbers as summary, and the tables of the run's page. The files stay where they are: nothing
        is copied to a cache."""
        metadata = {
            name: json.loads((folder / f"{name}.json").read_text())
            for name in ("plan", "report")
            if (folder / f"{name}.json").exists()
        }
        artifact = self.wandb.Artifact(f"bundle-{self.id}", type="model", metadata=metadata)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            artifact.add_file(str(file), name=name, skip_cache=True, policy="immutable")
        self.run.log_artifact(artifact)
        for part in ("base", "baseline", "ptq", "final", "cost"):
            self.run.summary.update(dict(numbers_of(part, report.get(part))))
        for name, (columns, rows) in run_tables(report, metadata.get("plan", {})).items():
            if rows:
                table = self.wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
                self.run.summary[f"tables/{name}"] = table
        self.complete = True

    def close(self) -> None:
        """Finish, as failed unless the bundle was logged; offline, print how to upload the run."""
        offline = bool(self.run.offline)
        self.run.finish(exit_code=0 if self.complete else 1)
        self._remember(wandb_row=max(self.first, self.row))
        if offline:
            command = shlex.join(["wandb", "sync", *(str(path) for path in self.parts())])
            console.print(command, soft_wrap=True, markup=False, highlight=False)

    def parts(self) -> list[Path]:
        """The folders of this run's offline parts, one per process that worked on it, in order."""
        folder = self.folder.path.resolve() / "wandb"
        return sorted(folder.glob(f"offline-run-*-{self.id}*"))  # two in one second: ID, ID-1

    def _remember(self, **details: Any) -> None:
        self.folder.write("state.json", {**(self.folder.read("state.json") or {}), **details})


def _import() -> Any:
    with contextlib.suppress(ImportError):
        import wandb

        if hasattr(wandb, "init"):  # a folder named wandb, as runs leave them, imports as well
            return wandb
    raise HalutError(
        "logger=wandb needs the package wandb: pip install 'halut[wandb]'; logger=csv works "
        "without it"
    )
