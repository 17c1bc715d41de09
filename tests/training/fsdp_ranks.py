"""One of two ranks that fit the same networks by ddp and by fsdp, and what each leaves.

`python fsdp_ranks.py FOLDER`: FOLDER/CASE-STRATEGY holds weights, figures and the checkpoint of
step 3; FOLDER/CASE-STRATEGY.R.json what rank R held when the fit ended.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

import halut.training.lightning.fit as fitting
from halut.data import build
from halut.errors import HalutError
from halut.models.build import build_model
from halut.replace import swap
from halut.replace.policy import Rule, resolve
from halut.replace.schedule import ROLES
from halut.replace.sharing import with_sharing
from halut.sites.find import find_sites
from halut.sites.plan import KEEP
from halut.training.cluster.interruption import Interrupted, signal_handler
from halut.training.config.run_config import LossConfig, TrainerConfig
from halut.training.lightning.module import Recipe
from halut.training.lightning.sharded_fit import parameters
from halut.training.logging.metrics import RunLogger
from halut.training.parallel import distributed
from halut.training.run_folder import save_network
from tests.training import digit_attention
from tests.training.learned_layers import with_learned

OPERATORS = {
    "stack1.conv2": ("pq", {"parameterization": "derived", "K": 8, "ridge": None}),
    "stack2.conv1": ("lqnet", {}),
    "stack2.conv2": ("abcnet", {}),
    "stack3.conv1": ("tree", {"tau_per": "codebook"}),
    "stack3.conv2": ("integer", {}),
}
"""What stands in the ResNet-8: both families, learned bases, vectors and scalars."""
RATES, FASTER = dict.fromkeys(ROLES, 1e-3), dict.fromkeys(ROLES, 0.1)
PLAIN = Recipe("adamw", RATES, RATES, loss=LossConfig(), seed=3)
EVERY_LOSS = LossConfig(
    features=0.5, feature_blocks=["stack2", "stack3"], reconstruction=0.3, commitment=0.1
)
SETTINGS = TrainerConfig(
    accelerator="cpu",
    devices=2,
    limit_train_batches=4,
    enable_progress_bar=False,
    checkpoint_every=3,
    gradient_clip_val=0.1,
)
CASES: dict[str, tuple[Recipe, TrainerConfig]] = {
    "plain": (PLAIN, SETTINGS),
    "all": (
        replace(PLAIN, optimizer="sgd", lr=FASTER, loss=EVERY_LOSS, freeze=["prototypes"]),
        replace(SETTINGS, ema=0.6, accumulate_grad_batches=2, checkpoint_every=1),
    ),
}


@dataclass
class Figures:
    """A logger that keeps what it is given."""

    seen: list[tuple[int, str, float]] = field(default_factory=list)

    def log(self, stage: str, step: int, figures: Any) -> None:
        self.seen += [(step, key, value) for key, value in figures.items()]

    def close(self) -> None:
        pass


def resnet() -> nn.Module:
    """A narrow ResNet-8 with an operator of every sort, calibrated."""
    torch.manual_seed(0)
    network = build_model("resnet8", 10, 1, width=8).to(memory_format=torch.channels_last)
    rules = [Rule(name=n, operator=o, options=options) for n, (o, options) in OPERATORS.items()]
    return replaced(network, rules)


def attention() -> nn.Module:
    """q, k and v of one encoder, each a layer that is gathered by itself."""
    torch.manual_seed(1)
    network = digit_attention.DigitAttention(10)
    rules = [Rule(name=n, operator="tree", options={"K": 8}) for n in digit_attention.NAMES]
    return replaced(network, rules, (digit_attention.NAMES,))


def replaced(network: nn.Module, rules: list[Rule], shared: tuple[Any, ...] = ()) -> nn.Module:
    sites, _ = find_sites(network, torch.zeros(1, 1, 8, 8))
    plan = with_sharing(resolve(sites, [*rules, Rule(operator=KEEP)], "tree", {}), shared)
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with_learned(network, plan, images, rows=512, seed=1)
    distributed.share_state(network)
    return network


def watched(kind: type, note: Path) -> type:
    """The module of a fit, which notes what its rank holds at the end, and its weights' digest."""

    class Watched(kind):  # type: ignore[misc]
        def on_train_end(self) -> None:
            super().on_train_end()
            optimizer = self.optimizers().optimizer
            tensors: list[torch.Tensor] = [*parameters(optimizer)]
            tensors += [v for values in optimizer.state.values() for v in values.values()]
            local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
            weights = nn.ParameterDict(
                {n.replace(".", "/"): p for n, p in self.whole.named_parameters()}
            )
            actual = {
                "bytes": sum(t.numel() * t.element_size() for t in local),
                "digest": swap.digest(weights),
            }
            note.write_text(json.dumps(actual))

    return Watched


def fit(
    network: nn.Module, folder: Path, strategy: str, recipe: Recipe, settings: TrainerConfig
) -> nn.Module:
    """A copy of the network, trained; FOLDER.safetensors and FOLDER.json besides."""
    network, teacher = copy.deepcopy(network), copy.deepcopy(network).requires_grad_(False)
    note = Path(f"{folder}.{distributed.rank()}.json")
    originals = fitting.StageModule, fitting.ShardedModule
    fitting.StageModule, fitting.ShardedModule = (watched(kind, note) for kind in originals)
    figures = Figures()
    data = build("digits", batch_size=16, eval_batch_size=8, train_samples=200, val_samples=20)
    data.setup()
    try:
        fitting.fit(
            network, data, folder, 2, recipe, replace(settings, strategy=strategy),
            RunLogger([figures]), teacher=teacher, select="last", log_every=1,
        )  # fmt: skip
    finally:
        fitting.StageModule, fitting.ShardedModule = originals
    distributed.check_equal(network)
    if distributed.is_main():
        save_network(folder.with_suffix(".safetensors"), network)
        Path(f"{folder}.json").write_text(json.dumps(figures.seen))
    return network


def stopped(network: nn.Module, folder: Path, step: int) -> None:
    """A fit by fsdp that one rank is told to end after some step."""
    recipe, settings = CASES["all"]

    class Told(fitting.LayerFigures):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == step and distributed.rank() == 1:
                os.kill(os.getpid(), signal.SIGUSR1)

    original, fitting.LayerFigures = fitting.LayerFigures, Told
    try:
        fit(network, folder, "fsdp", recipe, replace(settings, checkpoint_every=100))
    except Interrupted:
        signal_handler.received = 0
    else:
        raise AssertionError("nothing has ended the fit")
    finally:
        fitting.LayerFigures = original


def number(path: Path) -> None:
    """Make the checkpoint what version 0.1 wrote: places in the groups stand for parameters."""
    checkpoint = torch.load(path, weights_only=True)
    (state,) = checkpoint["optimizer_states"]
    names = [name for group in state["param_groups"] for name in group["params"]]
    place = {name: i for i, name in enumerate(names)}
    state["state"] = {place[name]: values for name, values in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [place[name] for name in group["params"]]
    torch.save(checkpoint, path)


class Peeking(nn.Module):
    """Reads a layer's weight outside the layer's forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1) @ self.read.weight)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.start("cpu")
    network = resnet()
    if distributed.is_main():
        save_network(folder / "start.safetensors", network)
    for name, (recipe, settings) in CASES.items():
        for strategy in ("ddp", "fsdp"):
            fit(network, folder / f"{name}-{strategy}", strategy, recipe, settings)
    for strategy in ("ddp", "fsdp"):
        fit(attention(), folder / f"shared-{strategy}", strategy, PLAIN, SETTINGS)
    stopped(network, folder / "again-fsdp", step=3)
    distributed.barrier()
    if distributed.is_main():
        for other in ("again-ddp", "numbered-fsdp", "alone"):
            shutil.copytree(folder / "again-fsdp", folder / other)
        number(folder / "numbered-fsdp" / "last.ckpt")
    distributed.barrier()
    for name, strategy in (("again", "fsdp"), ("again", "ddp"), ("numbered", "fsdp")):
        fit(network, folder / f"{name}-{strategy}", strategy, *CASES["all"])
    try:
        fit(Peeking(), folder / "peeking", "fsdp", PLAIN, SETTINGS)
    except HalutError as error:
        (folder / f"refused.{distributed.rank()}").write_text(str(error))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
