"""What a bundle's weights tell of each table: prototypes, and trees with what they test."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from halut.ops.blocks import Blocks
from halut.page.shapes import sizes

CODEBOOKS = 64
"""Codebooks of a site that the page shows; `codebooks` of a site says how many there are."""


def site_operators(path: Path, plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Prototypes and trees of every replaced site, from model.safetensors, by the site's name.

    {"codebooks", "K", "V", "prototypes": {"data", "scale", "shape"}, "thresholds": [C][K-1],
    "dims": [C][depth or K-1], "columns": first column of each codebook}: prototypes in 8 bits
    (base64; times scale), for pictures. Sites with a shared encoder have that of its owner.
    """
    found: dict[str, dict[str, Any]] = {}
    with safe_open(str(path), "np") as file:
        keys = set(file.keys())
        for entry in plan.get("entries", []):
            name = entry["site"]["name"]
            for owner in (name, entry.get("shares")):
                prefix = f"{owner}.encoder."
                if owner and any(key.startswith(prefix) for key in keys):
                    found[name] = _tables(file, keys, owner, entry)
                    break
    return {name: tables for name, tables in found.items() if tables}


def _tables(file: Any, keys: set[str], owner: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    def tensor(name: str) -> NDArray[Any] | None:
        key = f"{owner}.{name}"
        return file.get_tensor(key) if key in keys else None

    tables: dict[str, Any] = {}
    prototypes = tensor("encoder.prototypes")
    if prototypes is None:
        prototypes = tensor("prototypes")
    if prototypes is not None:
        tables |= {"codebooks": len(prototypes), "K": prototypes.shape[1]}
        tables["prototypes"] = _packed(prototypes[:CODEBOOKS])
    thresholds = tensor("encoder.thresholds")
    dims = tensor("encoder.split_dims")
    dims = tensor("encoder.node_dims") if dims is None else dims
    if thresholds is not None and dims is not None:
        tables |= {"codebooks": len(thresholds), "K": thresholds.shape[1] + 1}
        tables["thresholds"] = [[_rounded(t) for t in row] for row in thresholds[:CODEBOOKS]]
        tables["dims"] = dims[:CODEBOOKS].tolist()
    tables |= _columns(entry)
    order = tensor("encoder.transform.order")
    if order is not None and dims is not None:  # columns of the site's own input
        tables["dims"] = order[dims[:CODEBOOKS]].tolist()
    elif entry.get("options", {}).get("transform", "none") != "none":
        tables["transformed"] = entry["options"]["transform"]
    return tables


def _columns(entry: Mapping[str, Any]) -> dict[str, Any]:
    """First column and width of every codebook that is kept."""
    site, options = entry["site"], entry.get("options", {})
    C, stages = (
        sizes(entry.get("operator"), options, site["D"])["C"] or 1,
        1 + options.get("residual", 0),
    )
    blocks = Blocks(site["D"], C * stages, site.get("groups", 1), stages)
    return {"starts": blocks.starts[:CODEBOOKS], "widths": blocks.widths[:CODEBOOKS]}


def _packed(values: NDArray[Any]) -> dict[str, Any]:
    top = float(np.abs(values).max()) if values.size else 0.0
    scale = top / 127 if np.isfinite(top) and top else 1.0
    codes = np.nan_to_num(values / scale).clip(-127, 127).round().astype(np.int8)
    data = base64.b64encode(codes.tobytes()).decode()
    return {"data": data, "scale": scale, "shape": list(values.shape)}


def _rounded(value: Any) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
