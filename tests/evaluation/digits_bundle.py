"""How the bundle of these tests was made."""

from __future__ import annotations

MODEL = {
    "name": "resnet8",
    "source": "local",
    "options": {"width": 4},
    "num_classes": 10,
    "in_channels": 1,
    "input_shape": [1, 8, 8],
}
SETTINGS = {"mean": [0.3], "std": [0.4], "split_seed": 5, "test_fraction": 0.3}
