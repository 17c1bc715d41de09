"""The console command: its verbs, its help, its exit codes."""

from __future__ import annotations

import json

import pytest

from halut.cli import main
from halut.ops import cpu, implementations


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb in ("train", "evaluate", "sensitivity", "cost", "sweep", "results", "report", "env"):
        assert f"  {verb} " in out


def test_nothing_and_unknown_verbs_fail(capsys):
    assert main([]) == 2
    assert main(["trian"]) == 2
    err = capsys.readouterr().err
    assert "unknown verb 'trian'; did you mean train? choose one of: train, evaluate, " in err
    assert "sweep, results, report, export, table, bench, scaling, env" in err


def test_env_reports_versions_devices_and_kernels(capsys):
    assert main(["env", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"torch", "lightning", "timm", "device", "threads", "kernels"} <= report.keys()
    assert set(report["kernels"]) == set(implementations())
    level = cpu.cpu_capability()
    expected = "torch" if level is None else f"cpu ({level})"
    assert report["kernels"]["accumulate"] == expected
    assert report["cpu_kernels"].startswith(level or "none, torch runs instead: ")
    assert main(["env"]) == 0
    assert "tree_encode" in capsys.readouterr().out


def test_train_takes_the_arguments_of_train_py(capsys, tmp_path, monkeypatch):
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    monkeypatch.setattr("sys.argv", ["halut"])
    with pytest.raises(SystemExit) as stop:
        main(["train", "halut.C=0", f"run_dir={tmp_path / 'run'}"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.strip() == "error: halut.C must be at least 1, got 0"
    assert not (tmp_path / "run").exists()
