"""Networks to operate on, and plans for them."""

from __future__ import annotations

import torch
from torch import nn

from halut.replace.policy import resolve, simple_rules
from halut.sites.find import find_sites


class Zoo(nn.Module):
    """Every geometry of a convolution, and linear layers on maps, tokens and vectors."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 12, 3, padding=(2, 1), groups=4)
        self.depthwise = nn.Conv2d(12, 24, (3, 5), padding=(1, 2), groups=12)
        self.dilated = nn.Conv2d(24, 8, 3, dilation=(2, 3), padding=3, stride=(1, 2))
        self.same = nn.Conv2d(8, 8, 3, padding="same", dilation=2, bias=False)
        self.even = nn.Conv2d(8, 6, (2, 4), padding="same")  # one more pixel right and below
        self.point = nn.Conv2d(6, 5, 1, stride=2)
        self.valid = nn.Conv2d(5, 4, 2, padding="valid")
        self.tokens = nn.Linear(4, 7, bias=False)
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        for layer in (self.stem, self.grouped, self.depthwise, self.dilated, self.same, self.even):
            x = torch.relu(layer(x))
        x = self.valid(self.point(x)).permute(0, 2, 3, 1)
        return self.head(self.tokens(x).mean((1, 2)))


class Shared(nn.Module):
    """One layer at two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Sequential(self.first, nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


def plan_of(network, example, operator="exact", options=None, **short):
    sites, unsupported = find_sites(network, example)
    defaults = {"keep_first": False, "keep_last": False, "keep_depthwise": False}
    rules = simple_rules(sites, **{**defaults, **short})
    return resolve(sites, rules, operator, options or {}, unsupported)
