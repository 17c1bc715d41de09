"""CuPy's own packing, symbol look-up and loading of our kernels, over a driver without a GPU."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytest.importorskip("cupy", reason="needs cupy-cuda13x")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="the driver is built by gcc")
def test_launches_through_cupy(built):
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "PYTEST_ADDOPTS": "",
    }
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "--tb=short", f"--kernels={built}", str(HERE / "driver" / "launches.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout[-2000:]
    assert int(passed[1]) > 300
    assert "skipped" not in done.stdout
