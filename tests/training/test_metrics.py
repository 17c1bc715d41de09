"""metrics.csv and the logger that all Trainers of a run share."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping

import pytest
import torch

from halut.training.logging.metrics import MetricsCsv, RunLogger


class Memory:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, dict[str, float]]] = []
        self.closed = 0

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        self.rows.append((stage, step, dict(figures)))

    def close(self) -> None:
        self.closed += 1


def rows(path):
    with path.open(newline="") as file:
        return [(int(r["step"]), r["stage"], r["key"], r["value"]) for r in csv.DictReader(file)]


def test_one_figure_a_line_and_every_bit_of_it(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsCsv(path).log("stage_00", 3, {"train/loss": 0.1 + 0.2, "layers/a.0/drift": 1e-30})
    assert path.read_text().splitlines() == [
        "step,stage,key,value",
        "3,stage_00,train/loss,0.30000000000000004",
        "3,stage_00,layers/a.0/drift,1e-30",
    ]


def test_figures_that_are_no_numbers_are_kept(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsCsv(path).log("base", 0, {"a": math.nan, "b": math.inf})
    a, b = (float(row[3]) for row in rows(path))
    assert math.isnan(a)
    assert b == math.inf


def test_a_second_logger_appends(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsCsv(path).log("base", 0, {"a": 1})
    MetricsCsv(path).log("base", 1, {"a": 2})
    assert rows(path) == [(0, "base", "a", "1.0"), (1, "base", "a", "2.0")]


def test_rewind_drops_the_step_and_later_ones_only(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsCsv(path)
    for step in (0, 9, 10, 11, 100):
        log.log("stage_01", step, {"a": step})
    log.rewind(10)
    assert [row[0] for row in rows(path)] == [0, 9]
    log.log("stage_01", 10, {"a": 5})
    assert rows(path)[-1] == (10, "stage_01", "a", "5.0")


def test_rewind_keeps_the_figures_of_the_stage_as_a_whole(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsCsv(path)
    log.log("stage_01", 10, {"stage/val_accuracy_before": 90.0, "train/loss": 1.0})
    log.rewind(10)
    assert [row[2] for row in rows(path)] == ["stage/val_accuracy_before"]


@pytest.mark.parametrize("torn", ["7", "7,stage_00,train/lo", "7,stage_00,train/loss,0.25"])
def test_rewind_drops_a_torn_last_line(tmp_path, torn):
    path = tmp_path / "metrics.csv"
    log = MetricsCsv(path)
    log.log("stage_00", 6, {"train/loss": 0.5})
    with path.open("a") as file:
        file.write(torn)
    log.rewind(50)
    assert rows(path) == [(6, "stage_00", "train/loss", "0.5")]


def test_nothing_is_glued_to_a_torn_line_where_no_rewind_comes(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsCsv(path).log("base", 6, {"a": 0.5})
    with path.open("a") as file:
        file.write("7,ba")
    MetricsCsv(path).log("base", 8, {"a": 0.25})
    assert rows(path) == [(6, "base", "a", "0.5"), (8, "base", "a", "0.25")]


def test_rewind_of_an_empty_record_keeps_the_header(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsCsv(path).rewind(0)
    assert path.read_text() == "step,stage,key,value\n"


def test_steps_go_on_over_stages():
    memory = Memory()
    logger = RunLogger([memory])
    logger.stage = "base"
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.log_metrics({"train/loss": 0.5}, 4)
    logger.offset += 5
    logger.stage = "stage_00"
    logger.log_metrics({"stage/val_accuracy_before": 90.0})
    logger.log_metrics({"train/loss": 0.7}, 2)
    assert [(stage, step) for stage, step, _ in memory.rows] == [
        ("base", 0),
        ("base", 4),
        ("stage_00", 5),
        ("stage_00", 7),
    ]


def test_tensors_become_numbers_and_the_epoch_is_left_out():
    memory = Memory()
    logger = RunLogger([memory])
    logger.log_metrics({"a": torch.tensor(0.5), "b": 2, "epoch": 3}, 1)  # type: ignore[dict-item]
    logger.log_metrics({"epoch": 4}, 2)
    assert memory.rows == [("", 1, {"a": 0.5, "b": 2.0})]
    assert all(type(value) is float for value in memory.rows[0][2].values())


def test_only_the_main_rank_writes(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    memory = Memory()
    RunLogger([memory]).log_metrics({"a": 1.0}, 0)
    assert memory.rows == []


def test_rewind_counts_from_the_present_fit(tmp_path):
    path, memory = tmp_path / "metrics.csv", Memory()
    logger = RunLogger([MetricsCsv(path), memory])
    for step in (0, 10, 20):
        logger.log_metrics({"a": 1.0}, step)
    logger.offset = 8
    logger.rewind(2)
    assert [row[0] for row in rows(path)] == [0]
    assert len(memory.rows) == 3


def test_finish_closes_every_logger():
    loggers = [Memory(), Memory()]
    RunLogger(loggers).finish()
    assert [logger.closed for logger in loggers] == [1, 1]
