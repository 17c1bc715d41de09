"""Commands that reports and records tell can be typed again."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from halut.training.config.command import override_value


@pytest.mark.parametrize(
    "text",
    [
        *("runs/mine", "runs/s/halut.K=8,seed=0", "null", "true", "7", "", "with space"),
        *("it's", "a\\'b", "end\\", "two\\\\", "a{b}[c]", "ünï/cöde", "a\\b"),
    ],
)
def test_a_value_is_read_as_the_same_text(text):
    override = OverridesParser.create().parse_override(f"run_dir={override_value(text)}")
    value = override.value()
    assert isinstance(value, str) or type(value).__name__ == "QuotedString"
    assert str(value if isinstance(value, str) else value.text) == text


def test_plain_paths_stand_as_they_are():
    assert override_value("runs/mine-2/a.b") == "runs/mine-2/a.b"
