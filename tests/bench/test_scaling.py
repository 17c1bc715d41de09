"""What halut scaling computes from what it measured."""

from __future__ import annotations

import pytest

from halut.bench.scaling import computed, main
from halut.errors import HalutError


def entry(ranks: int, step: float, learning: float) -> dict[str, float]:
    figures = {"step_seconds": step, "learning_seconds": learning, "all_reduce_seconds": 0.1}
    return {"ranks": ranks, **figures}


def test_ratios_and_the_model_of_more_ranks():
    actual = computed([entry(1, 8.0, 30.0), entry(2, 5.0, 20.0)])
    assert actual["speed_up"]["2"] == {"step": 1.6, "learning": 1.5}
    assert actual["model_of_step_seconds"] == pytest.approx({"2": 4.1, "4": 2.15, "8": 1.175})
    assert "not measured" in actual["model"]


def test_without_one_rank_there_is_nothing_to_compare_with():
    assert computed([entry(2, 5.0, 20.0)]) == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--ranks 0", "'0' is not a number from 1"),
        ("--ranks x", "'x' is not a number from 1"),
        ("--steps 0", "'0' is not a number from 1"),
        ("--batch 1 --ranks 1,2", "--batch 1 leaves some of 2 ranks no image"),
    ],
)
def test_numbers_that_cannot_be_are_refused(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_an_unknown_network_is_refused_before_ranks_start():
    with pytest.raises(HalutError, match="unknown model 'nothing'"):
        main(["--model", "nothing"])
