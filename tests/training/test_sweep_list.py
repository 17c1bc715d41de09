"""Files that list the configurations of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from halut.errors import HalutError
from halut.training.config.list_sweeper import ListSweeper
from halut.training.config.sweep_list import read_list


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "# a comment\nhalut=tree halut.C=8,16\n\n'policy.keep=[a,b c]'  # another\n"),
        ("a.yaml", "- halut=tree halut.C=8,16\n- ['policy.keep=[a,b c]']\n"),
    ],
)
def test_lines_and_yaml_say_the_same(tmp_path, name, text):
    entries = read_list(written(tmp_path, name, text))
    assert entries == [["halut=tree", "halut.C=8,16"], ["policy.keep=[a,b c]"]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "a.txt lists no configuration"),
        ("a.txt", "halut.C=4\n\nhalut.C=4\n", "a.txt, line 3 has the configuration of .*, line 1"),
        ("a.txt", "halut.C=4 halut.K\n", "a.txt, line 1: .*halut.K"),
        ("a.txt", "'halut.C=4\n", "a.txt, line 1: No closing quotation"),
        ("a.txt", "run_dir=runs/a\n", "line 1: run_dir is the whole sweep's"),
        ("a.txt", "hydra/launcher=slurm\n", "line 1: hydra/launcher is the whole sweep's"),
        ("a.yaml", "halut: tree\n", "a.yaml: a list of configurations is wanted"),
        ("a.yaml", "- halut.C=4\n- {halut: tree}\n", "a.yaml, entry 2: overrides KEY=VALUE"),
        ("a.yaml", "- [\n", "a.yaml: no YAML"),
    ],
)
def test_what_is_no_list_is_told_with_its_place(tmp_path, name, text, message):
    with pytest.raises(HalutError, match=message):
        read_list(written(tmp_path, name, text))


def test_no_file_is_told(tmp_path):
    with pytest.raises(HalutError, match=r"none.txt: cannot be read: No such file"):
        read_list(tmp_path / "none.txt")


def test_every_entry_is_combined_with_what_is_swept(tmp_path):
    path = written(tmp_path, "a.txt", "halut=tree halut.C=8,16\nhalut=pq schedule.epochs=2\n")
    typed = OverridesParser.create().parse_overrides(["seed=0,1", "schedule.epochs=0"])
    sweeper = ListSweeper(str(path))
    expected = [
        ["seed=0", "schedule.epochs=0", "halut=tree", "halut.C=8"],
        ["seed=0", "schedule.epochs=0", "halut=tree", "halut.C=16"],
        ["seed=1", "schedule.epochs=0", "halut=tree", "halut.C=8"],
        ["seed=1", "schedule.epochs=0", "halut=tree", "halut.C=16"],
        ["seed=0", "schedule.epochs=2", "halut=pq"],
        ["seed=1", "schedule.epochs=2", "halut=pq"],
    ]
    assert sweeper.split_arguments(typed, None) == [expected]
    assert sweeper.split_arguments(typed, 4) == [expected[:4], expected[4:]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["hydra/sweeper=list"], "hydra.sweeper.file"),
        (["hydra/sweeper=list", "hydra.sweeper.file=none.txt"], "none.txt: cannot be read"),
    ],
)
def test_a_list_that_is_not_there_is_told_in_a_line(train, tmp_path, options, message):
    outcome = train("-m", *options, f"run_dir={tmp_path / 'sweep'}")
    assert outcome.code == 1
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "sweep").exists()


def test_a_list_is_of_a_sweep(train, tmp_path):
    outcome = train("hydra/sweeper=list", "hydra.sweeper.file=a.txt", f"run_dir={tmp_path / 'a'}")
    assert outcome.code == 1
    assert "hydra/sweeper=list has no effect: this is one run; it needs a sweep: -m" in outcome.err
