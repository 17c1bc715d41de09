"""Prepared calls answer what their operation does, and are prepared anew when they have to be."""

import copy
import pickle

import pytest
import torch

from halut.ops import forced
from halut.ops.core import dispatch
from halut.ops.core.dispatch import available
from halut.ops.layer.kernel_cache import CACHE_SIZE, PreparedKernelCache
from tests.ops.layer_cases import LAYOUTS, MAPS, ROWS, tree_case

CASES = [(ROWS[0], LAYOUTS[0]), (ROWS[4], LAYOUTS[0]), *[(MAPS[0], f) for f in LAYOUTS]]


def arguments(shape, layout, dtype=torch.float32):
    """(x, all that is fixed, the residual and its scale) of a tree layer."""
    case, geometry = tree_case(shape, layout=layout)
    fixed = (*case[1:], 0.0, dtype, geometry)
    y = dispatch.run("tree_layer", case[0].device, case[0], *fixed)
    return case[0], fixed, (torch.randn_like(y), 0.5)


@pytest.mark.parametrize("implementation", available("tree_layer"))
@pytest.mark.parametrize(("shape", "layout"), CASES)
def test_a_prepared_call_answers_like_the_operation(shape, layout, implementation):
    x, inputs, more = arguments(shape, layout)
    with forced(implementation):
        call = dispatch.prepared("tree_layer", x.device, x, *inputs)
        for other in (x, x.flip(0).contiguous(memory_format=layout)):
            for added in ((), more):
                expected = dispatch.run("tree_layer", x.device, other, *inputs, *added)
                y = call(other, *added)
                assert torch.equal(y, expected)
                assert y.stride() == expected.stride()


def test_a_residual_of_other_strides_is_laid_out_anew():
    x, inputs, (residual, scale) = arguments(MAPS[0], LAYOUTS[0])
    call = dispatch.prepared("tree_layer", x.device, x, *inputs)
    other = residual.contiguous(memory_format=torch.channels_last)
    assert torch.equal(call(x, other, scale), call(x, residual, scale))


def test_calls_are_prepared_once_for_like_inputs(monkeypatch):
    x, inputs, _ = arguments(ROWS[0], LAYOUTS[0])
    made = []
    prepared = dispatch.prepared

    def counted(operation, device, x, *args):
        made.append(tuple(x.shape))
        return prepared(operation, device, x, *args)

    monkeypatch.setattr(dispatch, "prepared", counted)
    calls = PreparedKernelCache()

    def check(x, inputs):
        expected = dispatch.run("tree_layer", x.device, x, *inputs)
        assert torch.equal(calls.run("tree_layer", x, inputs), expected)

    check(x, inputs)
    check(x + 1, inputs)
    assert len(made) == 1
    check(x[:20], inputs)
    check(x, inputs)
    assert made == [(40, 20), (20, 20)]
    check(x, (inputs[0], inputs[1] + 1, *inputs[2:]))  # other thresholds
    assert len(made) == 3
    if "cpu" in available("tree_layer"):
        with forced("torch"):
            check(x, inputs)
        assert len(made) == 4
    calls.forget()
    check(x, inputs)
    assert made[-1] == (40, 20)


def test_changing_batch_sizes_are_not_kept_for_ever():
    x, inputs, _ = arguments(ROWS[3], LAYOUTS[0])
    calls = PreparedKernelCache()
    for rows in range(1, 3 * CACHE_SIZE):
        calls.run("tree_layer", x[:rows], inputs)
        assert len(calls.entries) <= CACHE_SIZE


def test_copies_and_pickles_start_empty():
    x, inputs, _ = arguments(ROWS[0], LAYOUTS[0])
    calls = PreparedKernelCache()
    calls.run("tree_layer", x, inputs)
    assert calls.entries
    assert not copy.deepcopy(calls).entries
    assert not pickle.loads(pickle.dumps(calls)).entries


def test_without_a_prepared_form_autocast_is_off_as_ever():
    x = torch.randn(9, 6)
    arguments = (torch.randn(2, 4, 3), "l2", 1, None)
    with torch.autocast("cpu", torch.bfloat16):
        call = dispatch.prepared("nearest_encode", x.device, x, *arguments)
        assert torch.equal(call(x), dispatch.run("nearest_encode", x.device, x, *arguments))
    assert torch.equal(call(x), dispatch.run("nearest_encode", x.device, x, *arguments))


def test_a_table_packed_for_another_level_is_packed_anew():
    kernels = pytest.importorskip("halut._kernels", reason="no compiled kernels")
    x, inputs, _ = arguments(MAPS[0], LAYOUTS[0])
    call = dispatch.prepared("tree_layer", x.device, x, *inputs)
    expected, level = call(x), kernels.level()
    try:
        for other in kernels.levels():
            kernels.use_level(other)
            assert torch.equal(call(x), expected)
    finally:
        kernels.use_level(level)
    assert torch.equal(call(x), expected)
