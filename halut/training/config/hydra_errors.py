"""One-line messages of Hydra's errors, with the nearest option name."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverrideParseException
from hydra.errors import MissingConfigException

from halut.data import schemas as schemas_of_data
from halut.models.config import ModelConfig
from halut.option import default_of, unknown
from halut.replace.operator_registry import config_type, operator_names

SYNONYMS = {
    "schedule.epochs base.epochs": "epochs max_epochs num_epochs n_epochs num_train_epochs",
    "optim.lr.rest optim.lr.table base.lr": "lr learning_rate lrate base_lr",
    "optim.weight_decay.rest base.weight_decay": "weight_decay wd",
    "optim.optimizer base.optimizer": "optimizer opt optimiser",
    "optim.schedule": "scheduler sched lr_scheduler lr_schedule",
    "optim.warmup base.warmup": "warmup warmup_epochs warmup_steps",
    "optim.momentum": "momentum",
    "loss.label_smoothing base.label_smoothing": "smoothing label_smoothing",
    "loss.distill": "kd distillation alpha",
    "data.batch_size": "batch_size batch bs b train_batch_size per_device_train_batch_size",
    "data.eval_batch_size": "val_batch_size validation_batch_size vb test_batch_size",
    "data.workers": "workers num_workers n_workers j",
    "data.root": "data_dir data_path datadir data_root dataset_dir root imagenet path",
    "data": "dataset datasets dataset_name",
    "data.image_size": "image_size img_size input_size resolution",
    "model": "arch architecture network net backbone model_name",
    "model.weights": "weights checkpoint ckpt initial_checkpoint load_from",
    "model.pretrained": "pretrained",
    "model.num_classes": "num_classes n_classes classes",
    "trainer.devices": "devices gpus num_gpus n_gpus ngpus nproc_per_node world_size",
    "trainer.num_nodes": "nodes num_nodes nnodes",
    "trainer.accelerator": "accelerator device cuda gpu cpu",
    "trainer.strategy": "strategy ddp fsdp distributed",
    "trainer.precision": "precision amp fp16 bf16 half mixed_precision dtype",
    "trainer.accumulate_grad_batches": "accumulate_grad_batches accumulate grad_accum"
    " gradient_accumulation_steps",
    "trainer.gradient_clip_val": "gradient_clip_val clip clip_grad grad_clip max_grad_norm"
    " gradient_clip",
    "trainer.ema": "model_ema ema_decay ema",
    "trainer.threads": "threads num_threads n_threads",
    "logger.every": "log_every_n_steps log_interval log_every",
    "logger": "wandb log_wandb tensorboard",
    "run_dir": "output output_dir out out_dir save_dir logdir log_dir default_root_dir resume"
    " ckpt_path run_name",
    "results": "store results_dir",
    "run": "bundle run_dir folder path checkpoint",
    "seed": "seed random_seed manual_seed seed_everything",
    "halut": "encoder operator method codec",
    "halut.C": "codebooks num_codebooks ncodebooks n_codebooks",
    "halut.K": "prototypes num_prototypes centroids num_centroids n_centroids",
    "halut.bits halut.width": "bits nbits num_bits n_bits wbits",
    "policy.keep": "keep exclude skip ignore",
    "policy.only": "only include layers",
    "debug": "fast_dev_run debug",
}
"""What other tools call an option: ours, and theirs."""

ASIDE = ("full_key", "object_type", "reference_type", "See ", "Set the", "Either", "Or add")
"""What the lines of a refusal begin with that say nothing to a user."""

MIN_SIMILARITY = 0.65
"""How like a name must be to be suggested."""


def known_options(schema: type, path: str = "") -> Iterator[str]:
    """Dotted keys of a configuration's class; of groups with several schemas, of all of these."""
    several: dict[str, Iterable[type]] = {
        "data": schemas_of_data().values(),
        "model": (ModelConfig,),
        "halut": (config_type(name) for name in operator_names()),
    }
    for field in dataclasses.fields(schema):
        key, default = f"{path}{field.name}", default_of(field)
        yield key
        if not path and field.name in several:
            for kind in several[field.name]:
                if dataclasses.is_dataclass(kind):
                    yield from known_options(kind, f"{key}.")
        elif dataclasses.is_dataclass(default):
            yield from known_options(type(default), f"{key}.")


def nearest(key: str, candidates: Iterable[str]) -> list[str]:
    """The options that a wrong key may stand for, the likeliest first; three at most."""
    options = list(dict.fromkeys(candidates))
    group, _, name = key.rpartition(".")
    names_alike = [
        option
        for ours, theirs in SYNONYMS.items()
        if name.lower() in theirs.split()
        for option in ours.split()
        if option in options and option != key
    ]
    if names_alike:
        return names_alike[:3]
    lower = {option.lower(): option for option in reversed(options)}
    if key.lower() in lower:
        return [lower[key.lower()]]
    ends = [o for o in options if o.rpartition(".")[2].lower() == name.lower()]
    same = [o for o in options if o.rpartition(".")[0] == group and not ends]
    names = {o.rpartition(".")[2].lower(): o for o in same}
    close = difflib.get_close_matches(name.lower(), names, n=2, cutoff=MIN_SIMILARITY)
    suggestions = [names[each] for each in close] + ends
    if not suggestions:
        close = difflib.get_close_matches(key.lower(), lower, n=2, cutoff=MIN_SIMILARITY)
        suggestions = [lower[each] for each in close]
    return suggestions[:3]


def unknown_option(key: str, schema: type, program: str) -> str:
    """unknown option KEY, and what was probably meant."""
    options = set(known_options(schema))
    if key in options:  # of another choice of its group
        return f"unknown option {key}: {owners(key)}"
    mapping = key.rpartition(".")[0]
    if mapping in options and mapping.endswith("options"):
        return f"{key}: {mapping} has what you add to it: write +{key}=VALUE"
    near = nearest(key, sorted(options))
    if near:
        return f"unknown option {key}; did you mean {' or '.join(near)}?"
    group = key.split(".")[0]
    page = f" {group}" if group in options and group != key else ""
    return f"unknown option {key}; {program} --help{page} shows what there is"


def owners(key: str) -> str:
    """Which choices of its group have the option."""
    group, _, name = key.partition(".")
    kinds: dict[str, Any] = (
        dict(schemas_of_data())
        if group == "data"
        else {each: config_type(each) for each in operator_names()}
    )
    first = name.split(".")[0]
    having = [
        each
        for each, kind in kinds.items()
        if dataclasses.is_dataclass(kind) and first in {f.name for f in dataclasses.fields(kind)}
    ]
    return f"the chosen {group} has none; {group}={', '.join(having)} has it"


def one_line(error: BaseException, schema: type, program: str) -> str:
    """What Hydra or OmegaConf refuses, told by its option, in one line."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, value = str(error.missing_cfg_file).rpartition("/")
        choices = [o for o in error.options or [] if o != "schema"]
        more = "; any other by name: model=any model.name=NAME" if group == "model" else ""
        return unknown(group or "configuration", value, choices) + more
    if isinstance(error, OverrideParseException):
        line = str(error.override)
        if "=" not in line:
            return f"{line!r} is no option: write KEY=VALUE ({program} --help)"
        reason = text.splitlines()[0]
        return f"{line} cannot be read ({reason}): put quotes inside: \"KEY='VALUE'\""
    match = re.search(r"Could not (?:override|append to config|delete[^']*) '([^']+)'", text)
    cause = str(error.__cause__ or "")
    if match and "in struct" not in cause and "already at" in text:
        return text.splitlines()[0]
    if match:
        key = match[1].split("@")[0].split("=")[0]
        return unknown_option(key.lstrip("+"), schema, program)
    if missing := re.search(r"missing mandatory value: (\w+)[\s\S]*full_key: (\S+)", text):
        return f"{missing[2]} has no default: give {missing[2]}=VALUE"
    full = re.search(r"full_key: (\S+)", f"{text}\n{cause}")
    key = full[1] if full else ""
    if re.search(r"^Key '[^']+' not in '", cause or text, re.M) and key:
        return unknown_option(key, schema, program)
    lines = [line.strip() for line in f"{text}\n{cause}".splitlines() if line.strip()]
    informative = [line for line in lines if not line.startswith(ASIDE)]
    message = ": ".join(dict.fromkeys(informative)).replace("Error merging override ", "")
    if "is not a ListConfig" in message:
        return f"{message.split(':')[0]}: {key} is a list: write {key}=[A,B]"
    return message if not key or key in message else f"{key}: {message}"
