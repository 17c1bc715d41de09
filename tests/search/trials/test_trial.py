"""Single trials: what is their fault, and which of them are one run."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from halut.errors import HalutError
from halut.search.trials.planner import Planner
from halut.search.trials.trial import Runner, TrialFailed, failing


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (HalutError("C must be in 1..27"), "C must be in 1..27"),
        (RuntimeError("boom"), "RuntimeError: boom"),
        (KeyError("nope"), "nope"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), "a: No such file"),
    ],
)
def test_whatever_a_network_raises_is_the_trials_failure(error, says):
    with pytest.raises(TrialFailed, match=says), failing():
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_ends_the_search(number):
    with pytest.raises(OSError, match="disk"), failing():
        raise OSError(number, "disk")


def test_the_same_words_in_another_order_are_the_same_run():
    runner = Runner(Planner(), Path("out"), None)
    words = ["seed=0", "halut=tree", "halut.V=4"]
    assert runner.run_dir(words) == runner.run_dir(words[::-1])
    assert runner.run_dir(words) != runner.run_dir([*words[:2], "halut.V=9"])
