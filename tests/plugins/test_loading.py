"""What is imported as a plugin, once, under which name; and what is refused, in one line."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import halut
from halut.errors import HalutError
from halut.models import models
from halut.plugins import loading, reference
from halut.plugins.file_modules import module_name, path_of

MODEL = """
from torch import nn
from halut.models import models

@models.register("{name}")
def {name}(num_classes, in_channels=1):
    return nn.Linear({inputs}, num_classes)
"""


def model(name: str, inputs: int = 4) -> str:
    return MODEL.format(name=name, inputs=inputs)


def test_a_file_is_imported_once_however_it_is_called(tmp_path):
    Path("mine.py").write_text(model("one"))
    Path("link.py").symlink_to("mine.py")
    expected = {str(tmp_path / "mine.py"): {"model": ["one"]}}
    for name in (
        "./mine.py",
        tmp_path / "mine.py",
        "link.py",
        f"{tmp_path}/../{tmp_path.name}/mine.py",
    ):
        assert halut.load_plugins(name) == expected
    assert models["one"](3).weight.shape == (3, 4)


def test_a_file_and_the_module_of_that_file_are_one_plugin():
    for first, second in (("own_a", "./own_a.py"), ("./own_b.py", "own_b")):
        name = Path(first).stem
        Path(f"{name}.py").write_text(model(f"in_{name}"))
        halut.load_plugins(first)
        assert list(halut.load_plugins(second).values()) == [{"model": [f"in_{name}"]}]
        halut.load_plugins(f"./{name}.py", name)


def test_a_module_is_found_in_the_working_directory_and_its_parts_are_its_own():
    Path("own_package").mkdir()
    Path("own_package/__init__.py").write_text("from own_package import part\n")
    Path("own_package/part.py").write_text(model("in_part"))
    assert halut.load_plugins("own_package") == {"own_package": {"model": ["in_part"]}}


def test_files_of_one_name_are_two_modules_and_import_what_lies_beside_them():
    for folder, inputs in (("a", 5), ("b", 6)):
        Path(folder).mkdir()
        Path(folder, "mine.py").write_text(f"import own_{folder}\n" + model(f"of_{folder}", inputs))
        Path(folder, f"own_{folder}.py").write_text("")
    halut.load_plugins("./a/mine.py", "./b/mine.py")
    assert [models[name](2).in_features for name in ("of_a", "of_b")] == [5, 6]


def test_what_halut_itself_registers_while_a_plugin_imports_it_is_not_the_plugins():
    code = "import sys, halut\nsys.argv = []\nprint(halut.load_plugins('./mine.py'))"
    Path("mine.py").write_text("import halut.data\n" + model("alone"))
    done = python(code)
    assert done.stdout == f"{{'{Path.cwd()}/mine.py': {{'model': ['alone']}}}}\n"


def python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options
    )


def test_another_process_finds_the_file_of_an_object_it_is_sent(tmp_path):
    Path("mine.py").write_text("class Thing:\n    def __init__(self, x):\n        self.x = x\n")
    loading.load(["./mine.py"])
    thing = reference.resolve("./mine.py:Thing")
    assert callable(thing)
    Path("thing.pkl").write_bytes(pickle.dumps(thing(17)))
    done = python("import pickle; print(pickle.load(open('thing.pkl', 'rb')).x)")
    assert done.stdout == "17\n", done.stderr


@pytest.mark.parametrize("path", ["/a/mine.py", "/ä b/1-x.y.py", "/a/ünï.py"])
def test_the_name_of_a_files_module_is_an_identifier_that_tells_the_path(path):
    name = module_name(Path(path))
    assert all(part.isidentifier() for part in name.split(".")[:-1])
    assert name.isascii()
    assert path_of(name) == Path(path)
    assert path_of("halut.plugins.file_modules.x_zz") is None
    assert path_of("other.mine_2f61") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nowhere.py", "plugin ./nowhere.py: no such file"),
        ("./folder.py", "plugin ./folder.py: it is no file"),
        ("./notes.txt", "plugin ./notes.txt is no Python file: its name must end with .py"),
        ("two words", "plugin 'two words' is neither the name of a module nor a file"),
        ("", "plugin '' is neither"),
        (5, "plugins: names of modules or paths of .py files, got 5"),
        ("own_missing", "plugin own_missing is not found: no module 'own_missing' is installed"),
        ("os.own_missing", "plugin os.own_missing is not found: no module 'os.own_missing'"),
    ],
)
def test_what_is_no_plugin_is_refused(name, said):
    Path("folder.py").mkdir()
    Path("notes.txt").write_text("")
    with pytest.raises(HalutError) as refused:
        loading.load([name])
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero (PATH:1; debug="),
        ("\n\nx = (", "cannot be imported: SyntaxError: '(' was never closed (PATH:3; debug="),
        ("raise SystemExit(3)", "ends the program while it is imported: SystemExit(3) (PATH:1;"),
        ("import own_absent", "cannot be imported: ModuleNotFoundError: No module named 'own_abs"),
        ("x = 'a\\0b'; raise OSError(x)", "cannot be imported: OSError: a\0b (PATH:1;"),
        ("import halut.encoders\n" + model("resnet8"), "model 'resnet8' is already registered, by"),
    ],
)
def test_one_that_raises_is_told_with_its_line_and_leaves_nothing(tmp_path, code, said):
    path = tmp_path / "mine.py"
    path.write_text(model("early") + "\n" if "resnet8" in code else "")
    path.write_text(path.read_text() + code)
    with pytest.raises(HalutError) as refused:
        loading.load([path])
    expected = f"plugin {path} {said.replace('PATH', str(path))}"
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)
    assert "early" not in models
    path.write_text("# put right\n" + model("early"))
    assert halut.load_plugins(path) == {str(path): {"model": ["early"]}}


def test_a_package_whose_import_fails_can_be_put_right():
    Path("own_late").mkdir()
    Path("own_late/part.py").write_text(model("of_late"))
    Path("own_late/__init__.py").write_text("from own_late import part\nnot_there\n")
    with pytest.raises(HalutError, match=r"NameError: .*__init__\.py:2"):
        loading.load(["own_late"])
    Path("own_late/__init__.py").write_text("from own_late import part  # put right\n")
    assert halut.load_plugins("own_late") == {"own_late": {"model": ["of_late"]}}


def test_one_that_registers_nothing_is_warned_of(caplog):
    Path("empty.py").write_text("")
    assert list(halut.load_plugins("./empty.py").values()) == [{}]
    assert "registers nothing: no encoder, codec, model or data set" in caplog.text


def announce(package: str, value: str) -> None:
    """A package in the working directory's metadata, with one entry point."""
    info = Path(f"{package}-1.5.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[halut.plugins]\nmine = {value}\n")


def test_installed_packages_are_known_and_one_that_fails_is_left_out(monkeypatch, caplog):
    Path("own_good.py").write_text(model("good"))
    Path("own_bad.py").write_text(model("half") + "\n1 / 0")
    for package, value in (("good-nets", "own_good"), ("bad-nets", "own_bad")):
        announce(package, value)
    announce("odd-nets", "own_good:function")
    monkeypatch.syspath_prepend(Path.cwd())
    assert halut.load_plugins() == {"own_good": {"model": ["good"]}}
    assert "half" not in models
    assert "plugin own_bad cannot be imported: ZeroDivisionError" in caplog.text
    assert "(of the package bad-nets 1.5)" in caplog.text
    assert "(of the package odd-nets 1.5)" in caplog.text
    assert loading.load_entry_points() == []  # told once
    lines = loading.lines()
    assert lines["own_good"] == "model good; of the package good-nets 1.5"
    assert lines["own_bad"].startswith("left out: plugin own_bad cannot be imported")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("my_module:MyNet", ("my_module", "MyNet")),
        ("a.b:Net", ("a.b", "Net")),
        ("./my file.py:Net", ("./my file.py", "Net")),
        ("resnet50.a1_in1k", None),
        ("hf-hub:timm/resnet50", None),
        ("a:b:c", None),
        ("a:", None),
        (":Net", None),
        ("a:1", None),
    ],
)
def test_references_are_told_from_other_names(name, parts):
    assert reference.split(name) == parts


def test_a_reference_reaches_what_a_plugin_defines_and_nothing_that_it_imports():
    Path("own_nets.py").write_text("from os import system\ndef net():\n    return 1\nvalue = 3\n")
    assert reference.resolve("own_nets:net")() == 1
    for name in ("system", "value"):
        with pytest.raises(HalutError, match=f"'{name}' is no class or function that own_nets"):
            reference.resolve(f"own_nets:{name}")
    with pytest.raises(HalutError, match=r"of own_nets 'nett'; did you mean net\?"):
        reference.resolve("own_nets:nett")
