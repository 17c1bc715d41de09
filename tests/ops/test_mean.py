"""The mean of uint8 maps equals its oracle; what does not fit is refused."""

import pytest
import torch

from halut.errors import HalutError
from halut.ops import mean_pool
from halut.ops.core.dispatch import available, forced
from tests.oracles.integer import mean_pool_reference


@pytest.mark.parametrize("implementation", available("mean_pool"))
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 70, 7, 7), (3, 64, 5, 6), (1, 3, 129, 64)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_means_equal_the_oracle(size, layout, implementation):
    x = torch.randint(256, size, dtype=torch.uint8).contiguous(memory_format=layout)
    pixels = size[2] * size[3]
    with forced(implementation):
        for scale, shift in [(1 / pixels, 0.0), (0.37 / pixels, 12.5), (2.5 / pixels, -300.0)]:
            y = mean_pool(x, scale, shift)
            assert y.dtype == torch.uint8
            assert torch.equal(y, mean_pool_reference(x, scale, shift))


def test_ties_go_to_even():
    x = torch.tensor([[[[1, 2]], [[2, 3]], [[0, 1]]]], dtype=torch.uint8)
    assert mean_pool(x, 0.5, 0.0).flatten().tolist() == [2, 2, 0]


def test_no_images_are_no_answers():
    assert mean_pool(torch.empty(0, 4, 3, 3, dtype=torch.uint8), 1.0, 0.0).shape == (0, 4, 1, 1)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 2, 3, 3),
        torch.zeros(2, 3, dtype=torch.uint8),
        torch.zeros(1, 2, 0, 3, dtype=torch.uint8),
    ],
)
def test_other_inputs_are_refused(x):
    with pytest.raises(HalutError, match=r"x must be a uint8 map|maps must have 1 to"):
        mean_pool(x, 1.0, 0.0)
