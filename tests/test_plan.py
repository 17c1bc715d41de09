"""Plans: JSON and back, and every file that is none."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.replace.policy import resolve, simple_rules
from halut.sites.find import find_sites
from halut.sites.plan import VERSION, Plan


@pytest.fixture
def plan():
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=(1, 2)), nn.Conv2d(4, 4, 3, padding="same", groups=2),
        nn.Flatten(), nn.Linear(4 * 30, 6), nn.Linear(6, 2),
    )  # fmt: skip
    sites, _ = find_sites(network, torch.zeros(1, 2, 5, 4))
    plan = resolve(sites, simple_rules(sites), "tree", {"K": 8}, model={"name": "m"})
    return plan.with_stages({"1": 1, "3": 0})


def test_json_and_back(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["version"] == VERSION
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]  # no temporary file


def test_stages(plan):
    assert plan.stages == 2
    assert [e.site.name for e in plan.stage(0)] == ["3"]
    assert [e.site.name for e in plan.replaced] == ["1", "3"]
    assert plan["0"].stage is None
    assert [e.site.name for e in plan] == ["0", "1", "3", "4"]
    with pytest.raises(HalutError, match="no site 'x'"):
        plan["x"]


@pytest.mark.parametrize("version", [VERSION + 1, 0, None, "1"])
def test_another_version(plan, tmp_path, version):
    fields = {**plan.to_dict(), "version": version}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(HalutError, match=f"plan.json: plan version {version!r} cannot be read"):
        Plan.load(path)


def damaged(fields, *path_and_value):
    *path, last, value = path_and_value
    inner = fields
    for key in path:
        inner = inner[key]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return fields


@pytest.mark.parametrize(
    "damage",
    [
        ("entries", KeyError),
        ("model", KeyError),
        ("model", 3),
        ("entries", 7),
        ("entries", ["x"]),
        ("entries", 0, []),
        ("entries", 0, "site", KeyError),
        ("entries", 0, "site", []),
        ("entries", 0, "site", "extra", 1),
        ("entries", 0, "site", "geometry", [1]),
        ("entries", 0, "site", "geometry", "kernel", True),
        ("entries", 0, "site", "geometry", "stride", [1]),
        ("entries", 0, "site", "geometry", "padding", "valid"),
        ("entries", 0, "site", "D", KeyError),
        ("entries", 0, "site", "rows", None),
        ("entries", 0, "site", "M", 0),
        ("entries", 0, "site", "groups", True),
        ("entries", 0, "site", "name", 3),
        ("entries", 1, "reason", None),
        ("entries", 1, "options", [1]),
        ("entries", 1, "operator", None),
        ("entries", 1, "stage", "first"),
        ("entries", 1, "stage", -1),
        ("unsupported", 5),
    ],
    ids=str,
)
def test_fields_that_are_missing_or_wrong(plan, damage):
    with pytest.raises(HalutError, match=r"here\.json: not a plan"):
        Plan.from_dict(damaged(json.loads(json.dumps(plan.to_dict())), *damage), "here.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe\x00", b'"plan"'])
def test_a_damaged_file(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(HalutError, match=str(path)):
        Plan.load(path)


def test_a_truncated_file_at_every_length(plan, tmp_path):
    plan.save(tmp_path / "whole.json")
    whole = (tmp_path / "whole.json").read_bytes().rstrip()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.json").write_bytes(whole[:length])
        with pytest.raises(HalutError, match="damaged"):
            Plan.load(tmp_path / "cut.json")


def test_no_file(tmp_path):
    with pytest.raises(HalutError, match="no such plan"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(HalutError, match="cannot be read"):
        Plan.load(tmp_path)


def test_saving_replaces_whole_or_not_at_all(plan, tmp_path, monkeypatch):
    plan.save(tmp_path / "plan.json")
    before = (tmp_path / "plan.json").read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="full"):
        plan.with_stages({}).save(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
