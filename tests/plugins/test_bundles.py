"""A bundle names the plugins that it needs, and imports none without the loader's word."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import halut
from halut.bundle import check_plugins, with_plugins
from halut.errors import HalutError
from halut.models.build import build_model
from halut.plugins import loading
from halut.replace.swap import replaced_layers
from halut.sites.plan import Plan
from tests.plugins.test_loading import model

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plugin" / "mine.py"

NETS = """
from torch import nn
from subprocess import run

class Net(nn.Sequential):
    def __init__(self, num_classes, width=8):
        layers = [nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(width, num_classes))
"""


@pytest.fixture
def bundle(forget) -> Path:
    """A network of nets.py with layers of mine.py's encoder and codec, saved; both forgotten."""
    shutil.copy(EXAMPLE, "mine.py")
    Path("nets.py").write_text(NETS)
    halut.load_plugins("./mine.py")
    torch.manual_seed(0)
    name = f"{Path.cwd()}/nets.py:Net"
    network = build_model(name, 3, 8, width=6)
    assert network[0].out_features == 6
    rules = [halut.Rule("2", operator="samples", options={"K": 4})]
    rules += [halut.Rule("0", operator="integer", options={"weight": {"name": "ternary"}})]
    halut.replace_(network, None, [torch.randn(32, 8)], rules=rules)
    model = {"name": name, "num_classes": 3, "in_channels": 8, "options": {"width": 6}}
    halut.save(network, "bundle", model)
    forget()
    return Path("bundle")


def test_it_names_them_in_json_and_on_its_card(bundle):
    mine, nets = f"{Path.cwd()}/mine.py", f"{Path.cwd()}/nets.py"
    written = json.loads((bundle / "plan.json").read_text())["plugins"]
    assert written == {
        mine: {"encoder": ["samples"], "codec": ["ternary"]},
        nets: {"model": [f"{nets}:Net"]},
    }
    card = (bundle / "README.md").read_text()
    assert mine in card
    assert nets in card


def test_it_imports_nothing_without_a_word(bundle):
    with pytest.raises(HalutError, match=r"needs the plugin \S+/mine\.py, for the \w+ '\w+', and "):
        halut.load(bundle)
    with pytest.raises(HalutError, match=r"plugins=\['\S+/mine\.py'\]"):
        halut.load_into(nn.Linear(1, 1), bundle)
    with pytest.raises(HalutError, match=r"needs the plugin \S+/nets\.py, for the model "):
        halut.load(bundle, plugins="./mine.py")
    assert f"{Path.cwd()}/nets.py" not in loading.described()


def test_plugins_are_named_also_where_they_lie_elsewhere(bundle):
    Path("moved").mkdir()
    for name in ("mine.py", "nets.py"):
        shutil.move(name, f"moved/{name}")
    network = halut.load(bundle, plugins=["moved/mine.py", Path("moved/nets.py")])
    assert type(network).__name__ == "Net"
    assert dict(replaced_layers(network)).keys() == {"0", "2"}
    x = torch.randn(5, 8)
    assert torch.allclose(halut.prepare(network, x)(x), network(x), atol=1e-4)


def test_true_imports_what_the_bundle_names_and_says_so(bundle, caplog):
    caplog.set_level(logging.INFO, "halut")
    network = halut.load(bundle, plugins=True)
    assert network[4].out_features == 3
    for name in ("mine.py", "nets.py"):
        assert f"importing the plugin {Path.cwd()}/{name}, which bundle names" in caplog.text


def test_the_exact_network_may_be_the_loaders_own(bundle):
    def factory() -> nn.Module:
        layers = [nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)]
        return nn.Sequential(*layers)

    plan = json.loads((bundle / "plan.json").read_text())
    plan["model"] = {}
    (bundle / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(HalutError, match=r"needs the plugin \S+/mine\.py"):
        halut.load(bundle, factory)
    assert halut.load(bundle, factory, plugins=["./mine.py"])(torch.randn(2, 8)).shape == (2, 3)


def altered(bundle: Path, **changes) -> None:
    plan = json.loads((bundle / "plan.json").read_text())
    (bundle / "plan.json").write_text(json.dumps({**plan, **changes}))


def named(bundle: Path, name: str, **options) -> None:
    """Make the bundle ask for another model."""
    plan = json.loads((bundle / "plan.json").read_text())
    altered(bundle, model={**plan["model"], "name": name, "options": options})


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "builtins:exec"])
def test_a_bundle_calls_nothing_of_modules_that_are_no_plugins(bundle, name):
    named(bundle, name, command="touch called")
    with pytest.raises(HalutError, match="needs the plugin"):
        halut.load(bundle, plugins=["./mine.py", "./nets.py"])
    assert not Path("called").exists()


def test_a_bundle_calls_nothing_that_a_plugin_only_imports(bundle):
    named(bundle, "nets:run", args="touch called", shell=True)
    with pytest.raises(HalutError, match="'run' is no class or function that"):
        halut.load(bundle, plugins=["./mine.py", "./nets.py"])
    named(bundle, "os:system", command="touch called")
    with pytest.raises(HalutError, match="'system' is no class or function that os defines"):
        halut.load(bundle, plugins=True)
    assert not Path("called").exists()


def test_paths_that_are_not_absolute_are_not_imported(bundle):
    altered(bundle, plugins={"./mine.py": {"encoder": ["samples"]}})
    with pytest.raises(HalutError, match=r"'\./mine\.py', which is no absolute path"):
        halut.load(bundle, plugins=True)


@pytest.mark.parametrize(
    "plugins", [[5], "mine.py", {"mine.py": ["samples"]}, {"mine.py": {"encoder": [5]}}]
)
def test_damaged_plugins_of_a_plan_are_refused_in_one_line(bundle, plugins):
    altered(bundle, plugins=plugins)
    with pytest.raises(HalutError, match=r"plan\.json: not a plan: ") as refused:
        halut.load(bundle, plugins=True)
    assert "\n" not in str(refused.value)


def test_what_a_script_registers_is_named_as_such():
    plan = Plan((), {"name": "own"}, plugins={"__main__": {"model": ["own"]}})
    with pytest.raises(HalutError, match="x needs the model 'own', which a script registered"):
        check_plugins(plan, "x")


def test_a_plan_without_plugins_is_written_as_before():
    plan = with_plugins(Plan((), {"name": "resnet8", "num_classes": 2, "in_channels": 1}), "digits")
    assert "plugins" not in plan.to_dict()


def test_registered_models_are_named_too():
    Path("mine.py").write_text(model("own_net"))
    halut.load_plugins("./mine.py")
    plan = with_plugins(Plan((), {"name": "own_net"}))
    assert plan.plugins == {f"{Path.cwd()}/mine.py": {"model": ["own_net"]}}
    assert Plan.from_dict(plan.to_dict()) == plan
