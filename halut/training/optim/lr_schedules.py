"""Learning rate schedules by name: ours, timm.scheduler's, torch.optim.lr_scheduler's."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from halut.errors import HalutError, message_of
from halut.training.optim.optimizers import arguments_of, check_arguments, unknown_name

OWN = ("cosine", "constant")
INTERVALS = ("step", "epoch")
PLATEAU = "of timm keeps no state to resume from; ReduceLROnPlateau is torch's"
REFUSED = {
    "LambdaLR": "it needs functions",
    "MultiplicativeLR": "it needs functions",
    "SequentialLR": "it needs schedulers",
    "ChainedScheduler": "it needs schedulers",
    "plateau": PLATEAU,
    "PlateauLRScheduler": PLATEAU,
}
"""Schedules that options cannot name, and why."""
LENGTHS = ("T_max", "total_steps", "total_iters", "t_initial")
"""Arguments that are the schedule's whole length: where none is given, that of the fit."""
GIVEN = (
    *("t_in_epochs", "initialize", "last_epoch", "verbose"),
    *("total_steps", "epochs", "steps_per_epoch"),  # of OneCycleLR, which fails beyond its end
)
"""Arguments that the fit decides."""
PER_STEP = ("CyclicLR",)
"""Schedules of torch that count batches, though they have no such argument."""
RISING = ("OneCycleLR",)
"""Schedules that begin with a warmup of their own."""
WARMUP = "warmup_t"
"""The argument of timm's schedules that makes one."""
SUFFIX = "LRScheduler"


def torch_schedules() -> list[str]:
    """Names of the classes of torch.optim.lr_scheduler that options can describe."""
    kinds = vars(lr_scheduler).items()
    schedules = {n for n, k in kinds if isinstance(k, type) and issubclass(k, LRScheduler)}
    return sorted(schedules - {"LRScheduler", "_LRScheduler", *REFUSED})


def timm_schedules() -> dict[str, str]:
    """timm's classes by their short name (step: StepLRScheduler). Imports timm."""
    import timm.scheduler

    kinds = [n for n in vars(timm.scheduler) if n.endswith(SUFFIX) and n != SUFFIX]
    return {n.removesuffix(SUFFIX).lower(): n for n in sorted(kinds) if n not in REFUSED}


def schedule_class(name: str) -> Any:
    """The class behind a name that is not ours; raises HalutError, with the names near it."""
    for refused, reason in REFUSED.items():
        if name == refused:
            raise HalutError(
                f"optim.schedule={name}: {reason}; --help optim.schedule lists the others"
            )
    if name in torch_schedules():
        return getattr(lr_scheduler, name)
    import timm.scheduler

    short = timm_schedules()
    if name in short or name in short.values():
        return getattr(timm.scheduler, short.get(name, name))
    names = [*OWN, *short, *short.values(), *torch_schedules()]
    raise HalutError(unknown_name("optim.schedule", name, names))


def has_own_warmup(name: str, options: Mapping[str, Any]) -> bool:
    """True if optim.warmup is not read, for the schedule has a warmup of its own."""
    return name in RISING or bool(options.get(WARMUP))


def interval_of(name: str) -> str:
    """What a schedule counts where nothing is said: "step" or "epoch".

    Schedules with a length that the fit's can stand for (OneCycleLR, CosineAnnealingLR, timm's
    poly), and CyclicLR, count optimizer steps. Those with a period or milestones of their own
    (StepLR, MultiStepLR, ExponentialLR, timm's step) count epochs, as they do in torch and timm.
    ReduceLROnPlateau counts validations.
    """
    if name in OWN or name in PER_STEP:
        return "step"
    return "step" if set(arguments_of(schedule_class(name))) & set(LENGTHS) else "epoch"


def make_schedule(
    optimizer: Optimizer,
    steps: int,
    warmup: float,
    kind: str,
    floor: float,
    options: Mapping[str, Any] | None = None,
    interval: str | None = None,
    epochs: int = 1,
) -> LambdaLR | NamedSchedule:
    """The schedule of a fit of `steps` optimizer steps in `epochs` epochs; stepped every step.

    "cosine" and "constant" are a factor on each group's rate: (t + 1) / (r + 1) for steps t below
    r = int(warmup * steps), then 1, or floor + (1 - floor) (1 + cos(pi (t - r) / (steps - r))) / 2.
    They are our own function of t, not LinearLR and CosineAnnealingLR one after the other: those
    multiply the last rate step by step, so that rates depend on rounding, and a floor is one rate
    for all groups, where ours is a share of each. Others: see NamedSchedule.
    """
    if kind not in OWN:
        return NamedSchedule(optimizer, steps, warmup, kind, options or {}, interval, epochs)
    rising = int(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        if kind == "constant":
            return 1.0
        done = min((step - rising) / max(steps - rising, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


class NamedSchedule:
    """A schedule of torch's or timm's under our warmup, stepped after every optimizer step.

    Counting steps it begins behind the warmup, and its length is that of the rest of the fit;
    counting epochs the warmup multiplies the rates of the first ones. `options` are arguments of
    its class; lengths, and the maximal rates of OneCycleLR and CyclicLR, are the fit's and the
    groups' unless they are given. ReduceLROnPlateau looks at the validation's accuracy.

    torch's SequentialLR does not serve: its parts all count the same unit, and it has no place for
    a metric. Raises HalutError for a name or an argument that does not exist.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        warmup: float,
        name: str,
        options: Mapping[str, Any],
        interval: str | None = None,
        epochs: int = 1,
    ) -> None:
        kind = schedule_class(name)
        self.optimizer = optimizer
        self.torch = kind.__module__.startswith("torch.")
        self.on_metric = kind is ReduceLROnPlateau
        self.by_step = (interval or interval_of(name)) == "step"
        if self.on_metric and interval == "step":
            raise HalutError(f"optim.schedule={name} counts epochs: schedule_interval=epoch")
        self.rising = 0 if has_own_warmup(name, options) else int(warmup * steps)
        self.per_epoch = max(steps // max(epochs, 1), 1)
        self.step_count = 0
        length = max(steps - self.rising, 1) if self.by_step else max(epochs, 1)
        known = arguments_of(kind, GIVEN)
        check_arguments("optim.schedule_options", options, known, f"optim.schedule={name}")
        values = dict(options)
        takes = set(inspect.signature(kind.__init__).parameters)
        for each in takes & set(LENGTHS):
            values.setdefault(each, length)
        if "max_lr" in takes:
            values.setdefault("max_lr", [group["lr"] for group in optimizer.param_groups])
        if self.on_metric:
            values.setdefault("mode", "max")
        if "t_in_epochs" in takes:
            values["t_in_epochs"] = not self.by_step
        check_values(name, kind, values)
        self.inner = kind(optimizer, **values)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self._warm()

    def step(self) -> None:
        """After an optimizer step: the rates of the next one."""
        self.step_count += 1
        since = self.step_count - self.rising
        if self.by_step:
            if since > 0:
                self._advance(since)
        elif not self.on_metric and self.step_count % self.per_epoch == 0:
            self._advance(self.step_count // self.per_epoch)
        self._warm()

    def validated(self, metric: float) -> None:
        """After the validation of an epoch; read by ReduceLROnPlateau alone."""
        if self.on_metric:
            self._advance(metric)
            self._warm()

    def _advance(self, value: float) -> None:
        """Step the schedule itself on the rates without our warmup; `value` is t or the metric."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        if self.on_metric:
            self.inner.step(value)
        elif self.torch:
            self.inner.step()
        elif self.by_step:
            self.inner.step_update(value)
        else:
            self.inner.step(value)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def _warm(self) -> None:
        factor = min((self.step_count + 1) / (self.rising + 1), 1.0)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        """What a fit resumes from; timm's schedules are functions of t alone."""
        inner = self.inner.state_dict() if self.torch else {}
        return {"step_count": self.step_count, "rates": list(self.rates), "inner": inner}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.step_count, self.rates = state["step_count"], list(state["rates"])
        if self.torch:
            self.inner.load_state_dict(state["inner"])
        self._warm()


def check_values(name: str, kind: type, values: Mapping[str, Any]) -> None:
    """Raise HalutError for an argument that is missing, or milestones that are never reached."""
    parameters = list(inspect.signature(kind).parameters.values())[1:]  # the optimizer is first
    named = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    required = [each.name for each in named if each.default is each.empty]
    missing = [each for each in required if each not in values]
    if missing:
        options = " ".join(f"+optim.schedule_options.{each}=VALUE" for each in missing)
        raise HalutError(f"optim.schedule={name} needs {options}")
    milestones = values.get("milestones", [1])
    if not isinstance(milestones, list | tuple) or not all(
        isinstance(each, int) and each > 0 for each in milestones
    ):
        raise HalutError(
            "optim.schedule_options.milestones must be a list of positive integers, got "
            f"{milestones}"
        )


def check_schedule(
    optimizer: Optimizer, name: str, options: Mapping[str, Any], interval: str | None = None
) -> None:
    """Raise HalutError, naming the option, if the rates of an optimizer cannot follow a schedule.

    `optimizer` is one for a try, as check_optimizer returns it.
    """
    if name in OWN:
        return
    try:
        schedule = make_schedule(optimizer, 8, 0.25, name, 0.0, options, interval, epochs=2)
        assert isinstance(schedule, NamedSchedule)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer has taken no step
            for step in range(8):
                schedule.step()
                if step % 4 == 3:
                    schedule.validated(50.0)
    except HalutError:
        raise
    except Exception as error:
        reason = message_of(error)
        raise HalutError(f"optim.schedule={name}: {reason}") from error
    rates = [group["lr"] for group in optimizer.param_groups]
    if not all(isinstance(rate, float | int) or torch.is_tensor(rate) for rate in rates):
        raise HalutError(f"optim.schedule={name}: its rates are no numbers: {rates}")
