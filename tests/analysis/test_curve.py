"""A sweep's picture: what is drawn where, and that it is drawn."""

from __future__ import annotations

import sys

import pytest
from written_runs import write_run

from halut.analysis.curve import curves, draw, one_per_seed, positions
from halut.analysis.sweep import gather
from halut.errors import HalutError

pytest.importorskip("matplotlib")


@pytest.fixture
def folder(tmp_path):
    for seed in (0, 1):
        for width, test in ((4, 80 + seed), (8, 96), (32, 97 + seed)):
            values = {"halut__width": width, "schedule__epochs": 0, "seed": seed}
            write_run(tmp_path / f"{width}-{seed}", test, exact=98 - seed, **values)
            values["schedule__epochs"] = 3
            write_run(tmp_path / f"{width}-{seed}-3", test + 1, exact=98 - seed, **values)
    return tmp_path


def test_curves_positions_and_the_exact_network(folder):
    sweep = gather(folder)
    assert positions(sweep) == ({4: 4.0, 8: 8.0, 32: 32.0}, True)
    drawn = curves(sweep)
    assert list(drawn) == ["post-training", "schedule.epochs 3"]
    assert [point.mean["test_accuracy"] for point in drawn["post-training"]] == [80.5, 96, 97.5]
    assert sorted(one_per_seed(sweep, "exact_accuracy")) == [97, 98]
    write_run(folder / "other", 90, exact=60, halut__width=8, schedule__epochs=1, seed=0)
    assert one_per_seed(gather(folder), "exact_accuracy") == []


def test_names_are_set_side_by_side(tmp_path):
    for name in ("log", "binary"):
        write_run(tmp_path / name, 90, halut__name=name)
    assert positions(gather(tmp_path)) == ({"binary": 0.0, "log": 1.0}, False)


def colours(path) -> set[tuple[int, ...]]:
    from PIL import Image

    with Image.open(path) as image:
        assert image.size == (1200, 750)
        return {colour for _, colour in image.convert("RGB").getcolors(2**20)}


def test_the_picture_shows_every_curve(folder):
    draw(gather(folder), folder / "curve.png")
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0, 0, 0)} <= colours(folder / "curve.png")
    assert (0x00, 0x9E, 0x73) not in colours(folder / "curve.png")  # there is no third


def test_without_matplotlib_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HalutError, match=r"pip install 'halut\[plot\]'"):
        draw(gather(folder), folder / "curve.png")
    assert not (folder / "curve.png").exists()


def test_runs_that_differ_in_nothing_have_no_picture(tmp_path):
    write_run(tmp_path / "a", 90, seed=0)
    write_run(tmp_path / "b", 91, seed=1)
    with pytest.raises(HalutError, match="no picture"):
        draw(gather(tmp_path), tmp_path / "curve.png")
