"""Code use, errors, confusions and worst samples, against their definitions."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from halut.analysis.inspection import code_counts, error_histogram, inspect, picture, png
from halut.replace import swap
from halut.replace.policy import Rule, resolve
from halut.sites.calibration import capture
from halut.sites.find import find_sites


@pytest.fixture(scope="module")
def samples():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(30, 1, 6, 6, generator=draw), torch.randint(0, 3, (30,), generator=draw)


@pytest.fixture(scope="module")
def network(samples):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    sites, _ = find_sites(net, samples[0][:1])
    rules = [Rule("0", operator="tree"), Rule("3", operator="pq")]
    for entry in resolve(sites, rules, "tree", {}).replaced:
        rows = capture(net, [entry.site], [samples[0]])[entry.site.name]
        swap.replace_site(net, entry, rows)
    return net.eval()


def test_confusions_and_the_worst_are_those_of_the_answers(network, samples):
    x, labels = samples
    batches = list(zip(x.split(16), labels.split(16), strict=True))
    found = inspect(network, batches, ["a", "b", "c"])
    with torch.no_grad():
        logits = network(x)
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for label, answer in zip(labels, logits.argmax(1), strict=True):
        counts[label, answer] += 1
    assert found["confusion"] == {
        "counts": counts.tolist(),
        "classes": ["a", "b", "c"],
        "samples": 30,
    }
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    worst = losses.sort(descending=True).values[:12].tolist()
    assert [each["loss"] for each in found["worst"]] == pytest.approx(worst, rel=1e-5)


def test_codes_are_counted_on_the_first_batch_alone(network, samples):
    x, labels = samples
    found = inspect(network, zip(x.split(10), labels.split(10), strict=True), ["a", "b", "c"])
    layer = network[0]
    codes = layer.codes(x[:10])
    for c, counts in enumerate(found["sites"]["0"]["codes"]["counts"]):
        assert counts == torch.bincount(codes[:, c].long(), minlength=16).tolist()
    assert found["sites"]["0"]["codes"]["rows"] == 10 * 16
    assert not layer._forward_hooks
    errors = found["sites"]["3"]["errors"]
    assert sum(errors["counts"]) + errors["outside"] == 10 * 3


def test_many_codebooks_are_cut_and_that_is_told():
    codes = torch.zeros(5, 100, dtype=torch.uint8)
    found = code_counts(codes, 4)
    assert found["codebooks"] == 100
    assert found["counts"] == [[5, 0, 0, 0]] * 64


def test_a_histogram_is_of_errors_over_the_deviation_of_the_product():
    exact = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    deviation = exact.std()
    errors = torch.tensor([0.0, 0.0, 2.9, 4.0])
    found = error_histogram(exact + errors * deviation, exact)
    assert found["counts"][20] == 2
    assert found["counts"][-1] == 1
    assert found["outside"] == 1
    assert sum(found["counts"]) == 3


def test_a_picture_is_the_sample_before_its_normalization():
    pixels = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    uri = picture((pixels - 0.3) / 0.2, [0.3], [0.2])
    assert uri is not None
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert np.asarray(image).tolist() == [[0, 255], [128, 64]]


def test_a_png_has_its_colors():
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    image = Image.open(io.BytesIO(png(pixels)))
    assert np.asarray(image).tolist() == pixels.permute(1, 2, 0).tolist()


def test_what_is_no_map_or_not_finite_has_no_picture():
    assert picture(torch.zeros(5)) is None
    assert picture(torch.full((1, 2, 2), float("nan"))) is None
