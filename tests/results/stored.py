"""Records of two networks, as verbs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halut.results.record import Record
from halut.results.store import Store


def sensitivity(site: str, lost: float, **changes: Any) -> Record:
    """One site of a network replaced by a tree."""
    fields: dict[str, Any] = {
        "kind": "sensitivity",
        "network": {"model": "resnet8", "options": {}, "weights": "aaaa"},
        "data": {"name": "digits", "split": "val", "samples": 270, "digest": "dddd"},
        "figures": {"lost": lost, "accuracy": 97.0 - lost, "bytes": 4096},
        "site": site,
        "operator": "tree",
        "options": {"C": 16, "K": 16, "activation": {"width": 8}},
        "calibration": 512,
        "score": "measured",
        "context": {"time": f"2026-11-28T00:00:0{len(site)}", "commit": "c0ffee"},
    }
    return Record(**{**fields, **changes})


RECORDS = [
    sensitivity("conv1", 4.0),
    sensitivity("stack1.conv1", 0.5),
    sensitivity("stack1.conv2", 1.5, options={"C": 8, "K": 16}),
    sensitivity("fc", float("nan"), operator="pq", options={"V": 4}),
]


def write_store(path: Path, *more: Record) -> None:
    """A store of RECORDS and `more`."""
    store = Store(path)
    for record in (*RECORDS, *more):
        store.append(record)
