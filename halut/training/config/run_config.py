"""Configuration dataclasses of train.py: a wrong key or type is refused at composition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, ClassVar

from halut.analysis.run_figures import check_figure, flat
from halut.analysis.sweep_plot import check_picture
from halut.errors import HalutError
from halut.option import between, check_choices, every, option, where, while_training
from halut.replace.operator_registry import make_operator, operator_of
from halut.replace.ptq import check_choice
from halut.replace.schedule import CALIBRATE, ROLES, orders
from halut.training.config import needs
from halut.training.config.hydra_errors import known_options
from halut.training.config.logger_names import check_loggers
from halut.training.config.search_config import SearchConfig
from halut.training.config.sweep_config import SweepConfig
from halut.training.config.trainer_config import TrainerConfig, check_trainer
from halut.training.optim.lr_schedules import INTERVALS, check_schedule
from halut.training.optim.optimizers import check_optimizer


@dataclass
class PolicyConfig:
    """Which layers are replaced: the first rule that matches a layer decides.

    Order of precedence: keep, layers that `only` does not name, keep_first / keep_last /
    keep_depthwise, rules, only x kinds.
    """

    keep: list[str] = option(
        [], "name patterns of layers that stay exact, such as [conv1,layer4.*]"
    )
    only: list[str] = option([], "name patterns of the layers to replace; []: all")
    kinds: list[str] = option(
        [],
        "kinds: linear, conv2d, pointwise, spatial, depthwise, grouped, attention; []: all",
    )
    keep_first: bool = option(True, "keep the first layer exact")
    keep_last: bool = option(True, "keep the last layer exact")
    keep_depthwise: bool = option(True, "keep depthwise convolutions exact")
    rules: list[dict[str, Any]] = option(
        [], "ordered rules in full: [{name: conv2, operator: pq, options: {V: 4}}, ...]"
    )
    share: bool = option(False, "layers that read the very same input, as q, k, v, get one encoder")


@dataclass
class ScheduleConfig:
    """When layers are replaced, and how long each stage trains."""

    order: str = option(
        "front_to_back", "order of the sites", choices=tuple(orders), needs=needs.without_stages
    )
    per_stage: int = option(1, "sites of one stage", needs=needs.of_order(*needs.PER_STAGE))
    epochs: int = option(1, "epochs of a stage", needs=needs.some_stage_lacks("epochs"))
    final_epochs: int | None = option(
        None, "epochs of the last stage; null: as the others", needs=needs.without_stages
    )
    encoders_first: int = option(
        0,
        "epochs at the begin of each stage in which the rest is frozen, before all trains",
        needs=every(needs.without_stages, needs.while_stages_train, needs.with_tables),
    )
    batch_size: int | None = option(
        None,
        "training samples of a step of the stages and of the baseline; null: data.batch_size",
        needs=needs.while_stages_train,
    )
    train_batches: int | None = option(
        None,
        "shuffled batches that an epoch of a stage and of the baseline is cut to; null: all",
        needs=needs.while_stages_train,
    )
    calibrate: str = option(
        "asymmetric",
        "what a stage learns from: the network as it stands, the exact one, or the first with what "
        "it answered before the stage as targets",
        choices=CALIBRATE,
        needs=needs.of_calibrate,
    )
    refit: bool = option(
        True,
        "fit kept layers behind new tables to what the network answered before the stage",
    )
    relearn: bool = option(
        False,
        "learn encoders of earlier stages again as a stage begins; tables keep their function",
        needs=needs.with_relearning,
    )
    cache: str | None = option(
        None, "folder of learned swaps and layers; who would learn the same takes it from there"
    )
    lr: dict[str, float] = option(
        {},
        "learning rates by role, over optim.lr",
        needs=every(needs.while_stages_train, lambda own, run: needs.of_roles(own.lr, run)),
    )
    final_lr: dict[str, float] = option(
        {},
        "learning rates by role of the last stage, over schedule.lr",
        needs=every(
            needs.without_stages,
            needs.while_stages_train,
            lambda own, run: needs.of_roles(own.final_lr, run),
        ),
    )
    floor: float | None = option(
        None,
        "share of a rate that cosine ends at; null: optim.floor",
        needs=every(needs.while_stages_train, needs.of_cosine, needs.some_stage_lacks("floor")),
    )
    final_floor: float | None = option(
        None,
        "floor of the last stage; null: as the others",
        needs=every(needs.without_stages, needs.while_stages_train, needs.of_cosine),
    )
    freeze: list[str] = option(
        [],
        "roles that do not train: " + ", ".join(ROLES),
        needs=every(needs.while_stages_train, lambda own, run: needs.of_roles(own.freeze, run)),
    )
    select: str = option(
        "best",
        "weights a stage ends with: of the best validation epoch, or the last",
        choices=("best", "last"),
        needs=needs.while_stages_train,
    )
    blocks: list[str] = option(
        [], "module names of by_block; []: the network's own", needs=needs.of_order("by_block")
    )
    sensitivity_samples: int = option(
        1000,
        "validation samples that the order by_sensitivity is measured on",
        needs=needs.of_order("by_sensitivity"),
    )
    stages: list[dict[str, Any]] = option(
        [], "the stages in full, over order: [{sites: [conv1, conv2], epochs: 2}, ...]"
    )


@dataclass
class Rates:
    """One number per optimizer role."""

    table: float = option(0.0, "tables", needs=needs.of_role("table"))
    prototypes: float = option(0.0, "prototypes", needs=needs.of_role("prototypes"))
    thresholds: float = option(0.0, "thresholds of trees", needs=needs.of_role("thresholds"))
    temperature: float = option(0.0, "temperatures", needs=needs.of_role("temperature"))
    basis: float = option(0.0, "bases of number formats", needs=needs.of_role("basis"))
    rest: float = option(0.0, "all that stays exact, norms and biases")


def _learning_rates() -> Rates:
    return Rates(
        table=6e-3, prototypes=3e-3, thresholds=3e-3, temperature=1e-3, basis=1e-3, rest=2e-3
    )


@dataclass
class OptimConfig:
    """Optimizer of the stages: a learning rate and a weight decay for every role."""

    optimizer: str = option(
        "adamw",
        "optimizer, by its name in timm or torch.optim (--help optim.optimizer lists all)",
        names=needs.optimizers,
    )
    optimizer_options: dict[str, Any] = option(
        {}, "further arguments of the optimizer: +optim.optimizer_options.betas=[0.9,0.95]"
    )
    lr: Rates = field(default_factory=_learning_rates, metadata={"help": "learning rate"})
    weight_decay: Rates = field(
        default_factory=lambda: Rates(rest=1e-4),
        metadata={"help": "weight decay", "needs": needs.of_decaying_optimizer},
    )
    momentum: float = option(
        0.9,
        "momentum of sgd, and of timm's optimizers that have one",
        needs=needs.of_momentum,
    )
    warmup: float = option(
        0.05, "share of a stage's steps over which rates rise from 0", needs=needs.own_warmup
    )
    schedule: str = option(
        "cosine",
        "rates after the warmup: cosine, constant, or one of timm or torch by its name "
        "(--help optim.schedule lists all)",
        names=needs.schedules,
    )
    schedule_options: dict[str, Any] = option(
        {},
        "arguments of a schedule of timm or torch: +optim.schedule_options.gamma=0.5",
        needs=needs.of_named_schedule,
    )
    schedule_interval: str | None = option(
        None,
        "what such a schedule counts; null: epochs if it has milestones or a period, else steps",
        choices=INTERVALS,
        needs=needs.of_named_schedule,
    )
    floor: float = option(
        0.0,
        "share of a rate that cosine ends at",
        needs=where(lambda own: own.schedule == "cosine", "it needs optim.schedule=cosine"),
    )


@dataclass
class LossConfig:
    """loss = (1 - distill) CE + distill T^2 KL + features MSE + reconstruction MSE +
    commitment MSE."""

    label_smoothing: float = option(
        0.0,
        "label smoothing of CE",
        needs=where(lambda own: own.distill < 1, "loss.distill=1 leaves labels out"),
    )
    distill: float = option(0.9, "share of the teacher's answers, 0..1")
    temperature: float = option(4.0, "T of distillation", needs=needs.distilled)
    features: float = option(0.0, "weight of the distance to the teacher's block outputs")
    feature_blocks: list[str] = option(
        [],
        "module names of those blocks; []: the network's own",
        needs=where(lambda own: own.features > 0, "it needs loss.features above 0"),
    )
    reconstruction: float = option(
        0.0, "weight of the tables' distance to the exact product", needs=needs.with_tables
    )
    commitment: float = option(
        0.0, "weight of the exact product's distance to the tables'", needs=needs.with_tables
    )
    teacher: str | None = option(
        None,
        "another model's name; null: the exact network",
        needs=needs.of_teacher,
    )
    teacher_weights: str | None = option(
        None,
        "file of the teacher's weights; null: the published ones",
        needs=every(
            needs.of_teacher,
            where(lambda own: own.teacher is not None, "it needs loss.teacher=MODEL"),
        ),
    )


@dataclass
class BaseConfig:
    """How the exact network comes by its weights where no file and no pretrained ones are given."""

    epochs: int = option(10, "epochs; 0: random weights", needs=needs.start_to_find)
    optimizer: str = option(
        "adamw",
        "optimizer, as optim.optimizer",
        needs=needs.while_base_trains,
        names=needs.optimizers,
    )
    optimizer_options: dict[str, Any] = option(
        {}, "further arguments of the optimizer", needs=needs.while_base_trains
    )
    lr: float = option(2e-3, "learning rate", needs=needs.while_base_trains)
    weight_decay: float = option(1e-3, "weight decay", needs=needs.while_base_trains)
    label_smoothing: float = option(0.0, "label smoothing", needs=needs.while_base_trains)
    warmup: float = option(
        0.1, "share of the steps over which the rate rises from 0", needs=needs.while_base_trains
    )
    cache: str | None = option(
        "runs/base",
        "folder that keeps exact networks for later runs; null: none",
        needs=needs.something_cached,
    )


@dataclass
class CaptureConfig:
    """Calibration: what layers are learned from."""

    samples: int = option(2048, "training samples seen")
    rows: int = option(65_536, "rows kept of each layer's inputs")
    memory_gib: float = option(2.0, "memory of all kept rows together, in GiB")


@dataclass
class LoggerConfig:
    """Where figures go; metrics.csv is always written."""

    name: Any = option("csv", "a logger, or several: [wandb,tensorboard]")
    options: dict[str, Any] = option(
        {},
        "further arguments of the logger's class: +logger.options.KEY=VALUE; of several loggers "
        "+logger.options.NAME.KEY=VALUE",
        needs=needs.with_logger,
    )
    every: int = option(20, "optimizer steps between figures", needs=while_training)
    project: str = option("halut", "W&B project", needs=needs.with_wandb)
    entity: str | None = option(None, "W&B entity; null: your own", needs=needs.with_wandb)
    group: str | None = option(None, "W&B group", needs=needs.with_wandb)
    tags: list[str] = option([], "W&B tags", needs=needs.with_wandb)


@dataclass
class DebugConfig:
    """What helps to find a fault."""

    traceback: bool = option(False, "show where an error came from")


@dataclass
class TrainConfig:
    """One run. `data`, `model` and `halut` have schemas of their own, by name."""

    trains: ClassVar[bool] = True

    data: Any = option(None, "the data set")
    model: Any = option(None, "the network")
    halut: Any = option(None, "what a layer becomes", needs=needs.without_plan)
    policy: PolicyConfig = option(PolicyConfig, "which layers", needs=needs.without_plan)
    schedule: ScheduleConfig = option(ScheduleConfig, "when, and how long each stage trains")
    trainer: TrainerConfig = option(TrainerConfig, "devices, precision, checkpoints")
    logger: LoggerConfig = option(
        LoggerConfig, "where figures go; to several: logger.name=[wandb,tensorboard]"
    )
    debug: DebugConfig = option(DebugConfig, "what helps to find a fault")
    optim: OptimConfig = option(
        OptimConfig, "optimizer of the stages", needs=needs.while_stages_train
    )
    loss: LossConfig = option(LossConfig, "losses of the stages", needs=needs.while_stages_train)
    base: BaseConfig = option(BaseConfig, "training of the exact network, if it has no weights")
    capture: CaptureConfig = option(
        CaptureConfig, "calibration samples", needs=needs.something_learned
    )
    recalibrate: int = option(32, "batches for the batch norms after a swap; 0: none")
    baseline: bool = option(True, "fine-tune the exact network as long, to compare")
    ptq: Any = option(
        "auto",
        "widths of weights, 2..8, at which torchao quantizes the exact network, such as [8,4]; "
        "none; auto: 8 and 4 if torchao is installed and baseline is on",
    )
    test: bool = option(True, "read the test split, once, at the end; false: leave it unread")
    plan: str | None = option(None, "a plan.json, in place of policy and halut")
    plugins: list[str] = option(
        [], "modules and .py files of your own encoders, codecs, models and data sets"
    )
    seed: int = option(0, "seed of everything that is drawn")
    run_dir: str | None = option(
        None,
        "folder of the run, resumed if it holds one; null: runs/DATE-TIME-HASH. Of a sweep: one "
        "folder in it for each value; null: runs/NAME-HASH",
    )
    results: str | None = option(
        None,
        "folder of the store that the run's figures go to; null: none. Of a sweep (-m): results, "
        "unless another or results=null is given",
    )
    sweep: SweepConfig = option(SweepConfig, "how a sweep is shown", needs=needs.in_a_sweep)
    search: SearchConfig = option(
        SearchConfig, "what `halut search` tries", needs=needs.in_a_search
    )

    def untrained(self) -> str | None:
        """Why nothing trains, neither the base nor a stage; None: something does."""
        base, stages = needs.untrained_base(self), needs.untrained_stages(self)
        return None if base is None or stages is None else f"{base}, and {stages}"

    @property
    def stage_batch_size(self) -> int:
        """Training samples of a step of the stages and of the baseline."""
        return int(self.schedule.batch_size or self.data.batch_size)


def plain_values(config: Any) -> Any:
    """A configuration as config.json and config.yaml have it: mappings, lists and scalars."""
    if is_dataclass(config):
        return {key: plain_values(value) for key, value in vars(config).items()}
    if isinstance(config, Mapping):
        return {key: plain_values(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain_values(value) for value in config]
    return config


def check_operators(config: TrainConfig) -> None:
    """Raise HalutError for options that no site could have: the operator's, and the rules'."""
    operator_of(config.halut)
    for name, options in needs.operators_of_policy(config)[1:]:
        make_operator(name, **options)


def check_optimizers(config: TrainConfig) -> None:
    """Raise HalutError for optimizers and schedules that do not exist, or lack an option."""
    base, optim = config.base, config.optim
    keys = ("base.optimizer", "base.optimizer_options")
    check_optimizer(base.optimizer, base.optimizer_options, keys=keys)
    optimizer = check_optimizer(optim.optimizer, optim.optimizer_options, optim.momentum)
    check_schedule(optimizer, optim.schedule, optim.schedule_options, optim.schedule_interval)


def check(config: TrainConfig) -> None:
    """Raise HalutError on values that no schema can refuse."""
    check_choices(config)
    check_loggers(config.logger.name, config.logger.options)
    check_optimizers(config)
    check_operators(config)
    check_choice(config.ptq)
    check_figure("sweep.y", config.sweep.y)
    if config.sweep.x is not None:
        keys = {key for key, _ in flat(asdict(config))}
        keys |= {key for key in known_options(TrainConfig) if key.startswith("halut.")}
        check_figure("sweep.x", config.sweep.x, keys, "any option, such as halut.C")
    check_picture("sweep.picture", config.sweep.picture)
    between("loss.distill", config.loss.distill, 0, 1)
    between("loss.temperature", config.loss.temperature, 1e-6)
    between("loss.label_smoothing", config.loss.label_smoothing, 0, 1)
    between("loss.features", config.loss.features, 0)
    between("loss.reconstruction", config.loss.reconstruction, 0)
    between("loss.commitment", config.loss.commitment, 0)
    rates = {
        "optim.lr": asdict(config.optim.lr),
        "schedule.lr": config.schedule.lr,
        "schedule.final_lr": config.schedule.final_lr,
    }
    for group, by_role in {
        **rates,
        "optim.weight_decay": asdict(config.optim.weight_decay),
    }.items():
        for role, rate in by_role.items():
            between(f"{group}.{role}", rate, 0)
    between("base.lr", config.base.lr, 0)
    between("base.weight_decay", config.base.weight_decay, 0)
    between("optim.warmup", config.optim.warmup, 0, 1)
    between("schedule.epochs", config.schedule.epochs, 0)
    between("schedule.encoders_first", config.schedule.encoders_first, 0)
    for name in ("floor", "final_floor"):
        value = getattr(config.schedule, name)
        if value is not None:
            between(f"schedule.{name}", value, 0, 1)
    if config.optim.schedule != "cosine" and any("floor" in s for s in config.schedule.stages):
        raise HalutError("floor of schedule.stages has no effect: it needs optim.schedule=cosine")
    between("schedule.per_stage", config.schedule.per_stage, 1)
    for name in ("batch_size", "train_batches"):
        value = getattr(config.schedule, name)
        if value is not None:
            between(f"schedule.{name}", value, 1)
    between("base.epochs", config.base.epochs, 0)
    between("capture.samples", config.capture.samples, 1)
    between("capture.rows", config.capture.rows, 1)
    between("recalibrate", config.recalibrate, 0)
    between("seed", config.seed, 0, 2**32 - 1)  # what numpy takes
    check_trainer(config.trainer)
