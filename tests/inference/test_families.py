"""One network of every family of timm and torchvision, prepared, answers as before."""

import pytest
import timm
import torch

from tests.inference import families
from tests.inference.families import FAMILIES, FLOAT_ERROR, LEFT, TIMM, int8_error

A_DOZEN = [
    "timm beit",
    "timm byobnet",
    "timm convit",
    "timm convmixer",
    "timm convnext",
    "timm deit",
    "timm densenet",
    "timm eva",
    "timm mambaout",
    "timm nfnet",
    "timm starnet",
    "torchvision squeezenet",
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(family: str) -> None:
    row = families.figures(family)
    assert row["replaced"] > 0
    assert row["float"] < max(FLOAT_ERROR, 3 * row.get("own", 0.0)), row
    assert row["int8"] < int8_error(row["rounding"]), row


@pytest.mark.parametrize("family", A_DOZEN)
def test_a_dozen_families(family):
    check(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in A_DOZEN])
def test_every_other_family(family):
    check(family)


def test_every_family_has_a_member_or_a_reason():
    assert set(timm.list_modules()) == {*TIMM, *LEFT}
    assert len(FAMILIES) >= 100
