"""Every run leaves its page, whatever becomes of it."""

from __future__ import annotations

import json
import re

from halut.page import document
from halut.page.columns import as_rows
from halut.training import run_page

QUICK = ("debug=smoke", "policy.only=[stack3.conv2]", "model.options.width=8", "baseline=false")


def content(path):
    """What the page's script reads."""
    text = path.read_text()
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_a_run_leaves_a_page_with_its_own_figures(train, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "chart_library", lambda: None)  # what no figure depends on
    run = tmp_path / "run"
    assert train(*QUICK, f"run_dir={run}").code == 0
    report = json.loads((run / "report.json").read_text())
    page = content(run / "report.html")
    ours = as_rows(page["headline"])[-1]
    assert ours["accuracy"] == report["final"]["test_accuracy"]
    assert ours["bytes"] == report["memory"]["after"]["total"]
    assert ours["command"] == report["command"]
    energies = {line["variant"]: line["energy"] for line in as_rows(page["headline"])}
    costs = report["cost"]["variants"]
    assert energies == {n: costs[v]["energy"] for n, v in (("exact", "exact"), ("ours", "plan"))}
    assert page["runs"][0]["energies"].startswith("45nm, M. Horowitz")
    (shown,) = page["runs"]
    (site,) = [site for site in shown["sites"] if site["operator"] != "keep"]
    assert site["code_perplexity"] == report["sites"][0]["code_perplexity"]
    detail = shown["details"]["stack3.conv2"]
    assert len(detail["codes"]["counts"]) == site["C"]
    assert all(sum(row) == detail["codes"]["rows"] for row in detail["codes"]["counts"])
    assert len(detail["thresholds"][0]) == site["K"] - 1
    samples = shown["confusion"]["samples"]
    assert sum(map(sum, shown["confusion"]["counts"])) == samples > 0


def test_a_run_whose_page_fails_has_finished(train, tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr(run_page, "write_page", fails)
    run = tmp_path / "run"
    outcome = train(*QUICK, f"run_dir={run}")
    assert outcome.code == 0
    assert "has no report.html: the disk is full" in " ".join(outcome.out.split())
    assert json.loads((run / "state.json").read_text())["next"] == "nothing: finished"
