"""Sweeps (`python train.py -m policy=conv3x3 halut.C=16,32,64`): a run folder per value, one table.

Hydra composes the values and launches them; what fails is noted in its folder and does not stop
the others. Everything a value's process has to know travels in its Hydra configuration, so that
launchers which submit jobs work too.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from halut.analysis.run_figures import FAILED, check_figure, choices, flat
from halut.analysis.sweep_plot import check_picture, draw, shown_picture
from halut.analysis.sweep_results import gather, tells, write
from halut.analysis.sweep_table import missing_lines, sweep_table
from halut.analysis.variants import counted
from halut.errors import HalutError, reason, report_error
from halut.results.store import DEFAULT
from halut.training.cluster.lock import InUse, Lock, release
from halut.training.config.command import override_value
from halut.training.config.list_sweeper import register
from halut.training.config.overrides import (
    given_overrides,
    listed_overrides,
    parsed_overrides,
    sweep_keys,
    sweep_size,
)
from halut.training.config.unused_options import check_sweep
from halut.training.logging.progress import console, log, set_up_logging
from halut.training.parallel.distributed import is_main, print_error
from halut.training.run_folder import RunFolder

MAX_NAME_LENGTH = 120
"""Characters of a value's folder name; longer ones end in a hash."""


class Gather(Callback):
    """Gives the sweep its folder before, and its table after its values have run."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        set_up_logging()
        with _loud():
            register()
            overrides, values = given_overrides(config), sweep_keys(config)
            self.total = sweep_size(config)
            self.folder = sweep_folder(config, overrides)
            if (self.folder / "config.json").exists():
                raise HalutError(f"run_dir={self.folder} holds a run; give a sweep another folder")
            check_shown(config, values)
            check_sweep(config)
            fixed = ",".join(f"'{key}'" for key in overrides if key not in values)
            config.hydra.overrides.hydra.extend(
                [
                    f"hydra.sweep.dir='{self.folder}'",
                    f"hydra.job.config.override_dirname.exclude_keys=[{fixed}]",
                ]
            )
            config.hydra.sweep.dir = str(self.folder)
            log.info("sweep: %s, in %s", counted(self.total, "value"), self.folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if sweeping(config):
            number = config.hydra.job.num + 1
            total = f" of {self.total}" if self.total else ""
            log.info("value %d%s: %s", number, total, value_name(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        with _loud():
            if show(Path(config.hydra.sweep.dir)):
                sys.exit(1)


class Locking(Callback):
    """Holds the sweep's folder while its values run: a second sweep, or a run, in it is refused.

    Jobs get a copy of every callback: a lock and its thread are no part of this one.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not is_main():
            return
        with _loud():
            folder = Path(config.hydra.sweep.dir)
            Lock(folder).acquire()
            atexit.register(release, folder)  # a sweep that is interrupted has no end

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        release(Path(config.hydra.sweep.dir))


def show(
    folder: Path, x: str | None = None, y: str | None = None, picture: Path | None = None
) -> int:
    """Gather the runs of a folder, print their table, write it and the picture; the failed ones.

    `x`, `y` and `picture` win over the configurations' sweep.x, sweep.y and sweep.picture. Raises
    HalutError where they cannot be had, and where the folder cannot be written.
    """
    if picture is not None:
        check_picture("picture", picture)
    sweep = gather(folder, x)
    for option, name in (("x", x), ("y", y)):
        if name is not None and not tells(sweep, name, option == "x"):
            axes = ", ".join(sweep.columns) if option == "x" else ""
            raise HalutError(f"{option}={name}: no run tells it; choose from: {choices(axes)}")
    console.print(sweep_table(sweep, console.width))
    for line in missing_lines(sweep):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    path, written = picture or folder / shown_picture(sweep), ["sweep.json", "sweep.csv"]
    target = folder
    try:
        write(sweep)
        target = path
        draw(sweep, path, y)
        written.append(str(path.resolve() if picture else path.name))
    except OSError as error:
        file_name = error.filename or target  # the file, not the temporary one beside it
        raise HalutError(f"{file_name} cannot be written: {error.strerror}") from error
    except HalutError as error:
        if any(each is not None for each in (x, y, picture)):
            raise
        log.info("%s", error)
    log.info("%s: %s", folder, ", ".join(written))
    return sweep.count(FAILED)


def check_shown(config: DictConfig, values: Collection[str]) -> None:
    """Raise HalutError, before anything runs, for a sweep.x, sweep.y or sweep.picture nobody knows.

    Options of a group that is swept are not all in `config`: of those any can be x.
    """
    options = config.sweep
    check_picture("sweep.picture", options.picture)
    check_figure("sweep.y", options.y)
    if options.x is None or options.x.partition(".")[0] in values:
        return
    plain = OmegaConf.to_container(config, resolve=False)
    keys = {str(key) for key, _ in flat(cast(dict[str, Any], plain))}
    check_figure("sweep.x", options.x, {*keys, *values}, ", ".join(values))


def sweep_folder(config: DictConfig, overrides: dict[str, Override]) -> Path:
    """run_dir, or runs/NAME-HASH, the same for the same command, whatever store it writes to."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    lines = sorted(str(o.input_line) for key, o in overrides.items() if key != "results")
    for entry in listed_overrides(config) or ():
        lines.append(" ".join(sorted(str(override.input_line) for override in entry.values())))
    name = config.hydra.runtime.choices.get("experiment") or "sweep"
    return Path("runs") / f"{name}-{_hash(' '.join(lines))}"


def sweeping(config: DictConfig) -> bool:
    """True in the process of one value of a sweep."""
    return bool(config.hydra.mode == RunMode.MULTIRUN)


def value_name(config: DictConfig) -> str:
    """KEY=VALUE,... of what is swept, by key; a folder's name."""
    fixed = set(config.hydra.job.config.override_dirname.exclude_keys)
    overrides = parsed_overrides(list(config.hydra.overrides.task))
    return folder_name(
        f"{key}={override.get_value_element_as_str()}"
        for key, override in sorted(overrides.items())
        if key not in fixed
    )


def folder_name(parts: Iterable[str]) -> str:
    """The parts as one name of a folder, with a hash of them where they say more than fits."""
    text = ",".join(parts) or "run"
    name = re.sub(r"[^\w.,=+\-\[\]]", "_", text)
    return (
        name
        if name == text and len(name) <= MAX_NAME_LENGTH
        else f"{name[:MAX_NAME_LENGTH]}-{_hash(text)}"
    )


def attempt(
    run: Callable[[DictConfig], Any], config: DictConfig, plain: Callable[[DictConfig], Any]
) -> dict[str, Any]:
    """Run one value in its folder. What it raises is noted there and told; returns the outcome.

    `plain` makes the configuration as written down. The store is `results`, that of the other
    verbs, unless another or null is given. Interrupts end the whole sweep.
    """
    hydra = HydraConfig.get()
    whole = OmegaConf.create({"hydra": hydra})
    folder = RunFolder(Path(hydra.sweep.dir) / value_name(whole))
    config.run_dir = str(folder.path)
    more = []
    if config.results is None and "results" not in parsed_overrides(list(hydra.overrides.task)):
        config.results = str(DEFAULT)
        more = [f"results={DEFAULT}"]
    try:
        with alone(folder.path, more):
            run(config)
        return {"run": str(folder.path), "error": None}
    except Exception as error:
        if is_main() and not isinstance(error, InUse):
            folder.fail(error, _plain_or_none(plain, config))
        report_error(
            error, lambda line: print_error(f"{folder.path.name}: {line}"), config.debug.traceback
        )
        return {"run": str(folder.path), "error": reason(error) or str(error)}
    finally:
        gc.collect()  # the networks of one value; Lightning's loops hold each other


@contextmanager
def alone(folder: Path, more: Sequence[str] = ()) -> Iterator[None]:
    """What a value changes in the process is as before after it: threads, the command line.

    sys.argv is the command of this one value meanwhile, `more` being overrides that nobody gave:
    its report tells it, to be typed again.
    """
    threads, argv = torch.get_num_threads(), sys.argv
    unread = ("run_dir=", "sweep.", "+sweep.")  # of one value by itself
    task = [o for o in HydraConfig.get().overrides.task if not o.startswith(unread)]
    single = ["hydra.mode=RUN"] if any(o.startswith("experiment=") for o in task) else []
    sys.argv = [argv[0], *task, *more, f"run_dir={override_value(str(folder))}", *single]
    try:
        yield
    finally:
        sys.argv = argv
        torch.set_num_threads(threads)


def _plain_or_none(plain: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    try:
        return plain(config)
    except Exception:
        return None


@contextmanager
def _loud() -> Iterator[None]:
    """Hydra turns a callback's exceptions into warnings; here they end the sweep."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        report_error(error, print_error)
        sys.exit(1)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
