"""The CUDA kernels' answers, computed on the CPU through the launch shim."""

import pytest
import torch

from halut.ops.core import checks
from halut.ops.cuda import lookup, tree
from tests.cuda.cuda_cases import CASES, assert_alike, expected, run
from tests.cuda.cuda_tables import drawn_table
from tests.oracles.lookup import accumulate_reference

OPERATIONS = {
    *("accumulate", "scatter_add", "tree_encode", "tree_gradient", "nearest_encode"),
    *("nearest_gradient", "conv_taps", "conv_taps_gradient", "tree_layer", "nearest_layer"),
    "code_layer",
    "code_map",
    "bit_planes",
    "bit_product",
    "sign_magnitude",
    "mxint8_dequantize",
}


def test_every_kernel_is_reached(shim):
    assert {each.operation for each in CASES} == OPERATIONS
    runner = shim()
    for each in CASES:
        run(each, "cuda", each.make())
    kernels = {
        symbol.removeprefix("launch_")
        for path in runner.folder.glob("*.cpp")
        for symbol in _launchers(path.read_text())
    }
    assert kernels == set(runner.launched)


def _launchers(text: str) -> list[str]:
    return [
        line.removeprefix("LAUNCHER(").rstrip(")")
        for line in text.splitlines()
        if line.startswith("LAUNCHER(")
    ]


@pytest.mark.parametrize("schedule", ["forward", "reverse", "shuffled"])
@pytest.mark.parametrize("each", CASES, ids=str)
def test_equal_to_torch(shim, each, schedule):
    shim(schedule)
    assert_alike(each, run(each, "cuda", each.make()), expected(each))


def test_sums_are_in_a_fixed_order_if_deterministic(shim, monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    (each,) = (each for each in CASES if str(each) == "scatter_add-splits")
    answers = []
    for schedule in ("forward", "shuffled"):
        runner = shim(schedule)
        answers += run(each, "cuda", each.make())
    assert torch.equal(*answers)
    assert_alike(each, (answers[0],), expected(each))
    assert runner.launched == ["scatter_add_f32"]


def test_chunks_of_rows_and_images_change_nothing(shim, monkeypatch):
    shim()
    cases = [
        each
        for each in CASES
        if each.operation in ("tree_gradient", "nearest_gradient")
        and not {"64", "128", "256"} & set(each.label.split("-"))
    ]
    monkeypatch.setitem(checks.WORKSPACE, "cpu", 1 << 16)
    for each in cases:
        assert_alike(each, run(each, "cuda", each.make()), expected(each))


def test_int8_sums_are_exact_at_the_extremes(shim):
    shim()
    table = torch.full((1, 1000, 16, 20), -128, dtype=torch.int8)
    table[..., 1::2] = 127
    for N in (70, 3):
        codes = torch.randint(0, 16, (N, 1000), dtype=torch.uint8)
        sums = lookup.accumulate(codes, table)
        assert sums.tolist() == [[-128_000, 127_000] * 10] * N


def test_float_sums_of_a_row_do_not_depend_on_the_batch(shim):
    runner = shim()
    codes, table = torch.randint(0, 16, (130, 33), dtype=torch.uint8), torch.randn(1, 33, 16, 20)
    few, many = lookup.accumulate(codes[:5], table), lookup.accumulate(codes, table)
    assert torch.equal(few, many[:5])
    assert runner.launched == ["accumulate_f32_direct", "accumulate_f32_8"]


def test_few_rows_share_out_their_codebooks(shim):
    runner = shim()
    codes, table = drawn_table(49, 1, 512, 16, 96, torch.int8)
    assert torch.equal(lookup.accumulate(codes, table), accumulate_reference(codes, table))
    lookup.accumulate(codes[:1], table)
    assert runner.launched == ["accumulate_i8_direct_8", "accumulate_i8_direct_32"]
    kernels = {lookup.choice(n, 512, 16, 512, torch.int8, 1, 132)[0] for n in (1, 49, 400, 10_000)}
    assert kernels == {f"accumulate_i8_{each}" for each in ("direct_32", "direct_8", "8_wide")}


def test_codes_that_are_none_read_nothing_else(shim):
    shim()
    codes = torch.full((70, 4), 255, dtype=torch.uint8)
    table = torch.randint(-128, 128, (1, 4, 16, 20), dtype=torch.int8)
    last = lookup.accumulate(torch.full_like(codes, 15), table)
    assert torch.equal(lookup.accumulate(codes, table), last)


def test_a_column_that_is_none_stops_the_kernel(shim):
    shim()
    x, taps, thresholds = torch.zeros(5, 3), torch.tensor([3]), torch.zeros(1, 1)
    with pytest.raises(RuntimeError, match="trapped"):
        tree.tree_encode(x, taps, thresholds, None)


@pytest.mark.parametrize("order", ["rows", "books"])
def test_inputs_beyond_2_to_the_31_elements(shim, order):
    runner = shim()
    size, strides = ((20, 3), (1, 2**31)) if order == "rows" else ((3, 20), (2**31, 1))
    x = torch.empty(2**32 + 40, dtype=torch.int8).as_strided(size, strides)
    x[:] = torch.arange(60, dtype=torch.int8).view(size)
    taps, thresholds = torch.arange(8) % size[1], torch.randint(0, 60, (2, 15)).float()
    near = torch.empty_strided(size, (1, 20) if order == "rows" else (20, 1), dtype=x.dtype).copy_(
        x
    )
    assert torch.equal(
        tree.tree_encode(x, taps, thresholds, None), tree.tree_encode(near, taps, thresholds, None)
    )
    assert runner.launched == [f"tree_encode_i8_{order}"] * 2


def test_answers_beyond_2_to_the_31_elements(shim):
    runner = shim()
    N, M = 2**21 + 77, 1024
    codes = torch.zeros(N, 1, dtype=torch.uint8)
    table = torch.randint(-50, 50, (1, 1, 2, M), dtype=torch.int8)
    out = torch.empty(N, M, dtype=torch.int8)
    tiles = M // 128
    blocks = -(-N // 128) * tiles
    runner.blocks = range(blocks - tiles, blocks)  # the last rows
    lookup.add_rows(codes, table, out, torch.ones(M), torch.zeros(M))
    assert torch.equal(out[-77:], table[0, 0, :1].expand(77, M))
