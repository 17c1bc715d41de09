"""Every implementation of every operation, on every level, gives the same answers.

Operations and implementations come from the registry: a new implementation is covered by being
registered, a new operation needs inputs in contract_cases.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from halut.errors import HalutError
from halut.ops import cpu, forced, implementations, pack_table
from halut.ops.core import dispatch
from tests.kernels.contract_cases import CASES, EMPTY, PRIVATE, ROUNDED, Case

CPU = torch.device("cpu")
ORACLE = "torch"


def variants(operation: str) -> list[tuple[str, str | None]]:
    """(implementation, level) of all but the torch one; compiled ones on every level."""
    results: list[tuple[str, str | None]] = []
    for name in dispatch.available(operation):
        if name == "cpu":
            results += [(name, level) for level in cpu.cpu_capabilities()]
        elif name != ORACLE:
            results.append((name, None))
    return results


def run(operation: str, name: str, case: Case) -> Any:
    """The answers of one implementation; None where it does not take these arguments."""
    with forced(name):
        try:
            if operation.endswith("_layer"):
                at = next(i for i, value in enumerate(case) if value is EMPTY)
                case = (*case[:at], pack_table(case[at - 1]), *case[at + 1 :])
            return dispatch.run(operation, CPU, *case)
        except HalutError as error:
            if "no implementation of" in str(error):
                return None
            raise


def tensors(answer: Any) -> Iterator[torch.Tensor]:
    yield from (answer,) if isinstance(answer, torch.Tensor) else answer


def compare(operation: str, answer: Any, expected: Any, case: Case) -> None:
    for actual, reference in zip(tensors(answer), tensors(expected), strict=True):
        shapes = [tuple(v.shape) if isinstance(v, torch.Tensor) else v for v in case]
        assert actual.dtype == reference.dtype, shapes
        assert actual.shape == reference.shape, shapes
        if operation in ROUNDED:
            size = float(reference.abs().max()) if reference.numel() else 1.0
            torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-5 * max(1.0, size))
        else:
            assert torch.equal(actual, reference), shapes


def test_every_operation_has_cases():
    known = {*CASES, *PRIVATE}
    missing = sorted(set(implementations()) - known)
    assert not missing, f"add inputs of {missing} to contract_cases.py"
    for operation in CASES:
        assert ORACLE in dispatch.available(operation)
        assert any(run(operation, ORACLE, case) is not None for case in CASES[operation]())


@pytest.mark.parametrize("operation", sorted(CASES))
@pytest.mark.parametrize("threads", [1, 3])
def test_all_implementations_agree(operation, threads, set_threads):
    implementations = variants(operation)
    if not implementations:
        pytest.skip(f"{operation} has one implementation")
    set_threads(threads)
    taken = dict.fromkeys(implementations, 0)
    for case in CASES[operation]():
        expected = run(operation, ORACLE, case)
        for name, level in implementations:
            with cpu.use_cpu_capability(level or cpu.cpu_capabilities()[-1]):
                answer = run(operation, name, case)
            if answer is not None:
                taken[name, level] += 1
                compare(operation, answer, expected, case)
    # A portable build leaves some operations to torch.
    assert all(taken.values()) or len(cpu.cpu_capabilities()) == 1, (
        f"some take none of the cases: {taken}"
    )


@pytest.mark.parametrize("operation", sorted(CASES))
def test_answers_stay_on_the_inputs_device(operation):
    """Whatever the default device: none of what a kernel writes to may lie elsewhere."""
    case = next(case for case in CASES[operation]() if run(operation, "torch", case) is not None)
    for name in dispatch.available(operation):
        expected = run(operation, name, case)
        if expected is None:
            continue
        with torch.device("meta"):
            answer = run(operation, name, case)
        compare(operation, answer, expected, case)
