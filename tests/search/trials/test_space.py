"""Spaces: which trials there are, and the overrides they are made of."""

from __future__ import annotations

import itertools

import pytest

from halut.errors import HalutError
from halut.search.trials.parameter import Parameter
from halut.search.trials.space import SiteChoices, TrialSpace, Values, space_of
from halut.sites.find import Site
from halut.sites.plan import Entry, Plan
from halut.training.config.overrides import parsed_overrides

PLAN = Plan(
    (
        Entry(Site("first", "linear", D=4, M=4), "keep"),
        Entry(Site("a", "linear", D=8, M=8), "tree", {}),
        Entry(Site("b.c", "linear", D=6, M=8), "tree", {}),
    )
)


def network(overrides: list[str]) -> Plan:
    return PLAN


def first(parameter: Parameter, values: Values) -> str:
    return parameter.domain.values[0]


def trials(space: TrialSpace) -> list[list[str]]:
    return [overrides for _, overrides in space.points(network)]


def test_words_with_one_value_are_fixed_and_win_over_the_experiments_several():
    space = space_of(["a=1", "b=2,3", "+c=x"], {"a": "1,2", "d": "range(2)", "e": None}, [])
    assert [p.name for p in space.parameters] == ["d", "b"]
    assert space.fixed == ("a=1", "+c=x", "e=null")


def test_a_grid_has_every_point_once_and_none_of_what_is_not_there():
    space = space_of(["halut=tree,integer", "halut.V=4,8 if halut=tree", "x+y=1,2"], {}, [])
    assert sorted(map(tuple, trials(space))) == sorted(
        [("halut=tree", f"halut.V={v}", f"x={x}", f"y={x}") for v in (4, 8) for x in (1, 2)]
        + [("halut=integer", f"x={x}", f"y={x}") for x in (1, 2)]
    )


def test_a_condition_may_stand_before_what_it_is_of():
    words = ["halut.V=4,8 if halut=tree", "halut=tree,integer"]
    assert trials(space_of(words, {}, [])) == trials(space_of(words[::-1], {}, []))


def test_a_list_that_is_not_there_is_not_written():
    space = space_of(["m=vit,cnn", "+o=subset(p) if m=vit"], {}, [])
    assert trials(space) == [["m=vit", "+o=[]"], ["m=vit", "+o=[p]"], ["m=cnn"]]


def test_signs_in_front_of_keys_stay_and_of_equal_keys_the_last_word_counts():
    assert trials(space_of(["++a=1,2"], {}, [])) == [["++a=1"], ["++a=2"]]
    space = space_of(["b=9", "c=1", "b=2,3", "c=4", "d=5"], {"+d": "6,7"}, [])
    assert space.fixed == ("c=4", "d=5")
    assert [parameter.name for parameter in space.parameters] == ["b"]


def test_a_subset_is_written_as_the_list_of_its_key():
    lists = [each[0] for each in trials(space_of(["+m=subset(p,q)"], {}, []))]
    assert sorted(lists) == ["+m=[]", "+m=[p,q]", "+m=[p]", "+m=[q]"]


def test_sites_become_rules_of_the_policy_and_all_others_stay():
    choices = SiteChoices(("keep", "tree V=4", "integer"))
    space = space_of(["policy=conv3x3", "policy.share=true"], {}, [choices])
    points = space.points(network)
    assert len(points) == 9
    names = {name for values, _ in points for name in values}
    assert names == {"site:a", "site:b.c"}
    by_values = {tuple(values.values()): overrides for values, overrides in points}
    rules = by_values["tree V=4", "keep"][-1]
    assert by_values["tree V=4", "keep"][:-1] == ["policy.share=true", "policy=everything"]
    parsed = parsed_overrides([rules])["policy.rules"].value()
    assert [dict(rule) for rule in parsed][:2] == [
        {"name": "a", "operator": "tree", "options": {"V": 4}},
        {"name": "b.c", "operator": "keep"},
    ]
    assert parsed[2]["operator"] == "keep"
    every = parsed_overrides([by_values["keep", "keep"][-1]])["policy.rules"].value()
    assert [rule["operator"] for rule in every] == ["exact", "exact", "keep"]  # one is replaced


def test_sites_share_a_choice_and_patterns_have_their_own():
    choices = [
        SiteChoices(("tree V=2", "integer"), "a"),
        SiteChoices(("keep", "pq V=2"), "*", shared=True),
    ]
    values = [values for values, _ in space_of([], {}, choices).points(network)]
    assert [tuple(each) for each in values] == [("site:a", "site:*")] * 4
    assert len({tuple(each.values()) for each in values}) == 4


def test_a_pattern_without_a_site_of_its_own_is_refused():
    choices = [SiteChoices(("keep", "tree"), "a"), SiteChoices(("keep", "pq"), "a", shared=True)]
    with pytest.raises(HalutError, match="a: an earlier pattern has all its sites"):
        space_of([], {}, choices).points(network)


def test_what_a_site_does_not_support_is_no_value_of_its():
    choices = SiteChoices(("keep", "tree C=7", "integer"))
    values, _ = space_of([], {}, [choices]).points(network)[0]
    assert list(values) == ["site:a", "site:b.c (2 options)"]
    with pytest.raises(HalutError, match=r"no site can be tree C=9: .*C must be"):
        space_of([], {}, [SiteChoices(("keep", "tree C=9"))]).points(network)


def test_sites_are_those_of_the_network_that_the_other_keys_build():
    def built(overrides: list[str]) -> Plan:
        depth = 2 if "depth=2" in overrides else 1
        return Plan(PLAN.entries[1 : 1 + depth])

    space = space_of(["depth=1,2"], {}, [SiteChoices(("keep", "integer"))])
    points = [tuple(values) for values, _ in space.points(built)]
    assert sorted(set(points)) == [("depth", "site:a"), ("depth", "site:a", "site:b.c")]
    assert len(points) == 2 + 4


def test_points_are_what_a_sampler_can_reach():
    """The grid and samplers see one space: any choices a sampler makes are a point of the grid."""
    words = ["halut=tree,integer", "halut.V=4,8 if halut=tree", "m=subset(p)", "z=range(2)"]
    space = space_of(words, {}, [])
    grid = {tuple(overrides) for overrides in trials(space)}
    drawn = set()
    for picks in itertools.product(range(2), repeat=4):
        order = iter(picks)
        _, overrides = space.trial(network, lambda p, _, order=order: p.domain.values[next(order)])
        drawn.add(tuple(overrides))
    assert drawn == grid


@pytest.mark.parametrize(
    ("words", "sites", "says"),
    [
        (["a=1"], [], "nothing to search"),
        (["seed=0,1"], [], "seed: a search sets it itself"),
        (["run_dir=a,b"], [], "run_dir: a search sets it itself"),
        (["seed=5", "a=1,2"], [], "seed: a search sets it itself"),
        (["run_dir=x", "a=1,2"], [], "run_dir: a search sets it itself; .*--out"),
        (["a=1,2 if b=3"], [], "a: if b=3: unknown parameter 'b'"),
        (["a=1,2 if b=5", "b=3,4"], [], "a: if b=5: unknown value '5'; .*: 3, 4"),
        (["a=1,2 if b=3", "b=3,4 if a=1"], [], "go round in a circle"),
        (["a=1,2", "a+b=3,4"], [], r"a stands in a=\.\.\. and in a\+b=\.\.\."),
        (["b=1", "a+b=3,4"], [], r"b stands in b=\.\.\. and in a\+b=\.\.\."),
        ([], [SiteChoices(("keep",))], "nothing to search"),
        (["halut.V=4,8"], [SiteChoices(("keep", "tree"))], "halut.V has no effect where options"),
    ],
)
def test_spaces_that_cannot_be_are_refused(words, sites, says):
    with pytest.raises(HalutError, match=says):
        space_of(words, {}, sites)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"nam": "a", "options": ["keep"]}, "unknown key 'nam'"),
        ({"name": "a"}, "give options"),
    ],
)
def test_entries_of_sites_that_cannot_be_are_refused(entry, says):
    with pytest.raises(HalutError, match=says):
        SiteChoices.of(entry)


def test_a_grid_wants_lists():
    with pytest.raises(HalutError, match="sampler=grid has no list of lr"):
        space_of(["lr=interval(0,1)"], {}, []).points(network)
    with pytest.raises(HalutError, match="more than 100,000 points"):
        space_of([f"k{i}=range(10)" for i in range(6)], {}, []).points(network)
