"""Figures of plans: measured once into a store, and again for what they depend on."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

import halut
from halut.analysis.sensitivity import Candidate
from halut.configs import Tree
from halut.results.store import Store
from halut.sites.plan import Plan
from halut.studies.plan_figures import PlanFigures
from tests.training.digit_attention import DigitAttention


class CountingAssembly:
    """Stands for an Assembly; its losses are given, or count its calls."""

    def __init__(self, losses=()):
        self.losses, self.measured = iter(losses), []

    def measure(self, entries):
        self.measured.append([entry.site.name for entry in entries])
        loss = next(self.losses, float(len(self.measured)))
        return {"accuracy": 50.0, "loss": loss, "lost": 40.0, "rise": loss - 0.5}


@pytest.fixture(scope="module")
def plans():
    torch.manual_seed(0)
    network = DigitAttention(10).eval().requires_grad_(False)
    sites, _ = halut.find_sites(network, torch.zeros(1, 1, 8, 8))
    return [Plan(tuple(Candidate.of(site, Tree(C=C, K=4)).entry for site in sites)) for C in (4, 8)]


@pytest.fixture
def figures(tmp_path):
    splits = {"train": range(100), "val": range(20)}
    subject = SimpleNamespace(
        identity={"model": "digit_attention", "options": {}, "weights": "0" * 16},
        data=SimpleNamespace(splits=splits, config=SimpleNamespace(train_samples=None)),
        data_identity=lambda split, samples: {
            "name": "digits",
            "split": split,
            "samples": min(samples, 20),
            "digest": "1" * 16,
        },
    )
    return PlanFigures(
        subject,
        Store(tmp_path),
        CountingAssembly(),
        samples=10,
        calibration=64,
        rows=256,
        seed=0,
        norms=8,
    )


def again(figures, **changed):
    """As another process has it."""
    return dataclasses.replace(figures, assembly=CountingAssembly(), **changed)


def test_what_is_stored_is_not_measured_again(figures, plans):
    first = [figures.measure(plan) for plan in plans]
    assert [each["loss"] for each in first] == [1.0, 2.0]
    later = again(figures)
    assert [later.measure(plan) for plan in plans] == first
    assert later.assembly.measured == []


@pytest.mark.parametrize(
    "changed", [{"samples": 12}, {"calibration": 32}, {"rows": 128}, {"seed": 1}, {"norms": 0}]
)
def test_what_decides_the_figures_is_measured_for(figures, plans, changed):
    figures.measure(plans[0])
    later = again(figures, **changed)
    later.measure(plans[0])
    assert len(later.assembly.measured) == 1


def test_figures_that_are_not_finite_are_not_kept(figures, plans):
    figures.assembly = CountingAssembly([math.nan, 3.0])
    assert math.isnan(figures.measure(plans[0])["loss"])
    assert figures.measure(plans[0])["loss"] == 3.0


def test_the_record_says_which_plan_it_is_of(figures, plans, tmp_path):
    figures.measure(plans[1])
    (record,) = Store(tmp_path).read().records
    assert record.settings["plan"] == plans[1].digest
    assert [each["site"] for each in record.detail["plan"]] == [e.site.name for e in plans[1]]
    assert {each["options"]["C"] for each in record.detail["plan"]} == {8}
