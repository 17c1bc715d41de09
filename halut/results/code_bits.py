"""Bits of what takes the place of a weight, by an operator and its options."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from halut.analysis.run_figures import nested
from halut.codecs import Layout
from halut.codecs.factors import make_codec
from halut.configs import FACTORS, TableConfig
from halut.errors import HalutError
from halut.layers.codec import FLOAT
from halut.layers.codec_operator import CodecOperator
from halut.replace.operator_registry import make_operator


def code_bits(operator: str | None, options: Mapping[str, Any]) -> int | None:
    """Bits of a table's entry, or of a code of a codec's weight; shared scales are not counted.

    `options` as a plan has them, or as the group halut of a run, by dotted key. 32 of floats; of
    attention's products, which have no weight, the bits of their factors. None for what is no
    operator (keep, those of several layers) or is of a plugin that is not imported.

    >>> code_bits("integer", {"width": 4}), code_bits("tree", {"C": 16, "bits": None})
    (4, 32)
    """
    if operator is None:
        return None
    return _bits(operator, json.dumps(dict(options), sort_keys=True))


@functools.lru_cache(maxsize=4096)
def _bits(name: str, options: str) -> int | None:
    try:
        values = json.loads(options)
        operator = make_operator(name, **nested(values))
        config: Any = operator.config
        if isinstance(operator, CodecOperator):
            weightless = values.keys() == set(FACTORS)  # a plan's options of attention's products
            role = "activation" if weightless and values["weight"] is None else "weight"
            codec = make_codec(operator.specs[role], Layout(role, (1, 1, FLOAT)))
            return FLOAT if codec is None else codec.width
    except (HalutError, TypeError, ValueError, AttributeError):  # options of another version
        return None
    if isinstance(config, TableConfig):
        return FLOAT if config.bits is None else config.bits
    return None
