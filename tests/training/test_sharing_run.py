"""A run whose q, k and v share an encoder: stage after stage, resumed, and as a bundle."""

from __future__ import annotations

import shutil

import pytest
import torch

from halut.bundle import load_bundle
from tests.training.digit_attention import NAMES
from tests.training.smoke_run import moved, runner


@pytest.fixture
def run(train, tmp_path):
    def go(name):
        model = ("model=any", "model.name=digit_attention")
        options = ("policy.share=true", "schedule=back_to_front", "schedule.per_stage=2")
        return runner(train, tmp_path)(name, *options, only=NAMES, model=model)

    return go


def test_one_encoder_through_stages_resumption_and_bundle(run):
    done = run("run")
    assert {done.plan[name]["shares"] for name in NAMES} == {"q"}
    assert done.stages == [["v", "k"], ["q"]]
    swapped, trained = (done.tensors(f"stage_01/{name}") for name in ("swapped", "weights"))
    key = "{}.encoder.thresholds"
    assert key.format("q") in moved(swapped, trained)
    for name in "kv":
        assert torch.equal(trained[key.format("q")], trained[key.format(name)])
    network, _, _ = load_bundle(done.path)
    assert network.q.encoder is network.k.encoder
    assert network.q.encoder is network.v.encoder

    again = done.path.parent / "again"
    shutil.copytree(done.path, again)
    for name in ("stage_01/stage.json", "stage_01/weights.safetensors", "report.json"):
        (again / name).unlink()
    resumed = run("again").tensors("stage_01/weights")
    assert moved(trained, resumed) == set()
