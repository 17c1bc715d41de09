"""Every CUDA kernel compiles for the architectures we name, without a GPU, and does not spill."""

import json

import pytest

from halut.errors import HalutError
from halut.ops.cuda import cubin
from tests.cuda import compiled

pytest.importorskip("cupy", reason="needs cupy-cuda13x, whose NVRTC compiles the kernels")


@pytest.fixture(scope="module")
def resources():
    return compiled.resources()


@pytest.mark.slow
def test_no_kernel_spills(resources, record_property, capsys):
    with capsys.disabled():
        head = f"NVRTC {cubin.version()} {' '.join(cubin.OPTIONS)}"
        print("\n" + "\n".join([head, *compiled.lines(resources)]))
    record_property("cuda_resources", json.dumps(resources))
    for architecture, kernels in resources.items():
        for name, each in kernels.items():
            assert (each["spills"], each["stack"]) == (0, 0), (name, architecture, each)
            assert each["registers"] >= 8, name  # fewer: the compiler's line was not read


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
    monkeypatch.setattr(cubin, "source", lambda name: "this is no CUDA C++;")
    with pytest.raises(HalutError, match=r"accumulate\.cu does not compile for sm_80: .*error"):
        compiled.compiled("accumulate", "sm_80")


@pytest.mark.slow
def test_subnormal_numbers_stay(tmp_path):
    """No instruction flushes them: each one that can says so by its suffix in the PTX."""
    for source in compiled.SOURCES:
        text = cubin.compile_source(source, "compute_80")[0].decode()
        assert ".f32" in text or source.startswith(("bit", "sign"))
        # Within expf, which scales its argument: its own result keeps what is subnormal.
        assert ".ftz" not in text.replace("ex2.approx.ftz", ""), source


def test_nothing_of_the_toolkit_is_needed():
    for source in compiled.SOURCES:
        assert "#include" not in cubin.source(source)


def test_binaries_are_kept_by_what_they_are_made_of(monkeypatch, tmp_path):
    monkeypatch.setattr(cubin, "cache_folder", lambda: tmp_path)
    first = cubin.cubin("mxint8", "sm_90")
    content = first.read_bytes()
    assert content[:4] == b"\x7fELF"
    first.write_bytes(b"kept")
    assert cubin.cubin("mxint8", "sm_90").read_bytes() == b"kept"
    assert cubin.cubin("mxint8", "sm_90", fresh=True).read_bytes()[:4] == b"\x7fELF"
    others = {cubin.cubin("mxint8", "sm_80"), cubin.cubin("bit_planes", "sm_90")}
    monkeypatch.setattr(cubin, "OPTIONS", (*cubin.OPTIONS, "--fmad=false"))
    others.add(cubin.cubin("mxint8", "sm_90"))
    monkeypatch.setattr(cubin, "version", lambda: "99.0")
    others.add(cubin.cubin("mxint8", "sm_90"))
    assert len(others) == 4
    assert first not in others
    assert {path.suffix for path in tmp_path.iterdir()} == {".cubin"}  # no temporary file is left


def test_a_cache_that_cannot_be_written_is_temporary(monkeypatch, tmp_path):
    (tmp_path / "halut").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cubin.cache_folder.__wrapped__()
    assert path.is_dir()
    assert tmp_path not in path.parents


@pytest.mark.parametrize(
    ("capability", "arch"), [((8, 0), "sm_80"), ((9, 0), "sm_90"), ((99, 0), "compute_")]
)
def test_architectures(capability, arch):
    assert cubin.architecture(capability).startswith(arch)


def test_a_gpu_that_is_too_old():
    with pytest.raises(HalutError, match=r"the GPU has 3\.5"):
        cubin.architecture((3, 5))
