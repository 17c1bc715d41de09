"""Spoilt bundles and bad arguments: one message, exit code 1, nothing written."""

from __future__ import annotations

import json

import pytest

from halut.bundle import read_plan
from halut.errors import HalutError
from halut.io import write_json
from tests.evaluation.digits_bundle import MODEL


def corrupt(folder, name, content):
    path = folder / "bundle" / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content(json.loads(path.read_text()))))


def truncated(folder, name, share):
    whole = (folder / "bundle" / name).read_bytes()
    (folder / "bundle" / name).write_bytes(whole[: int(share * len(whole))])


def other(**fields):
    return lambda content: {**content, **fields}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plan.json", None, "has no plan.json"),
        ("plan.json", b"{", "plan.json: damaged"),
        ("plan.json", other(version=99), "plan version 99 cannot be read"),
        ("plan.json", other(model={}), "does not say how to build its network"),
        ("plan.json", other(model={**MODEL, "name": "resnet88"}), "unknown model 'resnet88'"),
        ("plan.json", other(model={**MODEL, "options": {"width": 8}}), "for another network"),
        ("plan.json", other(model={**MODEL, "num_classes": 7}), "is of another network"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", b"", "truncated or corrupt"),
        ("report.json", None, "does not name its data set; give data=NAME"),
        ("report.json", b"[", "report.json: damaged"),
        ("report.json", b"[]", "report.json: damaged"),
        ("report.json", other(data={"name": "numbers"}), "unknown data set 'numbers'"),
        (
            "report.json",
            other(data={"name": "digits", "settings": {"test_fraction": "half"}}),
            "data=digits: Value 'half'",
        ),
    ],
)
def test_a_corrupt_bundle_reports_one_error(run_folder, evaluate, name, content, message):
    corrupt(run_folder, name, content)
    refused(evaluate(f"run={run_folder}"), message)


def refused(outcome, message):
    code, out, err = outcome
    assert code == 1
    assert message in err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights(run_folder, evaluate, share):
    truncated(run_folder, "model.safetensors", share)
    refused(evaluate(f"run={run_folder}"), "model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to evaluate: run=PATH"),
        (["run=/nowhere"], "run=/nowhere: no such folder"),
        (["run=."], "neither a bundle nor a finished run"),
        (["run={run}", "split=train"], "unknown split 'train'; choose one of: test, val"),
        (["run={run}", "samples=-1"], "samples must be at least 0, got -1"),
        (["run={run}", "trainer.devices=2"], "on one device"),
        (["run={run}", "data.workers=many"], "'many'"),
        (["run={run}", "+data.color=red"], "color"),
        (["run={run}", "json={run}"], "is a folder; give a file"),
        (["run={run}", "json={run}/bundle/plan.json/x"], "cannot be written"),
        (["run={run}", "data=cifar10"], "data.cifar10:"),
    ],
)
def test_bad_arguments_report_one_error(run_folder, evaluate, arguments, message):
    code, out, err = evaluate(*(argument.format(run=run_folder) for argument in arguments))
    assert code == 1
    assert message in err
    assert "Traceback" not in out + err


def test_data_of_another_shape(run_folder, evaluate):
    corrupt(run_folder, "plan.json", other(model={**MODEL, "input_shape": [1, 9, 9]}))
    refused(evaluate(f"run={run_folder}"), "takes inputs [1, 9, 9]; data=digits gives [1, 8, 8]")


@pytest.mark.parametrize("argument", ["bogus=1", "trainer.color=red", "samples=many", "data=none"])
def test_keys_and_types_that_do_not_exist_are_refused_when_composed(evaluate, argument):
    code, out, err = evaluate("run=x", argument)
    assert code == 1
    assert argument.split("=")[0].split(".")[-1] in out + err


def test_debug_shows_where_an_error_came_from(evaluate):
    code, _, err = evaluate("run=/nowhere", "debug=traceback")
    assert code == 1
    assert "Traceback" in err
    assert err.strip().endswith("error: run=/nowhere: no such folder")


def test_a_path_alone_is_the_run(evaluate, run_folder):
    code, out, err = evaluate(run_folder, "samples=0", "latency=0")
    assert code == 0, err
    assert "test accuracy: " in out


def test_a_path_may_hold_what_hydra_reads_otherwise(evaluate, run_folder):
    odd = run_folder.rename(run_folder.parent / "halut.C=16,it's (a) run")
    for argument in (odd, f"run={odd}"):
        code, out, err = evaluate(argument, "samples=0", "latency=0")
        assert code == 0, err
        assert "test accuracy: " in out


def test_a_path_that_is_not_there_and_two_runs(evaluate, run_folder):
    assert evaluate("/no/such/run")[2] == "error: run=/no/such/run: no such folder\n"
    code, _, err = evaluate(run_folder, run_folder)
    assert code == 2
    assert "one run at a time is evaluated, got 2" in err


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("data.root=/pictures", "data=digits comes with scikit-learn"),
        ("+data.batch_size=8", "an evaluation trains nothing"),
        ("+data.val_samples=8", "it needs split=val"),
        ("trainer.ema=0.9", "an evaluation trains nothing"),
        ("trainer.limit_val_batches=2", "it needs split=val"),
        ("runtime.rounds=3", "it needs runtime=eager or runtime=compile"),
    ],
)
def test_what_an_evaluation_does_not_read_is_refused(evaluate, run_folder, argument, reason):
    code, _, err = evaluate(run_folder, argument)
    assert code == 1
    assert f"{argument.lstrip('+')} has no effect: " in err
    assert reason in err


def test_an_unfinished_run_reports_its_progress(tmp_path):
    run = tmp_path / "run"
    (run / "stage_00").mkdir(parents=True)
    write_json(run / "plan.json", {})
    write_json(run / "stage_00" / "stage.json", {"val_accuracy_after_training": 91.25})
    with pytest.raises(HalutError, match=r"1 stage is finished, validation 91\.25, .* goes on"):
        read_plan(run)
