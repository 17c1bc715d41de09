"""What `--options` and `--sites` mean."""

from __future__ import annotations

import pytest
from torch import nn, zeros

import halut
from halut.errors import HalutError
from halut.replace.policy import Rule, resolve
from halut.sites.find import find_sites
from halut.studies.options import choices_of, chosen_sites, configs_of


@pytest.fixture(scope="module")
def plan():
    network = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    sites, _ = find_sites(network, zeros(1, 16))
    return resolve(sites, [Rule("3"), Rule("*", operator=None)], "tree", {"K": 8})


def test_lists_are_taken_in_full_product():
    asked = configs_of(["tree C=2,4 K=8,16", "integer width=4"])
    assert list(asked) == [
        "tree C=2 K=8", "tree C=2 K=16", "tree C=4 K=8", "tree C=4 K=16", "integer width=4",
    ]  # fmt: skip
    assert asked["tree C=4 K=16"].config == halut.Tree(C=4, K=16)
    assert asked["integer width=4"].options == {"width": 4}


def test_values_are_those_of_the_command_line():
    asked = configs_of(["tree bits=null,8 ridge=0.5,cv", "integer weight.width=3"])
    assert asked["tree bits=null ridge=cv"].options == {"bits": None, "ridge": "cv"}
    assert asked["integer weight.width=3"].options == {"weight": {"width": 3}}
    assert asked["integer weight.width=3"].config.weight["width"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tre C=4", "unknown operator 'tre'; did you mean tree"),
        ("tree Q=4", "unknown option halut.Q; choose from: C, V, K"),
        ("tree K=300", r"halut.K must be in 2\.\.256, got 300"),
        ("tree K=a,b", "halut.K must be int, got 'a'"),
        ("tree K=4 C=2 K=8", "K is given twice; several values are K=A,B"),
        ("tree K", "'K' is no KEY=VALUE"),
        ("tree K=[", "cannot be read"),
        ("", "unknown operator ''"),
        ("data=digits", "names no operator"),
        ("tree C=2 V=3", "give halut.C or halut.V"),
    ],
)
def test_what_is_unknown_is_refused_in_one_line(text, message):
    with pytest.raises(HalutError, match=message) as caught:
        configs_of([text])
    assert "\n" not in str(caught.value)


def test_sites_are_those_of_the_policy_or_of_patterns(plan):
    assert [site.name for site in chosen_sites(plan, [])] == ["0", "2"]
    assert [site.name for site in chosen_sites(plan, ["/[23]/"])] == ["2", "3"]
    with pytest.raises(HalutError, match=r"--sites: 'conv\*' matches no layer; the network has 3"):
        chosen_sites(plan, ["0", "conv*"])


def test_without_options_a_site_becomes_what_the_policy_says(plan):
    choices = choices_of(plan, halut.PQ(K=4), [], ["*"])
    assert [choice.candidate.entry.operator for choice in choices] == ["tree", "tree", "pq"]
    assert choices[0].options["K"] == 8
    assert choices[0].label.startswith("tree C=2 K=8")


def test_options_that_mean_the_same_at_a_site_are_one_candidate(plan):
    choices = choices_of(plan, halut.Tree(), ["tree V=8,16 K=4"], [])
    assert [(c.candidate.site.name, c.label) for c in choices] == [
        ("0", "tree V=8 K=4"),
        ("0", "tree V=16 K=4"),
        ("2", "tree V=8 K=4"),
    ]
