"""Layers of known codes: every implementation and level answers the oracle's bits."""

import pytest
import torch

from halut import ops
from halut.errors import HalutError
from halut.ops import cpu
from tests.oracles.layer import code_layer_reference
from tests.oracles.lookup import accumulate_reference

SHAPES = [(1, 1, 1, 2, 1), (40, 1, 5, 16, 7), (70, 2, 300, 16, 33), (300, 1, 64, 8, 70)]


def case(N, G, C, K, M):
    torch.manual_seed(N + M)
    codes = torch.randint(0, K, (N, G * C), dtype=torch.uint8)
    table = torch.randint(-128, 128, (G, C, K, M), dtype=torch.int8)
    return codes, table, torch.rand(G * M) / C, torch.randn(G * M)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", [None, *cpu.cpu_capabilities()])
def test_answers_are_the_oracles(shape, dtype, level):
    codes, table, scale, bias = case(*shape)
    expected = code_layer_reference(codes, table, scale, bias, -0.5, dtype)
    with ops.forced("torch") if level is None else cpu.use_cpu_capability(level):
        packed = ops.pack_table(table)
        assert torch.equal(ops.code_layer(codes, table, packed, scale, bias, -0.5, dtype), expected)


@pytest.mark.parametrize("level", cpu.cpu_capabilities())
def test_long_products_are_exact_sums(level):
    codes, table, _, _ = case(200, 1, 600, 16, 20)
    with cpu.use_cpu_capability(level):
        assert torch.equal(ops.accumulate(codes, table), accumulate_reference(codes, table))


def test_a_table_packed_for_another_level_is_packed_anew():
    codes, table, scale, bias = case(*SHAPES[1])
    for wrong in (torch.zeros(3, dtype=torch.uint8), torch.zeros(10_000, dtype=torch.uint8)):
        y = ops.code_layer(codes, table, wrong, scale, bias)
        assert torch.equal(y, code_layer_reference(codes, table, scale, bias))


def test_compiles_and_names_wrong_arguments():
    codes, table, scale, bias = case(*SHAPES[1])
    arguments = codes, table, ops.pack_table(table), scale, bias, 0.0, torch.float32
    torch.library.opcheck(torch.ops.halut.code_layer, arguments)
    assert ops.code_layer(codes[:0], *arguments[1:]).shape == (0, 7)
    with pytest.raises(HalutError, match="codes must be uint8"):
        ops.code_layer(codes.int(), *arguments[1:])
    with pytest.raises(HalutError, match=r"scale must be float32 \[7\]"):
        ops.code_layer(codes, table, arguments[2], scale[1:], bias)
