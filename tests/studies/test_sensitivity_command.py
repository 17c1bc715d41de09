"""halut sensitivity and halut convergence on the embedded digits: their records and tables."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import yaml

from halut.analysis.sensitivity import SCORES
from halut.cli import main
from halut.results.record import Record
from halut.results.store import Store
from halut.studies import measuring
from halut.studies.convergence import table_of
from halut.studies.measuring import in_own_order
from halut.studies.sensitivity_table import remarks, score_tables, suggested_rule
from halut.training.planning import rule_of

OPTIONS = ["--options", "integer width=2,4", "pq K=4 C=40", "--sites", "stack2.*"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture
def command(cache, tmp_path):
    def run(verb="sensitivity", *flags, options=OPTIONS):
        digits = ["data=digits", "data.train_samples=200", "base.epochs=1", f"base.cache={cache}"]
        small = ["--samples", "40", "--rows", "256", "--results", str(tmp_path / "results")]
        if verb == "sensitivity":
            small += ["--calibration", "32", "--fisher-samples", "16"]
        return main([verb, *digits, *small, *options, *flags])

    return run


def test_every_site_and_option_has_a_record_by_each_score(command, tmp_path, capsys):
    assert command() == 0
    records = Store(tmp_path / "results").read().records
    sites = ("stack2.conv1", "stack2.conv2", "stack2.shortcut")
    labels = ("integer width=2", "integer width=4", "pq K=4 C=40")
    expected = {(site, label, score) for site in sites for label in labels for score in SCORES}
    expected -= {(sites[2], labels[2], score) for score in SCORES}
    expected.add((sites[2], labels[2], None))
    assert {(r.site, r.detail["label"], r.score) for r in records} == expected
    refused = next(r for r in records if r.score is None)
    assert not refused.figures
    assert "C must be in 1..16, got 40" in refused.detail["reason"]
    for record in records:
        assert record.kind == "sensitivity"
        assert record.detail["shape"]["D"] in (16, 144, 288)
        assert record.calibration == 32
        assert record.data["split"] == {"measured": "val", "fisher": "train"}.get(
            record.score or "", "val"
        )
        if record.score == "measured":
            figures = record.figures
            assert figures["lost"] == pytest.approx(figures["exact_accuracy"] - figures["accuracy"])
            assert 0 < figures["normalized_mse"] < 1.5
    shown = capsys.readouterr().out
    assert "Spearman's rank correlation" in shown
    assert "stack2.shortcut, pq K=4 C=40: stack2.shortcut has 16 inputs" in shown
    rule = yaml.safe_load(shown[shown.index("policy:") :].rsplit("\n", 2)[0])
    assert [rule_of(each).name for each in rule["policy"]["rules"]] == list(sites)


def test_what_is_in_the_store_is_not_measured_again(command, tmp_path, capsys, monkeypatch):
    flags = ("--scores", "measured")
    assert command("sensitivity", *flags, options=["--sites", "stack2.conv1"]) == 0
    before = Store(tmp_path / "results").read().records
    assert len(before) == 1
    assert "1 measurements, 0 of them" in capsys.readouterr().out
    assert command("sensitivity", *flags, options=["--sites", "stack2.conv[12]"]) == 0
    assert "2 measurements, 1 of them" in capsys.readouterr().out
    after = Store(tmp_path / "results").read()
    assert [r.key for r in after.records][:1] == [r.key for r in before]
    assert (len(after.records), after.problems) == (2, [])

    monkeypatch.setattr(measuring, "sensitivity", None)  # nothing is left to do
    assert command("sensitivity", *flags, options=["--sites", "stack2.conv[12]"]) == 0


def test_an_interrupt_loses_nothing(command, tmp_path, capsys, monkeypatch):
    real = measuring.sensitivity

    def interrupted(*args, **kwargs):
        for index, each in enumerate(real(*args, **kwargs)):
            if index == 3:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(measuring, "sensitivity", interrupted)
    assert command() == 130
    assert "the same command goes on from here" in capsys.readouterr().out
    kept = Store(tmp_path / "results").read().records
    assert len(kept) == 3
    monkeypatch.setattr(measuring, "sensitivity", real)
    assert command() == 0
    assert "17 measurements, 3 of them" in capsys.readouterr().out
    records = Store(tmp_path / "results").read()
    assert (len(records.records), records.problems) == (17, [])


def test_what_another_process_measures_meanwhile_is_left_to_it(
    command, tmp_path, capsys, monkeypatch
):
    store, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    assert command("sensitivity", "--results", str(elsewhere)) == 0
    records = Store(elsewhere).read().records
    others = [r for r in records if r.site == "stack2.conv2"]
    late = next(r for r in records if r.site == "stack2.shortcut" and r.score == "fisher")
    real, measured = measuring.sensitivity, []

    def watched(*args, **kwargs):
        for each in real(*args, **kwargs):
            measured.append((each.candidate.site.name, each.score))
            if len(measured) == 2:
                for record in others:  # while this process is at its first site
                    Store(store).append(record)
            if measured[-1] == (late.site, late.score) and late.key not in Store(store):
                Store(store).append(late)  # just before this one is done
            yield each

    monkeypatch.setattr(measuring, "sensitivity", watched)
    capsys.readouterr()
    assert command() == 0
    assert ("stack2.conv2", "measured") not in measured
    assert len(measured) == len(records) - len(others)
    reading = Store(store).read()
    assert {r.key for r in reading.records} == {r.key for r in records}
    assert reading.problems == []  # nothing is there twice
    assert "17 records in" in capsys.readouterr().out


def test_beside_another_process_the_order_is_this_one_s_own(command, tmp_path, capsys, monkeypatch):
    shuffled = []

    def reverse(setups, choices):
        shuffled.extend(reversed(choices))
        return setups, shuffled

    monkeypatch.setattr(measuring, "in_own_order", reverse)
    options = ["--options", "integer width=2,4", "--sites", "stack2.conv[12]"]
    with Store(tmp_path / "results").at_work():
        assert command("sensitivity", "--scores", "measured", options=options) == 0
    assert "they share the work" in capsys.readouterr().out
    records = Store(tmp_path / "results").read().records
    asked = [(each.candidate.site.name, each.label) for each in shuffled]
    assert [(r.site, r.detail["label"]) for r in records] == asked
    assert not list((tmp_path / "results").glob("*.active"))


def test_an_own_order_keeps_all_and_sites_together(command, monkeypatch):
    seen = []
    monkeypatch.setattr(measuring, "_records", lambda *args: seen.append(args) or iter(()))
    command()
    (_, setups, choices, *_rest) = seen[0]
    own_setups, own = in_own_order([*setups, *setups], choices)
    assert len(own_setups) == 2
    assert sorted(map(id, own)) == sorted(map(id, choices))
    sites = [choice.candidate.site.name for choice in own]
    assert len([s for s, before in zip(sites, [None, *sites], strict=False) if s != before]) == 3


def test_attention_and_the_policy_s_own_operator(cache, tmp_path, capsys):
    arguments = ["data=digits", "data.train_samples=200", "base.epochs=1", f"base.cache={cache}"]
    arguments += ["model=tiny_vit", "halut=integer", "policy.kinds=[attention,linear]"]
    flags = ["--samples", "20", "--rows", "64", "--calibration", "16", "--fisher-samples", "8"]
    assert main(["sensitivity", *arguments, *flags, "--results", str(tmp_path)]) == 0
    records = Store(tmp_path).read().records
    kinds = {record.detail["shape"]["kind"] for record in records}
    assert kinds == {"attention", "linear"}
    assert all(record.figures and not record.not_finite for record in records)
    assert {record.operator for record in records} == {"integer"}


def test_convergence_has_a_record_of_every_number_and_draw(command, tmp_path, capsys):
    flags = ("--images", "8,32", "--draws", "2", "--seed", "5")
    options = ["--options", "pq K=4", "--sites", "stack2.conv1"]
    assert command("convergence", *flags, options=options) == 0
    records = Store(tmp_path / "results").read().records
    assert {(r.calibration, r.seed) for r in records} == {(8, 5), (8, 6), (32, 5), (32, 6)}
    assert {r.kind for r in records} == {"convergence"}
    error = {key: r.figures["normalized_mse"] for r in records for key in [(r.calibration, r.seed)]}
    assert error[8, 5] != error[8, 6]  # other images
    assert "8 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sites", "nope"], "--sites: 'nope' matches no layer"),
        (["--options", "tre"], "unknown operator 'tre'"),
        (["--results", "/dev/null/store"], "--results /dev/null/store: /dev/null is no folder"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(flags, message, capsys, monkeypatch):
    monkeypatch.setattr("halut.studies.subject.load_or_train_exact_network", None)
    assert main(["sensitivity", "data=digits", *flags]) == 1
    assert message in capsys.readouterr().err


def test_more_images_than_there_are_is_refused(command, capsys):
    assert command("convergence", "--images", "16,999") == 1
    assert "there are 200 training images, got 999" in capsys.readouterr().err


def test_fewer_images_than_asked_for_are_told_and_recorded(command, tmp_path, capsys):
    flags = ("--samples", "9999", "--calibration", "8", "--fisher-samples", "16")
    options = ["--options", "integer", "--sites", "stack2.conv1"]
    assert command("sensitivity", *flags, options=options) == 0
    told = " ".join(capsys.readouterr().out.split())
    measured, fisher = Store(tmp_path / "results").read().records
    available = measured.data["samples"]
    assert f"9999 validation images were asked for, and there are {available}: all" in told
    assert 40 < available < 9999
    assert (fisher.data["samples"], fisher.calibration) == (8, 8)
    assert measured.settings == {"rows": 256, "data.train_samples": 200}
    assert measured.figures["calibration_rows"] == min(256, 8 * measured.detail["shape"]["rows"])


def test_rows_that_cap_what_more_images_bring_are_marked(command, capsys):
    flags = ("--images", "2,64", "--draws", "1", "--rows", "100")
    options = ["--options", "integer", "--sites", "stack2.conv1"]
    assert command("convergence", *flags, options=options) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "* stack2.conv1: learned from 100 of the 1,024 rows that 64 images have" in out
    assert "--rows 1024 takes all" in out
    few, many = re.search(r"integer │ (\S+ \+- \S+) │ (\S+ \+- \S+) │", out).groups()
    assert (few[-1], many[-1]) == ("?", "*")


def test_rows_that_do_not_fit_memory_are_told():
    fit = record("a", 0.5, shape={"rows": 16})
    figures = {**fit.figures, "calibration_rows": 320}
    more = {"calibration": 64, "settings": {"rows": 512}, "figures": figures}
    (line,) = remarks([replace(fit, **more)])
    assert line == "a: learned from 320 rows, not 512: more do not fit capture.memory_gib"
    assert remarks([replace(fit, **{**more, "calibration": 20})]) == []


def test_sites_that_one_reason_refuses_are_named_together():
    records = [record(site, None, reason="no", score=None) for site in "abc"]
    records.append(record("d", None, reason="another", score=None))
    assert remarks(records) == ["- a, b, c, pq K=4: no", "- d, pq K=4: another"]


@pytest.mark.parametrize("verb", ["sensitivity", "convergence"])
def test_help_has_examples(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"halut {verb} data=digits" in capsys.readouterr().out


def record(site, lost, label="pq K=4", score="measured", size=10.0, **more):
    figures = {"lost": lost, "loss": 1 + lost, "bytes": size} if lost is not None else {}
    if score == "fisher":
        figures = {"first_order": 0.0, "second_order": lost, "bytes": size}
    return Record(
        "sensitivity", {}, {}, figures, site=site, operator=label.split()[0], score=score,
        detail={"label": label, "asked": {"K": 4}, **more},
    )  # fmt: skip


def test_the_table_has_the_most_sensitive_site_first():
    records = [record("a", 0.5), record("b", 3.0), record("c", None, reason="no", score=None)]
    (table,) = score_tables(records, "measured")
    assert list(table.columns[0].cells) == ["b", "a", "c"]
    assert list(table.columns[1].cells) == ["+3.00", "+0.50", "-"]


def test_many_options_take_several_tables_of_the_same_sites():
    records = [record(s, v, f"pq K={k}") for k in range(2, 12) for s, v in (("a", 1), ("b", 2))]
    tables = score_tables(records, "measured")
    assert [len(table.columns) for table in tables] == [9, 3]
    assert [list(table.columns[0].cells) for table in tables] == [["b", "a"]] * 2


def test_figures_that_are_not_finite_are_named_and_decide_nothing():
    broken = record("a", math.nan)
    assert broken.not_finite == ("lost", "loss")
    records = [broken, record("b", 0.1)]
    (table,) = score_tables(records, "measured")
    assert list(table.columns[1].cells) == ["+0.10", "NaN"]
    assert remarks(records) == ["NaN or infinite: a, pq K=4: lost, loss (measured)"]
    rules = yaml.safe_load(suggested_rule(records, 1.0))["policy"]["rules"]
    assert rules[0] == {"name": "a", "operator": "keep"}


def test_the_rule_takes_the_fewest_bytes_within_the_tolerance():
    records = [
        record("a", 0.5, "pq K=8", size=20), record("a", 0.9, "pq K=4", size=10),
        record("a", 1.1, "pq K=2", size=5), record("b", 2.0),
    ]  # fmt: skip
    rules = yaml.safe_load(suggested_rule(records, 1.0))["policy"]["rules"]
    assert rules == [
        {"name": "a", "operator": "pq", "options": {"K": 4}},
        {"name": "b", "operator": "keep"},
    ]
    assert "# +0.90" in suggested_rule(records, 1.0)


def test_the_scores_agreement_is_that_of_their_ranks():
    records = [record(s, v) for s, v in zip("abcd", (1, 2, 3, 4), strict=True)]
    records += [record(s, v, score="fisher") for s, v in zip("abcd", (1, 3, 2, 9), strict=True)]
    (line,) = remarks(records)
    assert re.search(r"over 4 measurements: 0\.800 with the accuracy lost, 0\.800", line)


def test_the_spread_of_the_draws():
    records = [
        Record(
            "convergence", {}, {}, {"lost": lost}, site="a", operator="pq", seed=seed,
            calibration=images,
        )
        for images, seed, lost in [(8, 0, 1.0), (8, 1, 3.0), (16, 0, 1.0)]
    ]  # fmt: skip
    table = table_of(records, "lost")
    assert [list(column.cells) for column in table.columns[2:]] == [
        ["2.00 +- 1.41"],
        ["1.00 +- ?"],
    ]


def test_layers_that_the_policy_keeps_are_named(command, capsys):
    options = ["--scores", "measured", "--options", "integer width=4"]
    options += ["--threads", "1", "policy.only=[stack3.conv1]"]
    assert command(options=options) == 0
    said = "".join(capsys.readouterr())
    assert "not measured, as the policy keeps them (--sites would): conv1, stack1.conv1" in said
    assert "stack3.shortcut, fc" not in said  # more than are told
    assert " more" in said


def test_an_exact_network_that_guesses_is_told(command, capsys):
    options = ["--scores", "measured", "--options", "integer width=4", "--sites", "fc"]
    assert command(options=[*options, "--threads", "1", "base.epochs=0"]) == 0
    assert "these measurements tell nothing" in "".join(capsys.readouterr())
