"""A checkpoint written when optimizer states were numbered continues as it did then.

tests/fixtures/checkpoint_0_1 was left by `fit` below at version 0.1, with `last.ckpt` of step 3 and
`end.safetensors` of the last step.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import halut.training.lightning.fit as fitting
from halut.data import build
from halut.replace.policy import Rule, resolve
from halut.replace.schedule import ROLES
from halut.sites.find import find_sites
from halut.sites.plan import KEEP
from halut.training.config.run_config import LossConfig, TrainerConfig
from halut.training.lightning.callbacks import AtomicCheckpointIO
from halut.training.lightning.module import Recipe
from halut.training.logging.metrics import RunLogger
from tests.training.learned_layers import with_learned

LEFT = Path(__file__).parents[1] / "fixtures" / "checkpoint_0_1"
RULES = [
    Rule(name="1", operator="tree", options={"K": 4}),
    Rule(name="3", operator="lqnet"),
    Rule(operator=KEEP),
]


def two_layers() -> nn.Module:
    """A table and a learned basis: five roles, and groups with and without weight decay."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 10)
    )
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sites, _ = find_sites(network, images[:1])
    return with_learned(network, resolve(sites, RULES, "tree", {}), images, rows=32)


def fit(folder: Path) -> nn.Module:
    """Five steps in one process, the place saved after the third; from there if it is there."""
    data = build("digits", batch_size=16, eval_batch_size=64, train_samples=80, val_samples=20)
    data.setup()
    rates, decays = dict.fromkeys(ROLES, 0.01), dict.fromkeys(ROLES, 0.1)
    recipe = Recipe("adamw", rates, decays, loss=LossConfig(), seed=3)
    settings = TrainerConfig(accelerator="cpu", enable_progress_bar=False, checkpoint_every=3)
    network = two_layers()
    fitting.fit(network, data, folder, 1, recipe, settings, RunLogger([]), select="last")
    return network


def test_it_goes_on_as_it_did(tmp_path):
    shutil.copy(LEFT / "last.ckpt", tmp_path)
    checkpoint = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint["global_step"] == 3
    (state,) = checkpoint["optimizer_states"]
    assert all(isinstance(key, int) for key in state["state"])
    found, wanted = fit(tmp_path).state_dict(), load_file(LEFT / "end.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
