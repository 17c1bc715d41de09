"""The summary's arithmetic, on results made up for it; the timing and the clock behind them."""

from __future__ import annotations

import importlib.util
import time

import pytest

from halut.analysis.timing import interleaved, summarize
from halut.bench import result_tables, summary
from halut.bench.machine import slug


def result(suite, method, median, size=1, count=1, **more):
    made = {"op": "layer", "suite": suite, "shape": {"H": size}, "count": count, "threads": 1}
    return {**made, "isa": "vnni", "method": method, "median_us": median, **more}


def test_ratios_weigh_shapes_by_how_often_a_network_has_them():
    rows = [
        *(result("resnet18_3x3", m, t, 1, 3) for m, t in (("ours", 10), ("float32", 50))),
        result("resnet18_3x3", "float32_channels_last", 40, 1, 3),
        *(result("resnet18_3x3", m, t, 2, 1) for m, t in (("ours", 30), ("float32", 90))),
        *(result("resnet18_3x3", "int8", t, n, c) for t, n, c in ((5, 1, 3), (60, 2, 1))),
    ]
    figures = summary.summarize(rows, None, amx=False)["resnet18_3x3"]
    assert figures["over_float32"] == pytest.approx((3 * 40 + 90) / (3 * 10 + 30))
    assert figures["over_float32_least"] == pytest.approx(3)
    assert figures["over_int8"] == pytest.approx((3 * 5 + 60) / 60)
    assert figures["over_int8_least"] == pytest.approx(0.5)


def test_int8_is_compared_with_ours_in_int8_where_that_is_measured():
    rows = [result("linear_v16", m, t) for m, t in (("ours", 10), ("ours_int8", 5), ("int8", 20))]
    assert summary.summarize(rows, None, amx=False)["linear_v16"]["over_int8"] == 4


def test_one_memory_format_of_ours_counts_for_all_shapes():
    times = {"ours": (10, 30), "ours_channels_last": (25, 10), "float32": (70, 70)}
    rows = [result("resnet9_3x3", m, t[i], i) for m, t in times.items() for i in (0, 1)]
    figures = summary.summarize(rows, None, amx=False)["resnet9_3x3"]
    assert figures["over_float32"] == pytest.approx(140 / 35)
    assert figures["over_float32_least"] == pytest.approx(70 / 25)


def test_amx_and_threads_have_keys_of_their_own():
    rows = [result("linear_v16", m, t) for m, t in (("ours", 10), ("int8", 30))]
    rows += [{**row, "threads": 2, "median_us": row["median_us"] / 3} for row in rows[:1]]
    rows += [{**rows[1], "threads": 2}]
    rows += [result("linear_v16", m, t, isa="default") for m, t in (("ours", 10), ("int8", 6))]
    figures = summary.summarize(rows, None, amx=True)
    assert figures["linear_v16"]["over_int8"] == 3
    assert figures["linear_v16"]["over_int8_amx"] == pytest.approx(0.6)
    assert figures["threads_2"]["linear_v16"]["over_int8"] == pytest.approx(9)
    assert result_tables.losses(figures) == ["tables lose: linear_v16.over_int8_amx = 0.60"]


def test_training_is_ours_over_the_faster_exact_layer():
    shape = {"C_in": 64, "M": 128}
    times = (("ours", 30), ("exact_float32", 20), ("exact_float32_channels_last", 15))
    rows = [{**result("train_step", m, t), "op": "train_step", "shape": shape} for m, t in times]
    figures = summary.summarize(rows, None, amx=False)
    assert figures["train_step"]["over_exact"] == {"64x128": pytest.approx(2)}


def test_share_of_the_port_limit():
    shape = {"N": 1000, "C": 64, "M": 64, "K": 16}
    row = {**result("accumulate", "ours_kernel", 64.0), "op": "accumulate", "shape": shape}
    row["best_us"] = row["median_us"]
    few = {**row, "shape": {**shape, "C": 8}, "best_us": 1e9}
    rows = [{**row, "clock_ghz": 2.0}, {**few, "clock_ghz": 2.0}]
    # 4,096,000 look-ups in 64 us at 2 GHz are 32 per cycle.
    assert summary.summarize(rows, "avx512vbmi", False)["accumulate"]["of_port_limit"] == 0.5
    assert summary.summarize(rows, "avx512", False)["accumulate"]["of_port_limit"] == 1
    assert "accumulate" not in summary.summarize(rows, "portable", False)


def test_nothing_measured_is_an_empty_summary():
    assert summary.summarize([], None, amx=True) == {}
    assert summary.summarize([result("linear_v16", "ours", 1)], None, amx=True) == {}


def test_medians_and_spread():
    timing = summarize([1.0, 2.0, 3.0, 4.0, 100.0])
    assert timing.median == 3
    assert timing.best == 1
    assert timing.spread == pytest.approx(2 / 3)


def test_methods_take_turns():
    order = []
    interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, 0.0)
    timed = "".join(order[-6:])
    assert timed == "abbaab"


def test_slow_methods_get_few_rounds(monkeypatch):
    monkeypatch.setattr("halut.analysis.timing.MAX_METHOD_SECONDS", 0.01)
    actual = interleaved({"slow": lambda: time.sleep(0.02), "quick": lambda: None}, 8, 1e-5)
    assert actual["slow"].rounds == 3
    assert actual["quick"].rounds == 8


def test_names_of_processors_become_names_of_files():
    assert slug("Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz") == "intel-xeon-gold-6230-cpu"
    assert slug("") == "unknown"


@pytest.mark.skipif(not importlib.util.find_spec("halut._kernels"), reason="no compiled kernels")
def test_the_clock_adds_once_a_cycle():
    from halut import _kernels

    assert _kernels.spin(0) == 0
    assert _kernels.spin(15) == 8
    assert _kernels.spin(80_000) == 80_000


@pytest.mark.slow  # by what it bounds, a time: a busy machine may stretch it
def test_the_clock_is_a_processors():
    from halut import _kernels

    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        _kernels.spin(1_000_000)
        seconds.append(time.perf_counter() - start)
    assert 0.3 < 1e6 / min(seconds) / 1e9 < 8  # GHz
