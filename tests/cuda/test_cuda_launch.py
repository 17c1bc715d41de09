"""How kernels are found, compiled and called, as far as that needs no GPU."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.cuda import cubin, launch
from halut.ops.cuda.arguments import Arguments


@pytest.fixture
def unasked():
    launch.missing.cache_clear()
    yield
    launch.missing.cache_clear()


def test_importing_the_operators_imports_no_cupy():
    code = "import sys, halut.ops; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_operation_has_a_kernel_but_those_of_one_pass_in_torch():
    named = dispatch.implementations("cuda")
    without = {operation for operation, name in named.items() if name != "cuda"}
    in_torch = {"all_finite", "pack_table", "quantize", "max_pool", "mean_pool", "carry_gradient"}
    assert without <= in_torch


def test_without_cupy_one_error_names_what_to_install(monkeypatch, caplog, unasked):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with caplog.at_level(logging.WARNING):
        assert not launch.available()
        assert not launch.available()
    (record,) = caplog.records
    assert "halut[cuda]" in record.getMessage()
    assert "torch implementations run" in record.getMessage()


def test_without_cupy_kernels_support_nothing(monkeypatch, unasked):
    monkeypatch.setitem(sys.modules, "cupy", None)
    codes, table = torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(1, 2, 16, 4)
    preferred, *others = dispatch._candidates("accumulate", "cuda", None)
    assert preferred.name == "cuda"
    assert not preferred.supports(codes, table)
    assert "torch" in [entry.name for entry in others]


def test_float64_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(launch, "available", lambda: True)
    codes = torch.zeros(3, 2, dtype=torch.uint8)
    preferred = dispatch._candidates("accumulate", "cuda", None)[0]
    assert preferred.supports(codes, torch.zeros(1, 2, 16, 4))
    assert not preferred.supports(codes, torch.zeros(1, 2, 16, 4, dtype=torch.float64))


def test_sources_include_what_they_share():
    text = cubin.source("tree_encode")
    assert "struct View" in text
    assert "#include" not in text
    assert "#pragma once" not in text


def test_sources_that_are_nowhere(monkeypatch, tmp_path):
    monkeypatch.setattr(cubin, "FOLDERS", (tmp_path,))
    with pytest.raises(HalutError, match="no CUDA sources"):
        cubin.folder()


def test_arguments_have_the_kernels_widths():
    tensor = torch.zeros(3)
    args = (tensor, None, 7, True, (1, 2, 3), np.int32(4), 0.5)
    packed = Arguments(args)
    assert packed.sizes == [8, 8, 8, 4, 24, 4, 4]
    assert [at - packed.addresses[0] for at in packed.addresses] == [0, 8, 16, 24, 32, 56, 60]
    assert bytes(packed.buffer)[:8] == tensor.data_ptr().to_bytes(8, "little")
    assert bytes(packed.buffer)[32:56] == np.array([1, 2, 3], np.int64).tobytes()
    for (memory, at), value in zip(packed.places([4, 5, 6]), (9, -5, 0.25), strict=True):
        memory[at] = value
    assert bytes(packed.buffer)[32:56] == np.array([9, 2, 3], np.int64).tobytes()
    assert bytes(packed.buffer)[56:60] == np.int32(-5).tobytes()
    assert bytes(packed.buffer)[60:64] == np.float32(0.25).tobytes()
    with pytest.raises(TypeError, match="list"):
        Arguments(([1],))


def test_a_grid_has_a_largest_size():
    launch.check_blocks(2**31 - 1)
    with pytest.raises(HalutError, match="split the rows"):
        launch.check_blocks(2**31)


def test_nothing_is_launched_for_no_blocks():
    launch.launch("accumulate", "none", torch.device("cuda"), (0, 256))


def test_a_prepared_layer_holds_what_kernels_read_and_no_input(monkeypatch):
    monkeypatch.setattr(launch, "bind", lambda device, *calls: None)
    x, table = torch.randn(5, 12), torch.zeros(1, 3, 4, 6, dtype=torch.int8)
    split_dims, thresholds = torch.arange(6), torch.randn(3, 3)
    packed, scale, bias = torch.empty(0, dtype=torch.uint8), torch.ones(6), torch.zeros(6)
    (entry,) = dispatch._candidates("tree_layer", "cuda", "cuda")
    layer = entry.prepare(
        x, split_dims, thresholds, table, packed, scale, bias, None, torch.float32, None
    )
    assert layer.flags
    held = {value.data_ptr() for value in layer.tensors}
    assert {value.data_ptr() for value in (split_dims, thresholds, table, scale, bias)} <= held
    assert x.data_ptr() not in held
