"""Progress bars on a terminal, none elsewhere; one message for one error."""

from __future__ import annotations

import io

from rich.console import Console

from halut.training.logging import progress, run_progress
from halut.training.logging.run_progress import Part
from halut.training.parallel import distributed


def shown(monkeypatch, terminal: bool) -> str:
    """What a bar over three things writes."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    monkeypatch.setattr(progress, "console", console)
    with progress.progress_bar("capture layer1.conv1", 3) as done:
        for _ in range(3):
            done(1)
    return out.getvalue()


def test_a_terminal_sees_what_is_done(monkeypatch):
    out = shown(monkeypatch, terminal=True)
    assert "capture layer1.conv1" in out
    assert "3/3" in out


def test_files_and_pipes_see_no_bar(monkeypatch):
    assert shown(monkeypatch, terminal=False) == ""


def test_an_error_is_one_line_on_the_standard_error(capsys):
    distributed.print_error("no such thing; choose a, b")
    assert capsys.readouterr().err == "error: no such thing; choose a, b\n"


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_run(clock: Clock) -> run_progress.WholeRun:
    """A base of 100 batches, then two stages of 50 each."""
    run = run_progress.WholeRun(clock)
    stages = [Part(f"stage_0{i}", "tables", 50, f"stage {i + 1} of 2") for i in range(2)]
    run.begin([Part("base", "exact", 100), *stages])
    return run


def test_the_time_left_is_that_of_the_whole_run():
    clock = Clock()
    run = a_run(clock)
    assert run.seconds_left() is None  # nothing is measured
    with run.part("base"):
        run.at("epoch 1 of 2", 0.0)
        clock.now += 50  # half of 100 batches, a second each
        run.at("epoch 1 of 2", 0.5)
        assert run.seconds_left() == 50 + 50 + 50
        clock.now += 50
    with run.part("stage_00"):
        run.at("epoch 1 of 1", 0.0)
        clock.now += 50  # a batch of tables takes two
        run.at("epoch 1 of 1", 0.5)
        assert run.position == "stage 1 of 2, epoch 1 of 1"
        assert run.seconds_left() == 50 + 100
        assert run.line() == "stage 1 of 2, epoch 1 of 1, 2 min left"
        clock.now += 50
    with run.part("stage_01"):
        pass
    assert run.seconds_left() == 0


def test_a_fit_that_continues_in_its_middle_does_not_count_what_it_did_not_do():
    clock = Clock()
    run = a_run(clock)
    run.skip("base")
    with run.part("stage_00"):
        run.at("epoch 2 of 2", 0.8)
        clock.now += 10
        run.at("epoch 2 of 2", 0.9)  # 5 batches in 10 s
        assert abs(run.seconds_left() - (5 + 50) * 2) < 1e-6


def test_without_a_terminal_a_line_a_minute(monkeypatch):
    clock = Clock()
    run = a_run(clock)
    monkeypatch.setattr(progress, "run", run)
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=False))
    lines = []
    monkeypatch.setattr(progress.log, "info", lambda text, *args: lines.append(text % args))
    with run.part("stage_01"), progress.progress_bar("learn fc", 4) as did:
        for _ in range(4):
            clock.now += 40
            did(1)
    assert lines == [
        "stage 2 of 2, learn fc, 2 of 4",
        "stage 2 of 2, learn fc, 4 of 4",
    ]


def test_times_are_printed_in_readable_units():
    message = [run_progress.duration(seconds) for seconds in (0.2, 45, 700, 11_100)]
    assert message == ["1 s", "45 s", "12 min", "3 h 05 min"]


def test_the_log_of_a_run_names_kernels_once(train, tmp_path, capsys):
    quick = ("debug=smoke", "model.options.width=8", "policy.only=[stack3.conv2]")
    outcome = train(*quick, "baseline=false", f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    text = outcome.out + outcome.err
    assert text.count("kernels: ") == 1
    assert " runs on cpu by " not in text
    assert "v_num" not in text
    assert "Epoch 0/0" not in text
    assert "(stage 1 of 1)" in text
