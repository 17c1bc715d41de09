"""The project's launch code over CuPy over the driver that has no GPU; run by test_cuda_driver.py.

A process of its own: CuPy must not be imported before the driver is in place, nor stay afterwards.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.cuda import cubin, launch
from tests.cuda.cuda_cases import CASES, assert_alike, expected, run
from tests.cuda.driver.standin import Driver
from tests.cuda.shim.runner import Shim

STREAM = 0x5EED


@pytest.fixture(scope="session")
def driver(tmp_path_factory, pytestconfig):
    """The driver, whose launches run the kernels on the CPU; binaries lie in a cache of its own."""
    driver = Driver(tmp_path_factory.mktemp("driver"))
    shim = Shim(Path(pytestconfig.getoption("--kernels")))
    sources = {
        kernel: path.stem
        for path in shim.folder.glob("*.so")
        for kernel in kernels_of(path.with_suffix(".cpp").read_text())
    }

    def run(kernel, blocks, threads, arguments):
        error = ctypes.create_string_buffer(512)
        library = shim.library(sources[kernel])
        failed = getattr(library, f"launch_{kernel}")(arguments, 0, blocks, threads, 0, error)
        assert not failed, f"{kernel}: {error.value.decode()}"

    driver.watch(run)
    driver.kernels = shim.folder
    return driver


def kernels_of(text: str) -> list[str]:
    return [line[9:-1] for line in text.splitlines() if line.startswith("LAUNCHER(")]


@pytest.fixture(autouse=True)
def _gpu(driver, monkeypatch, tmp_path_factory):
    """torch's part of a GPU, of which there is none; its streams have one address."""
    device = driver.library.halut_getDevice
    monkeypatch.setattr(launch, "current_stream", lambda index: STREAM + index)
    monkeypatch.setattr(launch, "current_device", lambda: device(0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    cache = tmp_path_factory.getbasetemp() / "cubin"
    cache.mkdir(exist_ok=True)
    monkeypatch.setattr(cubin, "cache_folder", lambda: cache)
    driver.library.halut_setDevice(0, 0)
    del driver.launched[:]


@pytest.mark.parametrize("each", CASES, ids=str)
def test_equal_to_torch(driver, each):
    assert_alike(each, run(each, "cuda", each.make()), expected(each))
    assert all((seen.stream, seen.device) == (STREAM, 0) for seen in driver.launched)


LAYERS = [each for each in CASES if each.operation in ("tree_layer", "nearest_layer")]


@pytest.mark.parametrize("each", LAYERS, ids=str)
def test_prepared_layers_answer_again_and_again(driver, each):
    (entry,) = dispatch._candidates(each.operation, "cuda", "cuda")
    first, *rest = each.make()
    constants = 9 if each.operation == "tree_layer" else 10
    prepared = entry.prepare(first, *rest[:constants])
    changed = first.clone() if first.is_contiguous() else first
    for x in (first, changed.mul_(-1)):
        (expected,) = run(each, "torch", (x, *rest))
        assert_alike(each, (prepared(x, *rest[constants:]),), (expected,))


def test_every_kernel_was_found_in_its_binary(driver):
    """By the tests above."""
    assert len(driver.functions) > 50
    built = Path(driver.kernels).glob("*.cpp")
    assert set(driver.functions) == {k for path in built for k in kernels_of(path.read_text())}


def accumulated(device: int | None = None):
    codes, table = torch.zeros(3, 2, dtype=torch.uint8), torch.ones(1, 2, 16, 4)
    out = torch.empty(3, 4)
    on = torch.device("cuda") if device is None else torch.device("cuda", device)
    launch.launch(
        *("accumulate", "accumulate_f32_direct", on, (1, 256), codes, table, out, None, None),
        *(float("-inf"), np.int32(0), 0, None, 1.0, np.int32(0), 3, 1, 2, 16, 4),
    )
    return out


def test_a_tensor_of_the_second_device_runs_there(driver):
    assert accumulated(1).eq(2).all()
    assert accumulated().eq(2).all()
    assert accumulated(1).eq(2).all()
    seen = [(each.device, each.stream) for each in driver.launched]
    assert seen == [(1, STREAM + 1), (0, STREAM), (1, STREAM + 1)]
    assert driver.library.halut_getDevice(0) == 0


def test_another_thread_launches_too(driver):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(accumulated())) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(answers) == len(driver.launched) == 8
    assert all(each.eq(2).all() for each in answers)


def test_no_blocks_are_no_launch(driver):
    launch.launch("accumulate", "accumulate_f32_direct", torch.device("cuda", 0), (0, 256))
    assert not driver.launched


def test_a_launch_warns_of_nothing(driver, recwarn):
    accumulated()
    assert not recwarn.list


def test_a_damaged_binary_is_made_anew(driver, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(cubin, "cache_folder", lambda: tmp_path)
    for forget in (launch._module, launch._function):
        forget.cache_clear()
    launch._launches.clear()
    path = cubin.cubin("accumulate", "sm_90")
    path.write_bytes(b"\x7fELF")
    with caplog.at_level(logging.WARNING):
        assert accumulated().eq(2).all()
    assert "compiled anew" in caplog.text
    assert path.stat().st_size > 1000


def test_a_kernel_that_does_not_compile_is_one_error(monkeypatch):
    launch._module.cache_clear()
    monkeypatch.setattr(cubin, "source", lambda name: "__global__ void broken(")
    with pytest.raises(HalutError, match="does not compile for sm_90"):
        launch._module("accumulate", 0)
    launch._module.cache_clear()
