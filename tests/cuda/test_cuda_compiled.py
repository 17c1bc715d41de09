"""Every CUDA kernel compiles for the architectures we name, without a GPU, and does not spill."""

import json

import compiled
import pytest

pytestmark = pytest.mark.skipif(
    compiled.compiler() is None, reason="needs nvcc, or cuda-core with NVRTC"
)


@pytest.fixture(scope="module")
def resources():
    return compiled.resources()


def test_no_kernel_spills(resources, record_property, capsys):
    with capsys.disabled():
        print("\n" + "\n".join([compiled.version(), *compiled.lines(resources)]))
    record_property("cuda_resources", json.dumps(resources))
    for architecture, kernels in resources.items():
        for name, each in kernels.items():
            assert (each["spills"], each["stack"]) == (0, 0), (name, architecture, each)
            assert each["registers"] > 0


def test_blocks_fit_a_multiprocessor(resources):
    """48 KiB of shared memory need no opt-in; 65,536 registers hold a block of 256 threads."""
    for kernels in resources.values():
        for name, each in kernels.items():
            assert each["shared"] <= 48 << 10, name
            assert each["registers"] * 256 <= 65_536, name


def test_recorded_figures_name_the_same_kernels(resources):
    recorded = json.loads(compiled.RESOURCES.read_text())["kernels"]
    assert {a: set(kernels) for a, kernels in recorded.items()} == {
        a: set(kernels) for a, kernels in resources.items()
    }


def test_errors_of_the_compiler_are_not_overlooked(monkeypatch):
    monkeypatch.setattr(compiled.launch, "source", lambda name: "this is no CUDA C++;")
    with pytest.raises(Exception, match="error"):
        compiled.compiled("accumulate", "sm_80")
