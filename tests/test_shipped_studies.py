"""benchmarks/studies: stores that read cleanly, and pages and tables made of them alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from halut.results.store import Store

FOLDER = Path(__file__).parents[1] / "benchmarks"
STUDIES = yaml.safe_load((FOLDER / "studies" / "studies.yaml").read_text())["studies"]
LIBRARY = re.compile(r'(<script type="text/plain" id="chart-library">).*?</script>', re.S)


@pytest.mark.parametrize("name", STUDIES)
def test_a_store_reads_without_problems_and_names_its_commands(name):
    reading = Store(FOLDER / "studies" / name).read()
    assert not reading.problems
    assert len(reading.records) > 50
    script = (FOLDER / "studies" / f"{name}.sh").read_text()
    for record in reading.records:
        command = record.context["command"]
        assert not re.search(r"(^|[ =])/", command), f"a path of one machine: {command}"
        assert re.match(r"(halut|python train\.py) ", command)
        assert " ".join(command.split()[:2]) in script or "halut sweep" in script


@pytest.mark.slow  # it draws every chart
def test_pages_pictures_and_tables_are_reproduced_by_the_stores(tmp_path):
    pytest.importorskip("vl_convert")
    command = [sys.executable, FOLDER / "studies.py", "--out", tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    written = [p.relative_to(tmp_path) for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    assert {f"studies/{name}.html" for name in STUDIES} < {str(path) for path in written}
    for path in written:
        shipped, fresh = ((root / path).read_text() for root in (FOLDER, tmp_path))
        if path.suffix == ".html":  # the charts' library has a version of its own
            shipped, fresh = (LIBRARY.sub(r"\1</script>", page) for page in (shipped, fresh))
        assert fresh == shipped, f"python benchmarks/studies.py writes {path} otherwise"


def test_a_store_that_says_otherwise_gives_other_pages(tmp_path):
    from halut.page.gather import gather

    name = next(iter(STUDIES))
    copy = shutil.copytree(FOLDER / "studies" / name, tmp_path / name)
    file = sorted(copy.glob("*.jsonl"))[0]
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    counts = [gather([path])["records"]["count"] for path in (FOLDER / "studies" / name, copy)]
    assert counts[0] == counts[1] + 1
