"""One study: trials that several processes take in turn, killed ones taken over."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halut.errors import HalutError
from halut.io import read_json, write_json
from halut.option import unknown
from halut.search.trials.parameter import Choices, Parameter, Value
from halut.search.trials.space import TrialSpace, Values, values_of
from halut.search.trials.storage import open_storage, optuna
from halut.training.cluster.lock import LOCK, InUse, Lock, why_not_acquired

SAMPLERS = ("tpe", "grid", "random", "nsga2", "cmaes")
PRUNERS = ("none", "median", "halving")
MAX_UNRUN = 20
"""Draws for each trial that a budget may exclude."""
DEATHS = 5
"""Processes that may be killed at one trial before it has failed: one that takes more memory than
there is would take them all."""
TURN_SECONDS = 0.1
"""Between two attempts to have one's turn."""


@dataclass(frozen=True)
class StudySpec:
    """What a study is: its curve, sampler and seed, its space, what it makes large and small, what
    a trial may cost, and how many trials it has; None: all points of the grid."""

    curve: str
    sampler: str
    seed: int
    space: TrialSpace
    objective: str
    minimize: tuple[str, ...]
    limits: tuple[tuple[str, float], ...]
    trials: int | None
    prune: str = "none"

    @property
    def name(self) -> str:
        """Its name in the storage: curve, sampler and seed."""
        return ", ".join([*([self.curve] if self.curve else []), self.sampler, f"seed {self.seed}"])

    @property
    def content(self) -> dict[str, Any]:
        """What its trials depend on, in words."""
        return {
            "overrides": list(self.space.fixed),
            "space": [repr(parameter) for parameter in self.space.parameters],
            "sites": [repr(site) for site in self.space.sites],
            "objective": self.objective,
            "minimize": list(self.minimize),
            "budget": [f"{resource}:{limit:.10g}" for resource, limit in self.limits],
            "prune": self.prune,
        }


def check_spec(spec: StudySpec) -> None:
    """Raise HalutError for an unknown pruner, and for what does not go with the sampler."""
    if spec.prune not in PRUNERS:
        raise HalutError(f"prune={spec.prune}: {unknown('pruner', spec.prune, PRUNERS)}")
    if spec.prune != "none" and spec.minimize:
        raise HalutError(f"prune={spec.prune}: with minimize=... no trial is worse than another")
    if spec.sampler == "grid":
        for parameter in spec.space.parameters:
            values_of(parameter)
    if spec.sampler != "cmaes":
        return
    lists = [each.name for each in spec.space.parameters if isinstance(each.domain, Choices)]
    others = [name for name in SAMPLERS if name != "cmaes"]
    if lists or spec.space.sites:
        what = lists[0] if lists else "options of sites"
        raise HalutError(
            f"sampler=cmaes moves numbers alone, and {what} is a list: give range(...) or "
            f"interval(...), or another sampler: {', '.join(others)}"
        )
    if spec.minimize:
        raise HalutError(f"sampler=cmaes has one objective; with minimize=...: {others[-1]} or tpe")
    try:
        import cmaes  # noqa: F401
    except ImportError as error:
        raise HalutError("sampler=cmaes needs cmaes: pip install 'halut[search]'") from error


class SharedStudy:
    """A study in a storage, of which any number of processes take trials.

    `points` are all of the grid, for that sampler, which are visited in an order by the seed.
    Raises HalutError if the storage has a study of that name and another space.
    """

    def __init__(
        self,
        spec: StudySpec,
        storage: Any,
        folder: Path,
        prefix: str,
        points: Sequence[tuple[Values, list[str]]] = (),
    ) -> None:
        self.spec, self.folder = spec, folder
        self.points = list(points)
        self.study = optuna().create_study(
            storage=storage,
            study_name=f"{prefix}: {spec.name}",
            directions=["maximize", *("minimize" for _ in spec.minimize)],
            load_if_exists=True,
            pruner=_pruner(spec.prune),
        )
        random.Random(spec.seed).shuffle(self.points)
        with turn(folder):
            self._check_same()

    @property
    def total(self) -> int:
        """Trials of the study."""
        most = len(self.points) if self.points else None
        counts = [count for count in (self.spec.trials, most) if count is not None]
        return min(counts)

    def _check_same(self) -> None:
        identity = _identity(self.folder)
        if self.study.user_attrs.get("folder", identity) != identity:
            raise HalutError(
                f"the storage has a study {self.study.study_name!r} of another folder, whose "
                "processes cannot be seen from here: give that --out, or one of another name"
            )
        known = self.study.user_attrs.get("content")
        own = self.spec.content
        if known is None:
            if self.study.get_trials(deepcopy=False):
                raise HalutError(
                    f"the storage has a study {self.study.study_name!r} of another kind"
                )
            self.study.set_user_attr("content", own)
            self.study.set_user_attr("folder", identity)
            return
        differing = [
            key for key in own if _unordered(key, known.get(key)) != _unordered(key, own[key])
        ]
        if differing:
            raise HalutError(
                f"the storage has a study {self.study.study_name!r} of another "
                f"{' and '.join(differing)}; give another --out, or the same words to go on"
            )

    def take(self, worker: Worker) -> Any | None:
        """The next trial, this process's own from now on; None if all are given out.

        What a process left that is gone is begun again, as a trial of its own.
        """
        states = optuna().trial.TrialState
        with turn(self.folder):
            trials = self.study.get_trials(deepcopy=False)
            for each in trials:
                if each.state == states.RUNNING and self._abandoned(each):
                    self._give_back(each)
            trials = self.study.get_trials(deepcopy=False)
            if sum(t.state != states.WAITING for t in counted(trials)) >= self.total:
                return None
            if unrun(trials) >= MAX_UNRUN * self.total:
                return None
            if self.points and not any(t.state == states.WAITING for t in trials):
                self.study.enqueue_trial(self._next_point(trials))
            self.study.sampler = _sampler(self.spec, len(trials))
            trial = self.study.ask()
            trial.set_user_attr("worker", worker.name)
            return trial

    def _next_point(self, trials: Sequence[Any]) -> Values:
        """The first point of the grid that no trial has. Those that a trial of theirs was killed
        at are free again, wherever the process was killed."""
        taken = {_key(_values(trial)) for trial in counted(trials)}
        return next(values for values, _ in self.points if _key(values) not in taken)

    def running(self) -> int:
        """Trials that other processes are at."""
        states = optuna().trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        return sum(t.state == states.RUNNING and not self._abandoned(t) for t in trials)

    def finished(self) -> list[Any]:
        """Trials that count and have ended, by number."""
        trials = counted(self.study.get_trials(deepcopy=False))
        return [trial for trial in trials if trial.state.is_finished()]

    def unrun(self) -> int:
        """Draws that the budget excluded; they count as trials of a grid alone."""
        return unrun(self.study.get_trials(deepcopy=False))

    def exhausted(self) -> bool:
        """Whether no more is drawn, as the budget excludes nearly all draws."""
        return self.unrun() >= MAX_UNRUN * self.total

    def _abandoned(self, trial: Any) -> bool:
        name = trial.user_attrs.get("worker")
        return name is None or why_not_acquired(Worker.path(self.folder, name) / LOCK) is None

    def _give_back(self, trial: Any) -> None:
        library = optuna()
        own = library.trial.Trial(self.study, trial._trial_id)
        if self._deaths(trial) == DEATHS:
            own.set_user_attr("reason", f"its process was killed {DEATHS} times")
            self.study.tell(trial.number, state=library.trial.TrialState.FAIL)
            return
        own.set_user_attr("taken_over", True)
        self.study.tell(trial.number, state=library.trial.TrialState.FAIL)
        if trial.params and not self.points:
            self.study.enqueue_trial(trial.params)

    def _deaths(self, trial: Any) -> int:
        """How many processes were killed at trials of these values, this one's among them."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(
            _key(_values(each)) == _key(_values(trial))
            and not each.user_attrs.get("interrupted")
            and (each.number == trial.number or bool(each.user_attrs.get("taken_over")))
            for each in trials
            if _values(each)
        )


def _unordered(key: str, value: Any) -> Any:
    """Words mean the same in any order; costs are objectives, by their places."""
    return sorted(value) if isinstance(value, list) and key != "minimize" else value


def _identity(folder: Path) -> str:
    """A word of the folder's own, which stays when it is moved or called otherwise elsewhere."""
    path = folder / "workers" / "folder.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": secrets.token_hex(8)})
    return str(read_json(path, {"identity": str})["identity"])


def _values(trial: Any) -> Values:
    """What a trial has, or is going to have, of values that are known."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _key(values: Mapping[str, Value]) -> str:
    return json.dumps(values, sort_keys=True)


def counted(trials: Sequence[Any]) -> list[Any]:
    """Those that were neither begun again as another nor excluded by the budget."""
    return [t for t in trials if not (t.user_attrs.get("taken_over") or t.user_attrs.get("unrun"))]


def unrun(trials: Sequence[Any]) -> int:
    """How many the budget excluded."""
    return sum(bool(trial.user_attrs.get("unrun")) for trial in trials)


def suggest(trial: Any, parameter: Parameter) -> Value:
    """The value that the sampler chooses."""
    domain = parameter.domain
    if isinstance(domain, Choices):
        return str(trial.suggest_categorical(parameter.name, list(domain.values)))
    if domain.whole:
        step = int(domain.step or 1)
        return int(
            trial.suggest_int(
                parameter.name, int(domain.low), int(domain.high), step=step, log=domain.log
            )
        )
    value = trial.suggest_float(
        parameter.name, domain.low, domain.high, step=domain.step, log=domain.log
    )
    return float(value)


class Worker:
    """A process that takes trials; a lock in a folder of its own tells the others that it lives."""

    def __init__(self, folder: Path) -> None:
        self.name = secrets.token_hex(6)
        self._lock = Lock(self.path(folder, self.name))

    @staticmethod
    def path(folder: Path, name: str) -> Path:
        """The folder of a worker's lock."""
        return folder / "workers" / name

    def __enter__(self) -> Worker:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    while True:
        lock = Lock(folder / "turn")
        try:
            lock.acquire()
        except InUse:
            time.sleep(TURN_SECONDS * random.uniform(0.5, 1.5))
            continue
        break
    try:
        yield
    finally:
        lock.release()


def shared_storage(folder: Path, url: str | None = None) -> Any:
    """The storage, opened by one process at a time: two cannot make a database's tables at once."""
    with turn(folder):
        return open_storage(folder, url)


def _sampler(spec: StudySpec, trials: int) -> Any:
    """The sampler for the next trial: its draws depend on the seed and on how many there are, so
    that a study that goes on does not draw again what it drew."""
    samplers = optuna().samplers
    digest = hashlib.sha256(f"{spec.seed} {trials}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if spec.sampler == "tpe":
        at_random = min(10, max(2, (spec.trials or 40) // 4))
        return samplers.TPESampler(seed=seed, n_startup_trials=at_random)
    if spec.sampler == "nsga2":
        size = min(50, max(4, (spec.trials or 200) // 4))
        return samplers.NSGAIISampler(seed=seed, population_size=size)
    if spec.sampler == "cmaes":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna().exceptions.ExperimentalWarning)  # with_margin
            return samplers.CmaEsSampler(
                seed=seed, with_margin=True, warn_independent_sampling=False
            )
    return samplers.RandomSampler(seed=seed)


def _pruner(name: str) -> Any:
    pruners = optuna().pruners
    return {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "halving": pruners.SuccessiveHalvingPruner,
    }[name]()


def limits_exceeded(costs: Mapping[str, float], limits: Sequence[tuple[str, float]]) -> list[str]:
    """A phrase for each limit that costs exceed."""
    return [
        f"{resource} {costs[resource]:,.6g} > {limit:,.6g}"
        for resource, limit in limits
        if costs[resource] > limit
    ]
