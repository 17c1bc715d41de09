"""Sizes of an operator from its options: C, V, K and bits, as far as they tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halut.analysis.run_figures import is_number, mapping
from halut.results.code_bits import code_bits

SIZES = ("C", "V", "K", "bits")


def sizes(operator: str | None, options: Mapping[str, Any], D: Any = None) -> dict[str, Any]:
    """SIZES of a table or a number format, None where the options do not tell.

    C is the number of codebooks and V the inputs of the widest; with D, the inputs of the site,
    either gives the other. K is the number of prototypes. bits are those of a table's entry, or of
    a weight's code (halut.results.code_bits); of an operator that is not known here, what its
    options call bits or width. Options are nested or have dotted keys.

    >>> sizes("tree", {"C": 16, "K": 16, "bits": 8}, D=144)
    {'C': 16, 'V': 9, 'K': 16, 'bits': 8}
    >>> sizes("integer", {"width": 4})["bits"]
    4
    """
    C, V = options.get("C"), options.get("V")
    if V is None and _positive(C) and _positive(D):
        V = -(-D // C)
    elif C is None and _positive(V) and _positive(D):
        C = -(-D // V)
    weight = mapping(options.get("weight")).get("width", options.get("weight.width"))
    widths = (code_bits(operator, options), options.get("bits"), weight, options.get("width"))
    bits = next((width for width in widths if is_number(width)), None)
    return {"C": C, "V": V, "K": options.get("K"), "bits": bits}


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
