"""The configuration of a run as dataclasses: a wrong key or type is refused when it is composed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from halut.analysis.curve import check_picture
from halut.analysis.run_figures import check_figure, flat
from halut.catalogue import operator_type
from halut.plan import KEEP
from halut.policy import laid_over
from halut.ptq import check_choice
from halut.training.ranges import between, choice
from halut.training.sweep_config import SweepConfig
from halut.training.trainer_config import TrainerConfig, check_trainer


@dataclass
class PolicyConfig:
    """Where: short options first, then `rules` in full form, then the default operator.

    Order of precedence: keep, keep_first / keep_last / keep_depthwise, rules, only x kinds.
    `share`: layers that read the very same input, as q, k and v do, get one encoder.
    """

    keep: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    keep_first: bool = True
    keep_last: bool = True
    keep_depthwise: bool = True
    rules: list[dict[str, Any]] = field(default_factory=list)
    share: bool = False


@dataclass
class ScheduleConfig:
    """When: the order of the sites, sites per stage, and how each stage trains.

    `stages` (lists of layer names) overrides `order`. The last stage trains `final_epochs`.
    `train_batches` cuts an epoch of a stage, and of the baseline, to that many shuffled batches.
    """

    order: str = "front_to_back"
    per_stage: int = 1
    epochs: int = 1
    final_epochs: int | None = None
    train_batches: int | None = None
    calibrate: str = "replaced"
    lr: dict[str, float] = field(default_factory=dict)
    freeze: list[str] = field(default_factory=list)
    select: str = "best"
    blocks: list[str] = field(default_factory=list)
    sensitivity_samples: int = 1000
    stages: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Rates:
    """One number per optimiser role."""

    table: float = 0.0
    prototypes: float = 0.0
    thresholds: float = 0.0
    temperature: float = 0.0
    basis: float = 0.0
    rest: float = 0.0


@dataclass
class OptimConfig:
    """Optimiser of the stages: a learning rate and a weight decay for every role.

    `warmup` is the share of a stage's steps over which the rate rises from 0; then it follows
    `schedule` (cosine down to `floor` times the rate, or constant).
    """

    name: str = "adamw"
    lr: Rates = field(
        default_factory=lambda: Rates(
            table=1e-3, prototypes=1e-3, thresholds=1e-3, temperature=1e-3, basis=1e-3, rest=1e-3
        )
    )
    weight_decay: Rates = field(default_factory=lambda: Rates(rest=1e-4))
    momentum: float = 0.9
    warmup: float = 0.05
    schedule: str = "cosine"
    floor: float = 0.01


@dataclass
class LossConfig:
    """loss = (1 - distill) CE + distill T^2 KL + features MSE + reconstruction MSE.

    `teacher` names another model (null: the exact network itself), `teacher_weights` its file.
    `feature_blocks` are module names compared between student and teacher (empty: the network's
    blocks, where `features` > 0).
    """

    label_smoothing: float = 0.0
    distill: float = 0.5
    temperature: float = 2.0
    features: float = 0.0
    feature_blocks: list[str] = field(default_factory=list)
    reconstruction: float = 0.0
    teacher: str | None = None
    teacher_weights: str | None = None


@dataclass
class BaseConfig:
    """How the exact network comes by its weights where no file and no pretrained ones are given."""

    epochs: int = 10
    optimizer: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 1e-3
    label_smoothing: float = 0.0
    warmup: float = 0.1
    cache: str | None = "runs/base"


@dataclass
class CaptureConfig:
    """Calibration: images seen, rows kept per site, memory of all reservoirs together in GiB."""

    samples: int = 2048
    rows: int = 65_536
    memory_gib: float = 2.0


@dataclass
class LoggerConfig:
    """metrics.csv is always written; wandb is added by name."""

    name: str = "csv"
    every: int = 20
    project: str = "halut"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class DebugConfig:
    """`traceback` shows where an error came from."""

    traceback: bool = False


@dataclass
class TrainConfig:
    """One run. `data`, `model` and `halut` have schemas of their own, by name.

    `ptq`: at which widths of weights, 2..8, torchao quantises the exact network; auto: 8 and 4, if
    that is installed and `baseline` is on; none.
    """

    data: Any = None
    model: Any = None
    halut: Any = None
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    recalibrate: int = 32
    baseline: bool = True
    ptq: Any = "auto"
    plan: str | None = None
    seed: int = 0
    run_dir: str | None = None
    sweep: SweepConfig = field(default_factory=SweepConfig)


def check_operators(config: TrainConfig) -> None:
    """Raise HalutError for options that no site could have: the operator's, and the rules'."""
    options = asdict(config.halut)
    default = options.pop("name")
    operator_type(default)(**options)
    for rule in config.policy.rules:
        name = rule.get("operator", default) or default
        if name != KEEP:
            over = rule.get("options") or {}
            operator_type(name)(**(laid_over(options, over) if name == default else over))


def check(config: TrainConfig) -> None:
    """Raise HalutError on values that no schema can refuse."""
    check_operators(config)
    check_choice(config.ptq)
    choice("optim.name", config.optim.name, ("adamw", "sgd"))
    choice("base.optimizer", config.base.optimizer, ("adamw", "sgd"))
    choice("optim.schedule", config.optim.schedule, ("cosine", "constant"))
    choice("schedule.select", config.schedule.select, ("best", "last"))
    check_figure("sweep.y", config.sweep.y)
    if config.sweep.x is not None and not config.sweep.x.startswith("halut."):
        keys = {key for key, _ in flat(asdict(config))}
        check_figure("sweep.x", config.sweep.x, keys, "any option, such as halut.C")
    check_picture("sweep.picture", config.sweep.picture)
    choice("logger.name", config.logger.name, ("csv", "wandb", "wandb_offline"))
    between("loss.distill", config.loss.distill, 0, 1)
    between("loss.temperature", config.loss.temperature, 1e-6)
    between("loss.label_smoothing", config.loss.label_smoothing, 0, 1)
    between("loss.features", config.loss.features, 0)
    between("loss.reconstruction", config.loss.reconstruction, 0)
    between("optim.warmup", config.optim.warmup, 0, 1)
    between("schedule.epochs", config.schedule.epochs, 0)
    between("schedule.per_stage", config.schedule.per_stage, 1)
    if config.schedule.train_batches is not None:
        between("schedule.train_batches", config.schedule.train_batches, 1)
    between("base.epochs", config.base.epochs, 0)
    between("capture.samples", config.capture.samples, 1)
    between("capture.rows", config.capture.rows, 1)
    between("recalibrate", config.recalibrate, 0)
    check_trainer(config.trainer)
