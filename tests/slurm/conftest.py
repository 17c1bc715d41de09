"""One cluster for the tests of this folder; none of them runs where SLURM is missing."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.slurm.cluster import ROOT, Cluster, missing


@dataclass
class Jobs:
    """Batch jobs on a cluster, their output in one folder."""

    cluster: Cluster
    folder: Path
    cancelled: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """A submitting shell's: this cluster, loopback, one thread a process."""
        own = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": self.path}
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        return {**variables, **own, **self.cluster.environment}

    @property
    def path(self) -> str:
        """The checkout, then what the tests' own path has."""
        return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

    def submit(self, name: str, script: str, *options: str) -> str:
        """Submit a script of bash lines; returns the job's id."""
        file = self.folder / f"{name}.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        command = ["sbatch", "--parsable", "--open-mode=append", f"--output={self.log(name)}"]
        done = subprocess.run(
            [*command, *options, str(file)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log(self, name: str) -> Path:
        """What the job of that name writes."""
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text() if self.log(name).exists() else ""

    def fields(self, job: str) -> dict[str, str]:
        """What scontrol knows about a job."""
        shown = self.cluster.ask("scontrol", "show", "job", "--oneliner", job)
        return dict(pair.split("=", 1) for pair in shown.split() if "=" in pair)

    def until(self, there, what: str, name: str, seconds: float = 300) -> None:
        """Wait for a condition of the outside world."""
        stop = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < stop, f"{what} never came\n{self.said(name)}"
            time.sleep(0.05)

    def finished(self, job: str, name: str, seconds: float = 300) -> str:
        """The job's last state, once it has one."""
        over = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")
        self.until(lambda: self.fields(job).get("JobState") in over, "the end", name, seconds)
        return self.fields(job)["JobState"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with tempfile.TemporaryDirectory(prefix="halut-slurm-") as folder:
        actual = Cluster(Path(folder))
        actual.start()
        try:
            yield actual
        finally:
            actual.stop()


@pytest.fixture(scope="module")
def jobs(cluster, tmp_path_factory) -> Jobs:
    return Jobs(cluster, tmp_path_factory.mktemp("jobs"))
