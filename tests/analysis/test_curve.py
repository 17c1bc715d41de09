"""A sweep's picture: what is drawn where, and that it is drawn."""

from __future__ import annotations

import json
import sys

import pytest

from halut.analysis.sweep_plot import curves, draw, figure, one_per_seed, positions
from halut.analysis.sweep_results import gather
from halut.cli import main
from halut.errors import HalutError
from tests.analysis.written_runs import write_run

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


def colors(path) -> set[tuple[int, ...]]:
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
        assert width == 1200
        assert 750 < height < 900  # the legend's lines come on top
        return {color for _, color in image.convert("RGB").getcolors(2**20)}


def test_the_picture_shows_every_curve(folder):
    draw(gather(folder), folder / "curve.png")
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0, 0, 0)} <= colors(folder / "curve.png")
    assert (0x00, 0x9E, 0x73) not in colors(folder / "curve.png")  # there is no third


def test_without_matplotlib_one_error_names_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HalutError, match=r"pip install 'halut\[plot\]'"):
        draw(gather(folder), folder / "curve.png")
    assert not (folder / "curve.png").exists()


def test_runs_that_differ_in_nothing_have_no_picture(tmp_path):
    write_run(tmp_path / "a", 90, seed=0)
    write_run(tmp_path / "b", 91, seed=1)
    with pytest.raises(HalutError, match="no picture"):
        draw(gather(tmp_path), tmp_path / "curve.png")


@pytest.fixture
def sized(tmp_path):
    """Two operators with 1 to 4 codebooks; bytes grow with them, and compares."""
    for operator in ("tree", "pq"):
        for C in (4, 1, 2):
            run = tmp_path / f"{operator}{C}"
            write_run(run, 80 + C, halut__name=operator, halut__C=C)
            report = json.loads((run / "report.json").read_text())
            report["memory"] = {"after": {"total": 1000 * C + len(operator), "tables": 100 * C}}
            (run / "report.json").write_text(json.dumps(report))
    return tmp_path


@pytest.mark.parametrize(("x", "first"), [("bytes", 1004), ("memory.after.tables", 100)])
def test_any_figure_can_be_the_axis(sized, x, first):
    sweep = gather(sized, x)
    assert (sweep.x, sweep.lines) == (x, ["halut.name"])
    drawn = figure(sweep).axes[0]
    lines = [bar.lines[0] for bar in drawn.containers]
    assert len(lines) == 2
    for line in lines:
        assert list(line.get_xdata()) == sorted(line.get_xdata())  # joined in the figure's order
        assert list(line.get_ydata()) == [81, 82, 84]
    assert min(min(line.get_xdata()) for line in lines) in (first, 1002)
    assert drawn.get_xlabel() == ("bytes of the network" if x == "bytes" else x)


def test_the_configuration_s_x_can_be_a_figure(sized):
    for path in sized.glob("*/config.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "sweep": {**config["sweep"], "x": "bops"}}))
    assert gather(sized).x == "bops"


@pytest.mark.parametrize("name", ["bites", "memory.after.tabels", "halut.Q", "ptq.int3.bytes"])
def test_an_unknown_figure_is_refused_with_the_choices(sized, capsys, name):
    assert main(["table", str(sized), "--x", name]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in (f"x={name}", "halut.name", "halut.C", "bytes", "operations", "report.json"):
        assert part in error
    assert not (sized / "sweep.json").exists()
    assert main(["table", str(sized), "--y", name]) == 1
    assert "normalized_mse" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "start"), [("a.svg", b"<?xml"), ("b.pdf", b"%PDF"), ("c.PNG", b"\x89PNG")]
)
def test_the_suffix_is_the_format(sized, tmp_path, name, start):
    assert main(["table", str(sized), "--x", "bytes", "--picture", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["curve.gif", "curve", ".png", "curve.svg.gz"])
def test_other_suffixes_are_refused(sized, capsys, name):
    assert main(["table", str(sized), "--picture", name]) == 1
    assert "ends in one of: .png, .svg, .pdf" in capsys.readouterr().err


@pytest.mark.parametrize("taken", ["curve.png", "sweep.json"])
def test_what_cannot_be_written_is_one_line_after_the_table(sized, capsys, taken):
    (sized / taken).mkdir()
    assert main(["table", str(sized)]) == 1
    output = capsys.readouterr()
    assert f"{taken} cannot be written" in output.err
    assert output.err.count("\n") == 1
    assert "84.00" in output.out


@pytest.mark.parametrize("curves", [2, 14])
@pytest.mark.parametrize("long", [False, True])
def test_the_legend_lies_outside_the_plot(tmp_path, curves, long):
    for index in range(curves):
        for C in (1, 2):
            name = f"operator{index}" + "-and-its-very-long-name" * 4 * long
            write_run(tmp_path / f"{index}-{C}", 80 + index, halut__name=name, halut__C=C)
    picture = figure(gather(tmp_path))
    picture.canvas.draw()
    plot, (legend,) = picture.axes[0].get_tightbbox(), picture.legends
    box = legend.get_window_extent()
    assert not box.overlaps(plot)
    assert picture.bbox.x0 <= box.x0 < box.x1 <= picture.bbox.x1
    assert picture.bbox.y0 <= box.y0
    assert picture.axes[0].get_window_extent().height > 300  # of 750 points: the plot is no strip
    assert len(legend.get_texts()) == curves + 1  # the exact network
