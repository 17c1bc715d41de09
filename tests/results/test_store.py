"""The store of results: appended by many, read whole, nothing dropped without a word."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from halut.errors import HalutError
from halut.results.record import Record, parse
from halut.results.store import Store


def record(site: str = "fc", time: str = "", **figures: float) -> Record:
    network = {"model": "resnet8", "options": {}, "weights": "abc"}
    data = {"name": "digits", "split": "val", "samples": 10, "digest": "def"}
    context = {"time": time}
    return Record("sensitivity", network, data, figures, site=site, context=context)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.append(record(lost=1.5))
    store.append(record("conv", lost=2.5))

    reading = Store(tmp_path / "results").read()

    assert reading.records == [record(lost=1.5), record("conv", lost=2.5)]
    assert reading.problems == []


def test_the_key_is_of_the_measurement_and_not_of_what_was_found() -> None:
    assert record(time="1", lost=1.0).key == record(time="2", lost=2.0).key
    assert record("fc").key != record("conv").key


def test_of_two_measurements_the_newest_counts_and_that_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for time, lost in (("2026-01-02", 2.0), ("2026-01-01", 1.0)):
        store.append(record(time=time, lost=lost))

    reading = store.read()

    assert [each.figures["lost"] for each in reading.records] == [2.0]
    assert reading.problems == ["1 records were measured again; the newest of each counts"]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(record(lost=1.0))
    (file,) = tmp_path.iterdir()
    with file.open("a") as torn:
        torn.write(record("conv").line()[:50])

    reading = store.read()

    assert reading.records == [record(lost=1.0)]
    (problem,) = reading.problems
    assert problem.startswith(f"{file.name}, line 2: no JSON")


def test_another_schema_is_named(tmp_path: Path) -> None:
    line = json.dumps({**json.loads(record().line()), "schema": 99})
    (tmp_path / "new.jsonl").write_text(line + "\n")

    reading = Store(tmp_path).read()

    assert reading.records == []
    assert "schema 99, of another version of halut" in reading.problems[0]


def test_figures_that_are_not_finite_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(record(lost=float("nan"), accuracy=90.0))

    (read,) = store.read().records

    assert read.figures == {"lost": None, "accuracy": 90.0}
    assert read.not_finite == ("lost",)


def _append(path: Path, writer: int) -> None:
    store = Store(path)
    for i in range(50):
        store.append(record(f"{writer}.{i}"))


def test_processes_append_at_once_and_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(tmp_path, i)) for i in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()

    reading = Store(tmp_path).read()

    assert len(reading.records) == 200
    assert reading.problems == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "guess"}, "unknown kind of record"),
        ({"score": "guess"}, "unknown score"),
        ({"figures": 3}, "a damaged record"),
    ],
)
def test_wrong_records_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HalutError, match=message):
        parse(json.dumps({**json.loads(record().line()), **change}))


def test_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(HalutError, match="no such store"):
        Store(tmp_path / "none").read()
    assert Store(tmp_path / "none").keys() == set()
