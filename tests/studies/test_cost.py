"""`halut cost`: every kind of subject, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from halut.analysis import energy
from halut.analysis.plan_cost import plan_cost
from halut.cli import main
from halut.data import datasets
from halut.inference import onednn
from halut.results.store import Store
from halut.studies import cost as program
from halut.studies import measuring
from halut.studies.cost import planned_of
from halut.studies.cost_tables import sites_table, variants_table


def cost(capsys, *arguments) -> str:
    """What the verb prints; it must succeed."""
    code = main(["cost", *map(str, arguments)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def refusal(capsys, *arguments) -> str:
    """The one line of an error."""
    assert main(["cost", *map(str, arguments)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def content(capsys, tmp_path, *arguments):
    cost(capsys, *arguments, "--json", tmp_path / "cost.json")
    return json.loads((tmp_path / "cost.json").read_text())


def test_the_digits_network_by_hand(capsys, tmp_path):
    """ResNet-8 on 8x8 images; of its second layer: 64 positions, 16 channels of 9 inputs."""
    written = content(capsys, tmp_path, "policy=conv3x3", "halut.K=16")
    by_variant = {v["variant"]: v for v in written["variants"]}
    assert list(by_variant) == ["exact", "int8", "int4", "plan"]
    layer = next(s for s in by_variant["plan"]["sites"] if s["site"] == "stack1.conv1")
    assert (layer["rows"], layer["D"], layer["M"], layer["groups"]) == (64, 144, 16, 1)
    assert layer["figures"]["encode_compares"] == 64 * 16 * 4
    assert layer["figures"]["lookups"] == 64 * 16 * 16
    assert layer["figures"]["table_bytes"] == 16 * 16 * 16
    exact = next(s for s in by_variant["exact"]["sites"] if s["site"] == "stack1.conv1")
    assert exact["figures"]["macs"] == 64 * 144 * 16
    assert exact["operator"] == "keep"
    assert written["energies"]["name"] == "45nm"


def test_the_tables_name_every_variant_site_and_source(capsys):
    out = cost(capsys, "policy=conv3x3", "--energy", "7nm")
    for text in ("float32", "INT8", "INT4", "here (tree)", "stack3.conv2", "stays: last layer"):
        assert text in out
    assert "7nm, N. Jouppi et al." in out


def test_a_terminal_of_80_columns_shows_every_figure_whole():
    planned = planned_of(["policy=conv3x3"])
    costs = plan_cost(planned.plan, planned.network)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(sites_table(costs, 80), variants_table(planned.plan, costs, 80))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for figure in ("stack3.conv2", "9.22 k", "313 k", "782 M", "float32"):
        assert figure in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("model=resnet50", "policy=conv3x3", "halut.C=32"),
        ("model=any", "model.name=regnetx_002", "data=imagenet"),  # grouped, strided, 1x1
        ("model=tiny_vit", "halut=integer", "policy.kinds=[linear,attention]", "policy.share=true"),
        ("model=ds_cnn", "data=speech_commands", "policy=pointwise", "halut=pq"),
        ("model=resnet20", "data=cifar100", "halut=chain", "halut.codecs=[prune,integer]"),
    ],
)
def test_networks_without_their_data_and_weights(capsys, arguments, monkeypatch):
    monkeypatch.delenv("HALUT_DATA", raising=False)
    assert "the network, of one sample" in cost(capsys, *arguments)


def test_published_weights_are_not_asked_for(capsys):
    planned = planned_of(["model=resnet50", "policy=conv3x3"])
    assert planned.plan.model["input_shape"] == [3, 224, 224]
    assert planned.plan.model["num_classes"] == 1000
    assert len(planned.plan.replaced) == 16


def test_shapes_that_options_decide_are_those_of_the_data():
    """Of data that is here: the digits."""
    data = datasets["digits"]()
    data.setup()
    assert data.config.expected_shape() == (data.input_shape, data.num_classes)


def test_speech_features_are_as_many_as_the_frontend_makes():
    pytest.importorskip("librosa")
    import torch

    from halut.data.audio import Frontend

    for options in ({}, {"coefficients": 0, "mels": 20}, {"window_ms": 25.0, "stride_ms": 10.0}):
        config = datasets["speech_commands"].Config.of(options)
        features = Frontend(config.features())(torch.zeros(2, 16000))
        assert config.expected_shape() == (tuple(features.shape[1:]), 12)


def test_a_shape_of_one_s_own(capsys, tmp_path):
    written = content(capsys, tmp_path, "--shape", "3,16,16", "--classes", "7")
    assert written["model"]["input_shape"] == [3, 16, 16]
    assert written["model"]["num_classes"] == 7
    line = refusal(capsys, "data=image_folder", "data.root=nowhere")
    assert line.endswith("or give --shape C,H,W and --classes N")
    cost(capsys, "data=image_folder", "data.root=nowhere", "--shape", "1,8,8", "--classes", "2")


def test_a_plan_file_says_all(capsys, tmp_path):
    planned = planned_of(["policy=conv3x3", "halut.C=4"])
    folder = tmp_path / "run"
    planned.plan.save(folder / "plan.json")
    (folder / "config.json").write_text(json.dumps({"data": {"name": "digits"}}))
    for subject, run in ((folder, str(folder)), (folder / "plan.json", None)):
        again = planned_of([str(subject)])
        assert again.plan.digest == planned.plan.digest
        assert again.run == run
        assert again.data == ("digits" if run else None)
    expected = content(capsys, tmp_path, "policy=conv3x3", "halut.C=4")["variants"]
    assert content(capsys, tmp_path, folder)["variants"] == expected
    plan = f"plan={folder / 'plan.json'}"
    assert content(capsys, tmp_path, "model=resnet8", plan)["variants"] == expected
    assert "leave out halut.C=8" in refusal(capsys, folder, "halut.C=8")
    assert "leave out --shape" in refusal(capsys, folder, "--shape", "3,8,8")
    assert "leave out --classes" in refusal(capsys, folder, "--classes", "3")


def test_a_row_for_every_site_and_variant(capsys, tmp_path):
    cost(capsys, "policy=conv3x3", "--csv", tmp_path / "cost.csv")
    with (tmp_path / "cost.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sites = len(planned_of(["policy=conv3x3"]).plan.entries)
    assert len(rows) == 4 * (1 + sites)
    whole = [row for row in rows if not row["site"]]
    assert [row["variant"] for row in whole] == ["exact", "int8", "int4", "plan"]
    for row in whole:
        parts = [r for r in rows if r["site"] and r["variant"] == row["variant"]]
        assert sum(float(r["operations"]) for r in parts) == float(row["operations"])


def test_records_are_appended_once(capsys, tmp_path):
    store = tmp_path / "results"
    command = ("policy=conv3x3", "halut.C=4", "--results", store)
    assert "44 records added" in cost(capsys, *command)
    assert "0 records added" in cost(capsys, *command)
    assert "records added" in cost(capsys, *command, "--energy", "7nm")
    reading = Store(store).read()
    assert reading.problems == []
    assert len(reading.records) == 88
    whole = [r for r in reading.records if r.site is None and r.settings["energies"] == "45nm"]
    assert [r.settings["variant"] for r in whole] == ["exact", "int8", "int4", "plan"]
    assert all(r.kind == "cost" and r.network["model"] == "resnet8" for r in reading.records)
    (plan,) = (r for r in whole if r.settings["variant"] == "plan")
    assert plan.settings["halut.C"] == 4
    assert {"bytes", "operations", "bops", "energy", "weight_bits"} <= plan.figures.keys()
    assert plan.context["command"].startswith("halut cost policy=conv3x3 halut.C=4")
    site = next(r for r in reading.records if r.site == "stack1.conv1" and r.operator == "tree")
    assert site.detail["shape"] == {
        "kind": "conv2d", "kernel": "3x3", "rows": 64, "D": 144, "M": 16, "groups": 1,
    }  # fmt: skip


def test_energies_of_one_name_are_told_apart_by_what_they_say(capsys, tmp_path):
    own = (energy.FOLDER / "45nm.yaml").read_text()
    names = set()
    for dram in ("162.5", "163.5"):
        (tmp_path / "mine.yaml").write_text(own.replace("dram: 162.5", f"dram: {dram}"))
        cost(capsys, "--energy", tmp_path / "mine.yaml", "--results", tmp_path / "results")
        names = {r.settings["energies"] for r in Store(tmp_path / "results").read().records}
    assert len(names) == 2
    assert "45nm" in names  # the first says what halut's own says


def test_what_another_version_counted_otherwise_is_appended_again(capsys, tmp_path):
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    cost(capsys, "halut.C=4", "--results", first.path)
    for record in first.read().records:
        stale = record.site is None and record.settings["variant"] == "plan"
        figures = {**record.figures, "energy": 1.0} if stale else record.figures
        second.append(replace(record, figures=figures))
    assert "1 record added" in cost(capsys, "halut.C=4", "--results", second.path)
    figures = [{r.key: r.figures for r in store.read().records} for store in (first, second)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("flag", ["--csv", "--json", "--results"])
def test_where_nothing_can_be_written_is_told_before_anything_is_counted(
    capsys, tmp_path, flag, monkeypatch
):
    def fails(*arguments, **named):
        raise AssertionError("it was counted")

    monkeypatch.setattr(program, "planned_of", fails)
    (tmp_path / "file").write_text("")
    line = refusal(capsys, "--latency", flag, tmp_path / "file" / "out")
    assert f"{flag} {tmp_path / 'file' / 'out'}: {tmp_path / 'file'} is no folder" in line
    if flag != "--results":
        assert "is a folder: give a file" in refusal(capsys, flag, tmp_path)
    monkeypatch.setattr(measuring.os, "access", lambda *arguments: False)  # root may write anywhere
    assert "cannot be written to" in refusal(capsys, flag, tmp_path / "out")


def test_latency_is_measured_where_it_is_asked_for(capsys, tmp_path):
    options = ("policy.only=[stack1.*]", "halut.C=4", "--latency", "--batch", "2")
    out = cost(capsys, *options, "--results", tmp_path, "--csv", tmp_path / "cost.csv")
    assert "latency: of a batch of 2" in out
    assert "INT4: not timed, no kernel of 4-bit weights" in out
    assert "no kernel" in next(line for line in out.splitlines() if line.startswith("│ INT4"))
    records = Store(tmp_path).read().records
    timed = {(r.site, r.settings["variant"]) for r in records if "latency" in r.figures}
    places = (None, "stack1.conv1", "stack1.conv2")
    variants = ("exact", "int8", "plan") if onednn.available() else ("exact", "plan")
    assert timed == {(place, variant) for place in places for variant in variants}
    assert all(r.detail["latency_of"] for r in records)
    with (tmp_path / "cost.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        known = (row["site"] or None, row["variant"]) in timed
        assert bool(row["latency"]) == known
        assert row["latency_of"]
        assert known != row["latency_of"].startswith(("no ", "not timed"))


def test_global_pruning_is_settled(capsys, tmp_path):
    options = ("halut=prune", "halut.scope=global", "halut.sparsity=0.5", "policy=conv3x3")
    variants = content(capsys, tmp_path, *options)["variants"]
    exact, ours = (v["figures"]["weight_bytes"] for v in (variants[0], variants[-1]))
    assert 0.5 * exact < ours < 0.65 * exact  # half of the replaced floats, and a bit a place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("halut.Z=1",), "unknown option halut.Z"),
        (("halut.K=12",), "K must be a power of two"),
        (("policy.keep=[nowhere]",), "'nowhere' matches no layer"),
        (("nowhere",), "nowhere: "),
        (("--energy", "5nm"), "unknown energy table '5nm'"),
        (("model=resnet51",), "resnet51"),
        (("--batch", "4"), "needs --latency"),
    ],
)
def test_refusals_are_one_line(capsys, arguments, message):
    assert message in refusal(capsys, *arguments)


def test_a_folder_that_is_no_run(capsys, tmp_path):
    assert "has no plan.json" in refusal(capsys, tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    assert "cannot be read" in refusal(capsys, tmp_path)


def test_flags_out_of_range_are_usage_errors(capsys):
    for flags in (("--reuse", "0"), ("--shape", "3,4"), ("--classes", "-1")):
        with pytest.raises(SystemExit) as stop:
            main(["cost", *flags])
        assert stop.value.code == 2
    capsys.readouterr()


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["cost", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "halut cost model=resnet50 policy=conv3x3 halut.C=32" in out
    assert "7nm, 45nm" in out
