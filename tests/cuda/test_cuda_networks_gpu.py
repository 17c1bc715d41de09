"""Networks on a GPU: learned, swapped, prepared, captured in graphs, compiled, and trained."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from halut.inference import prepare
from halut.models.build import build_model
from halut.ops import forced
from halut.ops.cuda import launch
from halut.replace import ptq, swap
from halut.replace.policy import resolve, simple_rules
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda"
NETWORKS = {  # name: (input size, options of its builder)
    "resnet8": ((1, 12, 12), {"width": 8}),
    "tiny_vit": ((3, 8, 8), {"dim": 16, "depth": 2, "heads": 2}),
}
OPERATORS = {
    "tree": {"K": 8},
    "pq": {"K": 8},
    "decision_tree": {"K": 8},
    "integer": {},
    "mxint8": {},
    "binary": {},
    "lqnet": {},
}
DTYPES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
LAYOUTS = [torch.contiguous_format, torch.channels_last]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        torch.cuda.is_available() and not launch.available(), reason="needs cupy-cuda13x"
    ),
]


def inputs(name: str, count: int = 6) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, *NETWORKS[name][0]).to(DEVICE)


def exact(name: str) -> tuple[nn.Module, Tensor]:
    """A network with running statistics, and what it is calibrated on."""
    torch.manual_seed(0)
    size, options = NETWORKS[name]
    network, x = build_model(name, 10, size[0], **options), torch.randn(64, *size)
    for _ in range(10):
        network(x)
    return network.eval().to(DEVICE), x.to(DEVICE)


def learned(name: str, operator: str) -> tuple[nn.Module, Plan]:
    """The network, its sites replaced and learned on the GPU."""
    network, x = exact(name)
    sites, unsupported = find_sites(network, x[:1])
    rules = simple_rules(sites, keep_first=False, keep_last=False, keep_depthwise=False)
    plan = resolve(sites, rules, operator, OPERATORS[operator], unsupported)
    rows = capture(network, [entry.site for entry in plan.replaced], [x])
    for entry in plan.replaced:
        swap.replace_site(network, entry, rows[entry.site.name][:512])
    assert {value.device.type for value in network.state_dict().values()} == {DEVICE}
    return network.eval(), plan


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Median over the samples of the relative error: an input that rounding moves across a
    threshold changes its whole sample."""
    ours, theirs = ours.detach().float().cpu(), theirs.detach().float().cpu()
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    errors = (ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)
    return float(errors.median())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_learned_on_the_gpu_answers_as_on_the_cpu(name, operator):
    network, _ = learned(name, operator)
    x = inputs(name)
    with torch.no_grad():
        assert gap(network(x), copy.deepcopy(network).cpu()(x.cpu())) < 2e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", ["tree", "pq"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_prepared_network_answers_as_on_the_cpu(name, operator, dtype):
    network, _ = learned(name, operator)
    x = inputs(name).to(dtype)
    prepared = prepare(network, inputs(name)[:1]).to(dtype)
    with forced("torch"):
        there = prepare(copy.deepcopy(network).cpu(), inputs(name)[:1].cpu()).to(dtype)
    for layout in LAYOUTS:
        mapped = x.contiguous(memory_format=layout)
        expected = there(mapped.cpu())
        for _ in range(2):  # the second call is a prepared one
            answer = prepared(mapped)
            assert answer.dtype == dtype
            assert gap(answer, expected) < DTYPES[dtype]
        assert (
            gap(torch.cat([prepared(mapped[:2]), prepared(mapped[2:])]), expected) < DTYPES[dtype]
        )


@pytest.mark.parametrize("operator", ["tree", "pq"])
@torch.no_grad()
def test_a_prepared_network_is_captured_in_a_graph(operator):
    prepared = prepare(learned("resnet8", operator)[0], inputs("resnet8")[:1])
    x = inputs("resnet8")
    reference = prepared(x), prepared(-x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        prepared(x)
    torch.cuda.current_stream().wait_stream(side)
    graph, fixed = torch.cuda.CUDAGraph(), x.clone()
    with torch.cuda.graph(graph):
        answer = prepared(fixed)
    for value, expected in zip((x, -x), reference, strict=True):
        fixed.copy_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(answer, expected)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@torch.no_grad()
def test_a_prepared_network_compiles(mode):
    prepared = prepare(learned("resnet8", "tree")[0], inputs("resnet8")[:1])
    x = inputs("resnet8")
    compiled = torch.compile(prepared, mode=mode)
    for value in (x, -x, x):
        assert gap(compiled(value), prepared(value)) < 1e-5


def test_a_training_step_compiles():
    network, _ = learned("resnet8", "tree")
    x, target = inputs("resnet8"), torch.arange(6, device=DEVICE)

    def gradients(forward):
        network.zero_grad()
        nn.functional.cross_entropy(forward(x), target).backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    for ours, theirs in zip(gradients(torch.compile(network)), gradients(network), strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=5e-3 * scale)


def test_quantization_after_training_runs_there():
    pytest.importorskip("torchao", reason="needs torchao")
    network, x = exact("resnet8")
    sites, unsupported = find_sites(network, x[:1])
    plan = resolve(sites, simple_rules(sites), "exact", {}, unsupported)
    entries = ptq.quantizable(plan)
    seen = ptq.input_ranges(network, [entry.site.name for entry in entries], [x])
    with torch.no_grad():
        expected = network(inputs("resnet8"))
        quantized = ptq.quantized(network, entries, seen, 8)
        assert 1e-5 < gap(quantized(inputs("resnet8")), expected) < 0.1


SHORT = (
    "model.options.width=8",
    "policy.only=[stack2.conv1,stack3.conv1]",
    "base.epochs=4",
    "schedule.epochs=2",
    "capture.samples=512",
    "data.batch_size=64",
    "baseline=false",
    "ptq=none",
    "trainer=gpu",
)


def start(run: Path, *more: str) -> subprocess.Popen:
    options = (*SHORT, f"run_dir={run}", f"base.cache={run / 'cache'}", *more)
    return subprocess.Popen(
        [sys.executable, "train.py", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )


def finished(started: subprocess.Popen, run: Path) -> dict:
    out = started.communicate(timeout=150)[0]
    assert started.returncode == 0, out[-3000:]
    return json.loads((run / "report.json").read_text())


def test_runs_of_train(tmp_path):
    """Side by side, as most of their time is the CPU's: each precision, sharing by NCCL, and one
    run twice, which repeats bit for bit where asked to."""
    runs = {
        "mixed": ["trainer.precision=bf16-mixed"],
        "float": ["trainer.precision=32-true"],
        "ddp": ["trainer.precision=32-true", "trainer.strategy=ddp"],
        "once": ["trainer.precision=32-true", "trainer.deterministic=true"],
        "again": ["trainer.precision=32-true", "trainer.deterministic=true"],
        "pq": ["trainer.precision=bf16-mixed", "halut=pq", "halut.K=8"],
    }
    started = {name: start(tmp_path / name, *more) for name, more in runs.items()}
    reports = {name: finished(each, tmp_path / name) for name, each in started.items()}
    for name, report in reports.items():
        assert report["base"]["val_accuracy"] > 80, name
        assert report["final"]["val_accuracy"] > 70, name
    names = ("base/weights.safetensors", "bundle/model.safetensors")
    for name in names:
        once, again = ((tmp_path / run / name).read_bytes() for run in ("once", "again"))
        assert once == again, name
