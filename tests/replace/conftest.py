"""The zoo, and an input for it."""

from __future__ import annotations

import pytest
import torch

from tests.replace.zoo import Zoo


@pytest.fixture
def zoo():
    torch.manual_seed(0)
    return Zoo().eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 20, 23, generator=torch.Generator().manual_seed(1))
