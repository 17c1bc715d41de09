"""Plugins are imported for one test, and forgotten after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore

import halut.registry
from halut.codecs import codecs
from halut.data import datasets
from halut.encoders import encoders
from halut.models import models
from halut.plugins import loading
from halut.training.config import evaluate_config

STATE = [
    *(registry._entries for registry in (encoders, codecs, models, datasets)),
    *(halut.registry._origins, loading._modules, loading._packages, loading._failures),
]


def groups() -> list[dict[str, Any]]:
    """Hydra's choices of the groups to which plugins add some, and their schemas."""
    repo = ConfigStore.instance().repo
    chosen = [repo[group] for group in ("halut", "data", "model")]
    return [*chosen, *(group["schema"] for group in chosen)]


@pytest.fixture
def forget() -> Iterator[Callable[[], None]]:
    """A function after which this process has imported no plugin; called at the end as well."""
    evaluate_config.register()
    before = [dict(each) for each in STATE]
    choices = {id(each): set(each) for each in groups()}
    path, known = list(sys.path), set(sys.modules)

    def undo() -> None:
        for each, entries in zip(STATE, before, strict=True):
            each.clear()
            each.update(entries)
        for each in groups():
            for name in set(each) - choices[id(each)]:
                del each[name]
        sys.path[:] = path
        for name in set(sys.modules) - known:
            if name.startswith(("halut.plugins.file_modules.", "own_")):
                del sys.modules[name]

    yield undo
    undo()


@pytest.fixture(autouse=True)
def _isolated(forget, tmp_path, monkeypatch) -> None:
    """Every test of this folder runs in an empty one, and leaves no plugin behind."""
    monkeypatch.chdir(tmp_path)
