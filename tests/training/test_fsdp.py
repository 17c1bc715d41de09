"""trainer.strategy=fsdp by two gloo processes: what ddp does, with the network in shards."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from halut.errors import HalutError
from halut.option import check_choices
from halut.training.config.trainer_config import TrainerConfig, check_trainer
from halut.training.lightning.callbacks import AtomicCheckpointIO
from tests.training import digit_attention
from tests.training.fsdp_ranks import CASES, OPERATORS, fit, resnet
from tests.training.smoke_run import distance

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NOISE = 1e-4
PROTOTYPES = "stack1.conv2.encoder.prototypes"
BLENDS = {"stack1.conv2.blend", "stack3.conv1.blend"}
LEARNED = {
    *(PROTOTYPES, "stack1.conv2.weight", "stack1.conv2.tau"),
    *(f"stack2.conv1.{name}" for name in ("weight", "weight_codec.v", "activation_codec.v")),
    *(f"stack2.conv2.{name}" for name in ("weight", "activation_codec.beta", "activation_codec.v")),
    *(f"stack3.conv1.{name}" for name in ("lut", "encoder.thresholds", "tau")),
    "stack3.conv2.weight",
}
"""What training moves of the layers that `resnet` has replaced."""


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    """The folder that `fsdp_ranks.py` fills."""
    folder = tmp_path_factory.mktemp("fsdp")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(Path(__file__).with_name("fsdp_ranks.py")), str(folder)]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    ranks = [
        subprocess.Popen(command, env={**shared, "RANK": rank, "LOCAL_RANK": rank}, **pipes)
        for rank in "01"
    ]
    outputs = [rank.communicate(timeout=600)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    return folder


def weights(left: Path, name: str) -> dict[str, Tensor]:
    return load_file(left / f"{name}.safetensors")


def held(left: Path, name: str) -> list[dict]:
    return [json.loads((left / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]


def apart(results: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """||found - wanted|| / ||wanted|| of every tensor."""
    assert results.keys() == expected.keys()
    pairs = {name: (results[name].double(), tensor.double()) for name, tensor in expected.items()}
    return {n: float((a - b).norm() / b.norm().clamp_min(1e-6)) for n, (a, b) in pairs.items()}


@pytest.mark.parametrize("case", list(CASES))
def test_weights_are_those_of_ddp(left, case):
    names = ("start", f"{case}-ddp", f"{case}-fsdp")
    start, expected, actual = (weights(left, name) for name in names)
    moved = {name: distance(expected, start, name) for name in expected}
    for name in moved:
        assert distance(actual, expected, name) <= 1e-3 * moved[name] + 1e-6, name
    learned = {name for name in moved if name.startswith(tuple(OPERATORS)) and moved[name] > 1e-5}
    frozen = {PROTOTYPES} if case == "all" else set()
    assert learned - BLENDS == LEARNED - frozen  # there is something to compare


def test_what_is_logged_is_what_ddp_logs(left):
    for case in CASES:
        actual, expected = (
            {(step, key): value for step, key, value in json.loads(file.read_text())}
            for file in (left / f"{case}-fsdp.json", left / f"{case}-ddp.json")
        )
        assert actual.keys() == expected.keys()
        assert {key for _, key in actual} >= {"val/accuracy", "train/loss"}
        assert any(key.startswith("layers/") for _, key in actual)
        for place, value in expected.items():
            assert actual[place] == pytest.approx(value, rel=1e-3, abs=1e-5), place


def test_ranks_end_at_the_same_step_without_a_broadcast(left):
    """Before rank 0's state goes round: shards are gathered, the rest was averaged."""
    for name in ("plain-fsdp", "all-fsdp", "shared-fsdp"):
        assert len({rank["digest"] for rank in held(left, name)}) == 1, name


def test_a_rank_holds_half_of_parameters_and_optimizer_states(left):
    whole = [rank["bytes"] for rank in held(left, "plain-ddp")]
    parts = [rank["bytes"] for rank in held(left, "plain-fsdp")]
    assert whole[0] == whole[1]
    assert max(parts) < 0.52 * whole[0]
    assert sum(parts) >= whole[0]


def test_a_shared_encoder_trains_as_by_ddp(left):
    actual, expected = weights(left, "shared-fsdp"), weights(left, "shared-ddp")
    differing = apart(actual, expected)
    differing.pop("k.bias")  # softmax does not see it: its gradient is what rounding leaves
    assert max(differing.values()) < NOISE
    first, *others = digit_attention.NAMES
    for kind in ("encoder.thresholds", "tau"):
        assert all(actual[f"{name}.{kind}"].equal(actual[f"{first}.{kind}"]) for name in others)


@pytest.mark.parametrize("case", list(CASES))
def test_checkpoints_are_those_of_ddp(left, case):
    actual, expected = (
        AtomicCheckpointIO().load_checkpoint(left / f"{case}-{strategy}" / "last.ckpt")
        for strategy in ("fsdp", "ddp")
    )
    assert ("current_model_state" in actual) == (case == "all")
    tensors, others = (dict(flat(one)) for one in (actual, expected))
    assert tensors.keys() == others.keys()
    for path, value in others.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        assert type(tensors[path]) is Tensor
        assert tensors[path].shape == value.shape, path
        difference = (tensors[path] - value).norm()
        assert difference <= 1e-3 * value.norm() + 1e-6, path
    states = [path for path in others if path.startswith("optimizer_states/0/state/stack")]
    assert len(states) > 20  # by name


def flat(value, path=""):
    """(path, leaf) of nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        below = f"{path}/{key}" if path else str(key)
        if isinstance(inner, dict | list | tuple):
            yield from flat(inner, below)
        else:
            yield below, inner


@pytest.mark.parametrize("name", ["again", "numbered"])
def test_a_stopped_fit_continues_bit_for_bit(left, name):
    """One rank was told to end in the middle; average, moments and steps were all in its place."""
    actual, expected = weights(left, f"{name}-fsdp"), weights(left, "all-fsdp")
    assert all(actual[name].equal(expected[name]) for name in expected)


def test_a_stopped_fit_continues_by_ddp(left):
    assert max(apart(weights(left, "again-ddp"), weights(left, "all-ddp")).values()) < NOISE


def test_a_stopped_fit_continues_in_one_process(left):
    recipe, settings = CASES["all"]
    settings = replace(settings, devices=1)
    network = fit(resnet(), left / "alone", "fsdp", recipe, settings)
    steps = {step for step, _, _ in json.loads((left / "alone.json").read_text())}
    assert steps == {3}  # of 0..3, the last
    start, expected = weights(left, "start"), weights(left, "all-ddp")
    for name in (name for name in expected if name.endswith(("lut", "conv2.weight"))):
        moved = distance(expected, start, name)
        assert distance(network.state_dict(), expected, name) < 0.2 * moved, (
            name
        )  # other batch norms


def test_a_network_that_reads_weights_from_outside_is_refused(left):
    for rank in (0, 1):
        message = (left / f"refused.{rank}").read_text()
        assert "outside the block's forward pass" in message
        assert "use trainer.strategy=ddp" in message


def test_a_precision_without_shards_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a GPU, which 16-mixed needs
    check_trainer(TrainerConfig(strategy="ddp", precision="16-mixed"))
    with pytest.raises(HalutError, match=r"32-true, bf16-mixed, got .*16-mixed.*strategy=ddp"):
        check_trainer(TrainerConfig(strategy="fsdp", precision="16-mixed"))


def test_other_strategies_are_refused():
    with pytest.raises(HalutError, match="auto, ddp, fsdp"):
        check_choices(TrainerConfig(strategy="deepspeed"), "trainer.")
