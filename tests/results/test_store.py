"""The store of results: appended by many, read whole, nothing dropped without a word."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from halut.errors import HalutError
from halut.results.record import MIGRATIONS, Record, parse
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
    assert reading.problems == ["1 record was measured again; the newest of each counts"]


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
    assert "schema 99, of a newer version of halut" in reading.problems[0]


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
        ({"figures": 3}, "a damaged record: figures is 3"),
        ({"figures": {"lost": "1"}}, "a damaged record: the figure lost is '1'"),
        ({"seed": None}, "a damaged record: seed is None"),
        ({"layer": "fc"}, "a damaged record: unknown field 'layer'"),
        ({"schema": None}, "a damaged record: its schema is None"),
        ({"site": "conv"}, "a damaged record: its key is"),
    ],
)
def test_wrong_records_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HalutError, match=message):
        parse(json.dumps({**json.loads(record().line()), **change}))


def test_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(HalutError, match="no such store"):
        Store(tmp_path / "none").read()
    assert Store(tmp_path / "none").keys() == set()


def test_an_older_schema_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = json.loads(record(lost=1.0).line())
    old = {**now, "schema": 0, "layer": now["site"], "key": "another"}
    del old["site"]

    def to_1(content: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in content.items() if k != "layer"}, "site": content["layer"]}

    (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n")
    assert Store(tmp_path).read().problems == [
        "old.jsonl, line 1: schema 0, which nothing brings to schema 1"
    ]
    monkeypatch.setitem(MIGRATIONS, 0, to_1)
    reading = Store(tmp_path).read()
    assert (reading.records, reading.problems) == ([record(lost=1.0)], [])

    del old["layer"]
    (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n")
    assert Store(tmp_path).read().problems == [
        "old.jsonl, line 1: a damaged record of schema 0: KeyError('layer')"
    ]


def test_lines_that_fail_alike_are_counted(tmp_path: Path) -> None:
    line = json.dumps({**json.loads(record().line()), "schema": 99})
    (tmp_path / "new.jsonl").write_text(f"{record().line()}\n{line}\n{line}\n")

    (problem,) = Store(tmp_path).read().problems

    assert problem.startswith("new.jsonl, line 2 (and 1 more): schema 99, of a newer version")


def test_bytes_that_changed_are_named(tmp_path: Path) -> None:
    line = record("conv").line()
    (tmp_path / "a.jsonl").write_bytes(
        b"\xff\x00\n" + line.replace('"conv"', '"conb"').encode() + b"\n" + line.encode() + b"\n"
    )

    reading = Store(tmp_path).read()

    assert reading.records == [record("conv")]
    assert [problem.split(":")[0] for problem in reading.problems] == [
        "a.jsonl, line 1",
        "a.jsonl, line 2",
    ]
    assert "its key is" in reading.problems[1]


def test_a_file_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    Store(tmp_path).append(record())
    (tmp_path / "broken.jsonl").mkdir()

    reading = Store(tmp_path).read()

    assert reading.records == [record()]
    assert reading.problems == ["broken.jsonl: cannot be read: Is a directory"]


def test_after_a_failed_write_another_file_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.append(record("first"))
    (file,) = tmp_path.iterdir()

    def full(descriptor: int) -> None:
        with file.open("ab") as torn:
            torn.truncate(file.stat().st_size - 9)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as error:
            store.append(record("second"))
    assert error.value.filename == str(file)
    store.append(record("third"))

    reading = store.read()

    assert {each.site for each in reading.records} == {"first", "third"}
    assert len(reading.problems) == 1


def test_a_fork_has_a_file_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(record("parent"))
    child = multiprocessing.get_context("fork").Process(target=store.append, args=(record("fork"),))
    child.start()
    child.join()

    assert len(list(tmp_path.iterdir())) == 2
    assert {each.site for each in store.read().records} == {"parent", "fork"}


def test_where_nothing_can_be_written_is_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "results")
    store.prepare()
    assert list(store.path.iterdir()) == []

    def refused(path: Path, **_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(OSError, match="Read-only file system") as error:
        store.prepare()
    assert error.value.filename == str(store.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file").prepare()


def test_mappings_are_kept_as_json_has_them() -> None:
    network = {"model": "resnet8", "options": {"size": (1, 2)}, "weights": "abc"}
    data = {"name": "digits", "split": "val", "samples": 10, "digest": "def"}
    made = Record("cost", network, data, {}, settings={"x": float("nan")}, detail={1: (2,)})

    assert made.network["options"] == {"size": [1, 2]}
    assert (made.settings, made.detail) == ({"x": None}, {"1": [2]})
    assert parse(made.line()) == made
    with pytest.raises(HalutError, match=r"settings.path of a record is PosixPath"):
        Record("cost", network, data, {}, settings={"path": Path("x")})


def append_some(path: Path, process: int, count: int) -> None:
    store = Store(path)
    for index in range(count):
        store.append(record(f"{process}.{index}", lost=float(index)))


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=append_some, args=(tmp_path, n, 25)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    reading = Store(tmp_path).read()

    assert reading.problems == []
    sites = {each.site for each in reading.records}
    assert sites == {f"{process}.{index}" for process in range(8) for index in range(25)}


def test_keys_follow_what_others_append(tmp_path: Path) -> None:
    ours, theirs = Store(tmp_path / "results"), Store(tmp_path / "results")
    assert ours.keys() == set()
    for site in ("a", "b"):
        theirs.append(record(site))
        assert record(site).key in ours
    ours.append(record("c"))
    assert ours.keys() == {record(site).key for site in "abc"} == theirs.keys()
    assert record("d").key not in ours


def test_keys_take_a_line_in_once_it_is_complete(tmp_path: Path) -> None:
    store, line = Store(tmp_path), record("b").line()
    file = tmp_path / "another.jsonl"
    file.write_text(f"{record('a').line()}\n{line[:40]}")
    assert store.keys() == {record("a").key}
    with file.open("a") as stream:
        stream.write(f"{line[40:]}\n{line[:9]}\n{record('c').line()}\n")  # one is damaged
    assert store.keys() == {record(site).key for site in "abc"}


def test_lines_are_read_once_for_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, lines = Store(tmp_path), []
    monkeypatch.setattr(
        "halut.results.store.parse", lambda line: (lines.append(line), parse(line))[1]
    )
    for site in "abc":
        store.append(record(site))
        assert record(site).key in store
        assert record("d").key not in store
    assert len(lines) == 3


def test_processes_at_work_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "results"
    with Store(path).at_work() as first, Store(path).at_work() as second:
        assert (first, second) == (False, True)
        assert Store(path).read().records == []
    with Store(path).at_work() as others:
        assert not others
        (left_behind,) = path.iterdir()
        killed = left_behind.rename(path / "killed.active")
    with Store(path).at_work() as others:
        assert others
    os.utime(killed, (0, 0))
    with Store(path).at_work() as others:
        assert not others
