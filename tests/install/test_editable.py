"""`pip install -e .`: the checkout itself runs, whatever is added to it, with its kernels built."""

from __future__ import annotations

import json

import pytest

from tests.install.environments import Environment, checkout, missing_tools, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_tools), reason=f"not installed: {missing_tools}"),
]

PORTABLE = {"SKBUILD_CMAKE_DEFINE": "HALUT_PORTABLE_ONLY=ON"}


@pytest.fixture(scope="module")
def editable(tmp_path_factory):
    """An editable install with the portable level alone, as on a CPU other than x86-64."""
    folder = tmp_path_factory.mktemp("editable")
    source = checkout(folder / "checkout")
    environment = Environment.create(folder / "venv")
    environment.install(source, "-e", **PORTABLE)
    return environment, source


def test_the_checkout_runs_and_new_files_are_found(editable, tmp_path):
    environment, source = editable
    (source / "halut" / "encoders" / "brand_new.py").write_text("WHERE = __file__\n")
    code = "import halut.encoders.brand_new as new, halut._kernels as k; print(new.WHERE)"
    code += "; print(k.__file__); import halut.data; print(halut.data.__file__)"
    code += "; from halut.training.config.hydra_schemas import conf_dir; print(conf_dir())"
    lines = run(environment.python, "-c", code, cwd=tmp_path).stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(str(source.resolve())) for line in lines)
    added = [path for path in environment.packages.iterdir() if "halut" in path.name]
    assert not any(path.is_dir() and not path.name.endswith(".dist-info") for path in added)


def test_both_commands_read_the_checkouts_configuration(editable, tmp_path):
    environment, source = editable
    (source / "conf" / "model" / "mine.yaml").write_text(
        "defaults: [schema/model@_here_, _self_]\nname: resnet8\n"
    )
    arguments = ("model=mine", "--cfg", "job")
    script = run(environment.python, "train.py", *arguments, cwd=source).stdout
    assert "name: resnet8" in script
    assert environment.halut("train", *arguments, cwd=tmp_path).stdout == script


def test_a_second_checkout_runs_its_own_files(editable, tmp_path):
    environment, _ = editable
    second = checkout(tmp_path / "second")
    (second / "halut" / "mark.py").write_text("")
    (second / "where.py").write_text("import halut.mark; print(halut.__file__)")
    where = run(environment.python, "where.py", cwd=second).stdout
    assert where.startswith(str(second.resolve()))


def test_the_portable_capability_passes_the_contract(editable, tmp_path):
    environment, source = editable
    report = json.loads(environment.halut("env", "--json", cwd=tmp_path).stdout)
    assert report["cpu_kernels"] == "portable, of portable"
    suite = (
        "-m",
        "pytest",
        "-q",
        "-x",
        "tests/kernels/test_kernel_contract.py",
        "tests/ops/test_layer.py",
    )
    assert " passed" in run(environment.python, *suite, cwd=source).stdout
