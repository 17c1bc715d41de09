"""The exact network in torchao's integers, beside every result."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import halut.training.ptq_baseline as ptq
from halut.bundle import load_bundle
from halut.errors import HalutError
from halut.replace.ptq import QuantizedProduct, available, check_choice, input_ranges, quantized
from halut.sites.find import find_sites
from halut.sites.plan import Entry
from halut.training.config.run_config import TrainConfig
from tests.training.smoke_run import NARROW, Run

needs_torchao = pytest.mark.skipif(not available(), reason="pip install 'halut[torchao]'")
TRAINED = (
    *("model=resnet8", "model.options.width=8", "data.batch_size=64", "base.epochs=6"),
    *("policy.only=[stack1.conv1,stack2.*,stack3.*]", "halut=integer", "halut.width=8"),
    *("schedule=all_at_once", "schedule.epochs=0", "capture.samples=256", "capture.rows=512"),
    *("recalibrate=0", "baseline=false", "trainer.accelerator=cpu", "trainer.threads=1"),
)
WIDE = "ptq=[8,4,2]"


def without_torchao(monkeypatch) -> None:
    for name in ("torchao", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, None)


# -- one product -----------------------------------------------------------------------------------


def nearest_even(value: float) -> int:
    return round(value)  # Python's own is to even


@needs_torchao
@pytest.mark.parametrize("width", [8, 4, 2])
def test_a_convolution_by_hand(width):
    """y = s_x s_w sum (a - z) b + bias of integers a, b: every sum in Python."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, (2, 1), padding=(1, 0), stride=2)
    with torch.no_grad():
        conv.weight[1] = 0.0  # a channel without a range
    x = torch.randn(1, 2, 3, 2) * 2
    seen = (-1.5, 3.0)  # some inputs saturate
    layer = QuantizedProduct(conv, width, seen)

    s_x = (seen[1] - seen[0]) / 255
    z = -128 - nearest_even(seen[0] / s_x)
    bottom, top = -(2 ** (width - 1)), 2 ** (width - 1) - 1
    expected = conv.bias.detach().double().view(1, 3, 1, 1).repeat(1, 1, 2, 1)
    for m in range(3):
        w = conv.weight[m].detach().double()
        s_w = max(float(w.max()) / top, float(w.min()) / bottom) or 1.0
        for i in range(2):
            total = 0
            for c in range(2):
                for k in range(2):
                    row = 2 * i + k - 1
                    value = float(x[0, c, row, 0]) if 0 <= row < 3 else 0.0
                    a = min(max(nearest_even(value / s_x) + z, -128), 127)
                    b = min(max(nearest_even(float(w[c, k, 0]) / s_w), bottom), top)
                    total += (a - z) * b
            expected[0, m, i, 0] += s_x * s_w * total
    with torch.no_grad():
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(expected.float(), conv(x), rtol=1e-3)


@needs_torchao
def test_linear_depthwise_and_shared_layers():
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.Flatten(1), nn.Linear(100, 5)).eval()
    x = torch.randn(8, 4, 5, 5)
    sites, _ = find_sites(network, x[:1])
    entries = [Entry(site, "integer") for site in sites]
    ranges = input_ranges(network, [site.name for site in sites], [x[:4], (x[4:], None)])
    assert ranges["0"] == (
        float(x.min()),
        max(float(x.max()), float(shared(x).relu().max().detach())),
    )
    before = network.state_dict()["0.weight"].clone()
    narrow = quantized(network, entries, ranges, 4)
    assert narrow[0] is narrow[2]
    assert isinstance(narrow[4], QuantizedProduct)
    assert torch.equal(network[0].weight, before)
    levels = [len(channel.unique()) for channel in narrow[4].product.weight]
    assert max(levels) <= 16
    assert min(levels) > 8
    with torch.no_grad():
        errors = [
            float((quantized(network, entries, ranges, width)(x) - network(x)).square().mean())
            for width in (8, 6, 4, 2)
        ]
        signal = float(network(x).square().mean())
    assert errors == sorted(errors)
    assert 0 < errors[0] < 1e-3 * signal


# -- whole runs ------------------------------------------------------------------------------------


@needs_torchao
@pytest.mark.slow
def test_beside_a_trained_network(train, tmp_path, monkeypatch):
    cache = f"base.cache={tmp_path / 'cache'}"
    command = (*TRAINED, WIDE, cache, f"run_dir={tmp_path / 'one'}")
    outcome = train(*command)
    assert outcome.code == 0, outcome.err
    run = Run(tmp_path / "one")
    exact, entries = run.report["base"], run.report["ptq"]
    assert list(entries) == ["int8", "int4", "int2"]
    assert exact["test_accuracy"] > 85
    for split in ("val_accuracy", "test_accuracy"):
        assert entries["int8"][split] == pytest.approx(exact[split], abs=1)
        assert entries["int2"][split] < exact[split] - 10
    sizes = [entries[name]["bytes"] for name in entries]
    weights = sum(e["site"]["M"] * e["site"]["D"] for e in run.plan.values() if e["stage"] == 0)
    assert sizes[0] - sizes[1] == weights // 2
    assert sizes[1] - sizes[2] == weights // 4
    assert entries["int8"]["exact_bytes"] > 3 * sizes[0]
    ours = entries["int8"]["replacement_bytes"]  # 8-bit integers as well; scales of one byte
    assert 0.8 * sizes[0] < ours < sizes[0]
    assert (entries["int4"]["weight_bits"], entries["int4"]["activation_bits"]) == (4, 8)
    assert entries["int4"]["left_exact"] == []
    assert entries["int8"]["version"]
    text = " ".join(outcome.out.split())
    card = (run.path / "bundle" / "README.md").read_text()
    for name in entries:
        assert f"{entries[name]['bytes']:,}" in text
        accuracies = (f"{entries[name][f'{split}_accuracy']:.2f}" for split in ("val", "test"))
        assert f"| {name.upper()} | {' | '.join(accuracies)} |" in card
    assert load_bundle(run.path)[2]["ptq"] == entries

    # Cut off before the report: nothing is measured again but the test split.
    (run.path / "report.json").unlink()
    monkeypatch.setattr(ptq, "input_ranges", None)
    monkeypatch.setattr(ptq, "split_accuracy", None)
    assert train(*command).code == 0
    assert run.report["ptq"] == entries


SMOKE = ("debug=smoke", "debug.traceback=false", "trainer.accelerator=cpu", "schedule.epochs=0")


@needs_torchao
def test_attention_s_products_stay_exact_and_are_named(train, tmp_path):
    run = tmp_path / "run"
    model = ("model=tiny_vit", "model.options={dim: 16, depth: 1, heads: 2}")
    options = ("halut=mxint8", "policy.kinds=[linear,attention]", "ptq=[8]", "baseline=false")
    outcome = train(*SMOKE, *model, *options, "schedule=all_at_once", f"run_dir={run}")
    assert outcome.code == 0, outcome.err
    entry = Run(run).report["ptq"]["int8"]
    assert entry["left_exact"] == ["blocks.0.attn.products"]
    assert entry["sites"] == len(Run(run).report["sites"]) - 1
    assert "still exact: blocks.0.attn.products" in (run / "bundle" / "README.md").read_text()


@needs_torchao
def test_auto_goes_with_the_baseline(train, tmp_path):
    options = (*SMOKE, *NARROW, "policy.only=[stack3.conv2]", "halut=tree", "halut.K=4")
    assert train(*options, f"run_dir={tmp_path / 'run'}").code == 0
    report = Run(tmp_path / "run").report
    assert list(report["ptq"]) == ["int8", "int4"]
    cost = report["cost"]["replaced"]
    ours = report["ptq"]["int8"]["replacement_bytes"]
    assert cost["table_bytes"] < ours < cost["table_bytes"] + cost["weight_bytes"]
    for options in ({"baseline": False}, {"ptq": "none"}, {"ptq": None}, {"ptq": []}):
        assert ptq.widths_of(TrainConfig(**options)) == []
    assert ptq.widths_of(TrainConfig(baseline=False, ptq=[6, 3, 6])) == [6, 3]


def test_without_torchao_a_warning_is_logged_and_widths_are_refused(train, tmp_path, monkeypatch):
    without_torchao(monkeypatch)
    options = (*SMOKE, *NARROW, "policy.only=[stack3.conv2]", "halut=integer")
    outcome = train(*options, f"run_dir={tmp_path / 'auto'}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("pip install 'halut[torchao]'") == 1
    assert Run(tmp_path / "auto").report["ptq"] == {}
    refused = train(*options, "ptq=[8]", f"run_dir={tmp_path / 'asked'}")
    assert refused.code == 1
    assert "pip install 'halut[torchao]'" in refused.err
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("asked", [[16], [8, 1], [4.0], [True], "int8", 8, {"widths": [8]}])
def test_what_is_no_width_is_refused(asked):
    with pytest.raises(HalutError, match=r"auto, none or widths in 2\.\.8 such as \[8,4\]; got"):
        check_choice(asked)
