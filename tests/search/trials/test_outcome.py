"""Curves of the best so far, and the exact networks beside them."""

import pytest

from halut.search.trials.outcome import curves


def study(seed, values, bases, objective="val_accuracy", curve="integer"):
    trials = [
        {
            "number": number,
            "values": None if value is None else [value],
            "reason": None,
            "figures": {} if base is None else {"base.val_accuracy": base},
        }
        for number, (value, base) in enumerate(zip(values, bases, strict=True))
    ]
    head = {"curve": curve, "sampler": "tpe", "seed": seed, "objective": objective}
    return {**head, "total": len(values), "trials": trials}


def test_curves_are_means_of_the_best_so_far():
    studies = [study(0, [50.0, 40.0, 70.0], [None] * 3), study(1, [None, 60.0, 50.0], [None] * 3)]
    (curve,) = curves(studies)
    assert curve["seeds"] == [0, 1]
    assert [point["trial"] for point in curve["points"]] == [2, 3]  # all seeds have one by then
    assert curve["points"][1] == {"trial": 3, "mean": 65.0, "low": 60.0, "high": 70.0}


def test_exact_networks_are_a_level_curve_where_each_seed_has_one():
    studies = [study(seed, [50.0, 60.0], [base, base]) for seed, base in ((0, 90.0), (1, 92.0))]
    _, exact = curves(studies)
    assert (exact["curve"], exact["sampler"], exact["seeds"]) == ("exact", "", [0, 1])
    level = {"mean": 91.0, "low": 90.0, "high": 92.0}
    assert exact["points"] == [{"trial": 1, **level}, {"trial": 2, **level}]


@pytest.mark.parametrize(
    "studies",
    [
        [study(0, [50.0, 60.0], [90.0, 91.0])],
        [study(0, [50.0], [90.0]), study(0, [50.0], [91.0], curve="log")],
        [study(0, [90.0, 90.0], [90.0, 90.0], objective="base.val_accuracy")],
        [study(0, [50.0], [90.0]), study(1, [50.0], [None])],
    ],
    ids=["searched", "searched in another curve", "the objective itself", "unknown"],
)
def test_no_exact_curve_where_there_is_not_one_exact_network(studies):
    assert all(curve["sampler"] for curve in curves(studies))
