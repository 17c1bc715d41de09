"""A model with separate q, k and v, as a registered model and, run as a script, in `train.py`."""

from __future__ import annotations

from torch import nn

from halut.models.builders import models

NAMES = ("q", "k", "v")


@models.register("digit_attention")
class DigitAttention(nn.Module):
    """One attention over the rows of an 8x8 image."""

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.embed = nn.Linear(8 * in_channels, 16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in NAMES)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.embed(x.transpose(1, 2).flatten(2))
        y = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.head((x + y).mean(1))


if __name__ == "__main__":
    from halut.training.main import main

    main()
