"""Fixtures every test may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other
if "PYTEST_XDIST_WORKER" in os.environ:  # one core each; their subprocesses too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from halut.plugins import load_plugins


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "a plugin whose entries are tested, too"
    parser.addoption("--halut-plugin", action="append", default=[], help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Import plugins before tests are collected: the suites over the registries have cases for
    every entry.
    """
    if plugins := config.getoption("--halut-plugin"):
        load_plugins(*plugins)


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no data root, no hub and no rank of the machine they run on."""
    for name in ("HALUT_DATA", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@dataclass
class Outcome:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def train(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Outcome]]:
    """`python train.py ARGS` in this process."""
    from hydra.core.global_hydra import GlobalHydra

    from halut.training.main import main

    def run(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        written = capsys.readouterr()
        return Outcome(code, written.out, written.err)

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)
    GlobalHydra.instance().clear()
