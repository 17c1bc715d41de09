"""The commands import plugins before Hydra composes: their entries are choices like any other."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import halut
from halut.cli import main as halut_main
from halut.errors import HalutError
from halut.plugins import loading
from halut.search.trials.command import parser, request_of
from halut.search.trials.planner import Planner
from halut.sites.plan import Plan
from halut.studies.subject import compose
from halut.training.config.plugin_options import asked, import_plugins
from tests.conftest import Outcome
from tests.plugins.test_bundles import EXAMPLE, NETS
from tests.plugins.test_loading import model

TINY = (
    *("policy=linear", "base.epochs=1", "base.cache=null", "schedule.train_batches=2"),
    *("baseline=false", "ptq=none", "trainer.accelerator=cpu", "trainer.progress=false"),
)


@pytest.fixture
def mine() -> str:
    """The example's file, in the empty working directory."""
    shutil.copy(EXAMPLE, "mine.py")
    return str(Path.cwd() / "mine.py")


@pytest.fixture
def evaluate(capsys, monkeypatch):
    """`python evaluate.py ARGS` in this process."""
    from halut.training.evaluate import main

    def run(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    yield run
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["plugins=mine"], ["mine"]),
        (["plugins=./mine.py"], ["./mine.py"]),
        (["plugins=[a,./b.py]"], ["a", "./b.py"]),
        (["plugins=['./it is.py', \"a,b.py\"]"], ["./it is.py", "a,b.py"]),
        (["+plugins=a"], ["a"]),
        (["++plugins=[a]"], ["a"]),
        (["plugins=a", "plugins=b"], ["b"]),
        (["plugins=a", "+plugins=[b,c]"], ["a", "b", "c"]),
        (["plugins=[]"], []),
        (["plugins=null"], []),
        (["plugins="], []),
    ],
)
def test_every_spelling_of_a_list_is_read(arguments, names):
    rest = ["halut.K=4", "-m", "policy=linear"]
    assert asked([*rest, *arguments]) == (names, rest)


@pytest.mark.parametrize(
    "argument", ["plugins=a,b", "plugins=true", "plugins=[5]", "plugins={a: 1}"]
)
def test_what_is_no_list_of_names_is_refused(argument):
    with pytest.raises(HalutError, match="plugins"):
        asked([argument])


def test_plugins_reach_hydra_as_absolute_paths(mine):
    Path("it's.py").write_text("")
    rest, warnings = import_plugins(["plugins=[./mine.py]", '+plugins="./it\'s.py"'], True)
    assert rest == [f"plugins=[{mine},'{Path.cwd()}/it\\'s.py']"]
    assert len(warnings) == 1
    assert "it's.py registers nothing" in warnings[0]


def test_the_place_of_plugins_among_flags_is_kept(mine):
    given = ["-m", "plugins=mine.py", "halut.K=4,8"]
    assert import_plugins(given, True)[0] == ["-m", f"plugins=[{mine}]", "halut.K=4,8"]
    given = ["halut=samples", "+plugins=mine.py", "--help", "model"]
    expected = ["halut=samples", f"plugins=[{mine}]", "--help", "model"]
    assert import_plugins(given, True)[0] == expected


def test_help_shows_the_options_of_a_plugins_entries(train, mine):
    out = train("plugins=./mine.py", "halut=samples", "data=blobs", "model=mlp", "--help").out
    assert "options of halut=samples" in out
    assert "halut.K=16" in out
    assert "data.spread=40.0" in out
    assert "model.options={size: 8,width: 64}" in out
    assert "Ten random images under noise" in train("plugins=mine", "--help", "data").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plugins=./nowhere.py"], "error: plugin ./nowhere.py: no such file"),
        (["plugins=a,b"], "error: plugins=a,b: plugins are imported once, for all values"),
        (["plugins=[bad.py]"], "bad.py cannot be imported: ValueError: no luck ("),
        (["plugins=[mine.py]", "halut.no=1", "halut=samples"], "unknown option halut.no"),
        (["plugins=[mine.py]", "data=blobs", "data.spread=wide"], "data.spread=wide: Value 'wide'"),
        (["plugins=[wrong.py]"], "wrong.py: 'wrong' has no options that are a dataclass"),
    ],
)
def test_mistakes_are_told_in_one_line(train, mine, arguments, said):
    Path("bad.py").write_text("raise ValueError('no luck')")
    wrong = "from halut.encoders import encoders\nencoders.register('wrong')(5)\n"
    Path("wrong.py").write_text(wrong)
    outcome = train(*arguments)
    assert outcome.code == 1
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_debug_traceback_shows_where_a_plugin_raised(train):
    Path("bad.py").write_text("def fails():\n    raise ValueError('no luck')\nfails()\n")
    err = train("plugins=bad.py", "debug=traceback").err
    assert "in fails" in err
    assert err.splitlines()[-1].startswith("error: plugin ")


def test_a_plugins_encoder_model_and_data_set_train_resume_and_evaluate(
    train, evaluate, forget, mine
):
    command = ["plugins=[./mine.py]", "halut=samples", "model=mlp", "data=blobs", *TINY]
    command += ["model.options.width=48", "data.spread=30", "base.epochs=2", "run_dir=run"]
    rule = "policy.rules=[{name: '1', operator: ternary, options: {activation: null}}]"
    assert train(*command, rule).code == 0
    config = OmegaConf.load("run/config.yaml")
    assert config.plugins == [mine]
    assert (config.model.options.width, config.data.spread) == (48, 30.0)
    report = json.loads(Path("run/report.json").read_text())
    assert {site["operator"] for site in report["sites"]} == {"samples", "ternary"}
    assert report["base"]["test_accuracy"] > 50
    assert json.loads(Path("run/plan.json").read_text())["plugins"] == {
        mine: {
            "encoder": ["samples"],
            "codec": ["ternary"],
            "model": ["mlp"],
            "data set": ["blobs"],
        }
    }
    assert "finished already" in train(*command, rule).out  # the same again
    Path("second.py").write_text(model("second"))
    refused = train(*command, rule, "+plugins=second.py").err
    assert "a run of another configuration; it differs in plugins" in refused

    forget()
    refused = evaluate("run=run")
    assert refused.code == 1
    assert f"needs the plugin {mine}" in refused.err
    assert refused.err.count("\n") == 1
    outcome = evaluate("run=run", "plugins=./mine.py", "samples=0", "latency=0", "json=out.json")
    assert outcome.code == 0, outcome.err
    figures = json.loads(Path("out.json").read_text())
    assert figures["accuracy"] == report["final"]["test_accuracy"]
    assert "mine.py" in str(figures["environment"]["plugins"])

    forget()
    network = halut.load("run", plugins=["./mine.py"])
    x = torch.randn(4, 1, 8, 8)
    assert torch.allclose(halut.prepare(network, x)(x), network(x), atol=1e-3)


def test_a_class_by_module_and_name_is_a_model(train, evaluate, forget):
    flat = NETS.replace("nn.Linear(8, width)", "nn.Flatten(), nn.Linear(64, width)")
    Path("nets.py").write_text(flat)
    command = ["model=any", "model.name=./nets.py:Net", "+model.options.width=12", *TINY]
    assert train(*command, "run_dir=run").code == 0
    plan = json.loads(Path("run/plan.json").read_text())
    assert plan["model"]["name"] == f"{Path.cwd()}/nets.py:Net"
    assert plan["model"]["options"] == {"width": 12}
    assert OmegaConf.load("run/config.yaml").model.name == f"{Path.cwd()}/nets.py:Net"
    forget()
    assert "needs the plugin" in evaluate("run=run").err
    outcome = evaluate("run=run", "plugins=[./nets.py]", "samples=0", "latency=0")
    assert outcome.code == 0, outcome.err
    assert "registers nothing" not in outcome.err
    assert "did you mean Net?" in train("model=any", "model.name=./nets.py:Nett").err


def test_an_experiment_of_a_folder_may_name_plugins(mine):
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: blobs\nplugins: [./mine.py]\n"
    )
    given = ["--config-dir", "conf", "experiment=own"]
    assert import_plugins(given, True)[0] == [*given[:2], f"plugins=[{mine}]", given[2]]


def test_the_other_verbs_know_plugins(capsys, mine):
    assert halut_main(["env", "--json", "plugins=[./mine.py]"]) == 0
    environment = json.loads(capsys.readouterr().out)
    told = environment["plugins"][mine]
    assert told == "codec ternary; data set blobs; encoder samples; model mlp"
    assert halut_main(["bench", "--list", "--model", "mlp", "plugins=./mine.py"]) == 0
    assert "mlp" in capsys.readouterr().out
    assert halut_main(["table", "plugins=./nowhere.py", "."]) == 1
    assert "plugin ./nowhere.py: no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_sweeps_and_ranks_know_plugins(train, mine):
    command = ["plugins=[./mine.py]", "halut=samples", "model=mlp", "data=blobs", *TINY]
    assert train("-m", *command, "halut.K=4,8", "run_dir=sweep").code == 0
    reports = [json.loads(path.read_text()) for path in Path("sweep").glob("*/report.json")]
    assert len(reports) == 2
    ranks = ("trainer=ddp", "trainer.devices=2", "trainer.num_nodes=1", "run_dir=ranks")
    assert train(*command, *ranks).code == 0
    assert json.loads(Path("ranks/report.json").read_text())["environment"]["processes"] == 2


def test_a_trial_of_a_search_names_the_plugins_that_it_needs(mine):
    loading.load([mine])
    options = parser().parse_intermixed_args(["sampler=grid", *TINY, "schedule.epochs=1,2"])
    (spec,) = request_of(options, Planner()).specs
    overrides = spec.space.points(lambda overrides: Plan(()))[0][1]
    assert compose(overrides).plugins == [mine]
