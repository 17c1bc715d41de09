"""The kernels built against the launch shim, once per session."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from halut.ops.cuda import cubin, launch
from tests.cuda.shim.runner import Shim, compiler

SOURCES = sorted(path.stem for path in cubin.folder().glob("*.cu"))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kernel source, built."""
    if compiler() is None:
        pytest.skip("the launch shim needs g++ or clang++")
    folder = tmp_path_factory.mktemp("shim")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Shim(folder).build, SOURCES))
    return folder


@pytest.fixture
def shim(built: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Shim]:
    """shim(schedule) runs the kernels on the CPU from then on."""

    def use(schedule: str = "forward") -> Shim:
        runner = Shim(built, schedule)
        monkeypatch.setattr(launch, "launch", runner.launch)
        monkeypatch.setattr(launch, "bind", runner.bind)
        return runner

    return use
