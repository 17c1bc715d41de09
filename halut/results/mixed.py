"""What records have that must not be compared without a word: other networks, other data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from halut.results.record import Record

MAX_NAMED = 6


def networks_of(records: Iterable[Record]) -> list[str]:
    """Every network among the records, "resnet8 (weights 5f70bf18a086)", by their order."""
    names = (
        f"{r.network.get('model')} (weights {r.network.get('weights') or 'unknown'})"
        for r in records
    )
    return list(dict.fromkeys(names))


def data_of(records: Iterable[Record]) -> list[str]:
    """Every data set, "digits val, 270 samples (2c26b46b68ff)", by their order."""
    names = (
        f"{d.get('name')} {d.get('split')}, {d.get('samples')} samples ({d.get('digest')})"
        for d in (record.data for record in records)
    )
    return list(dict.fromkeys(names))


def mixed(records: Sequence[Record]) -> list[str]:
    """A line each if the records of a kind and score are of several networks, or data sets.

    Accuracy and errors of one network, or of one sample of the data, say nothing of another's. The
    scores of a sensitivity are of different data by their nature.
    """
    lines = []
    for kind, score in dict.fromkeys((record.kind, record.score) for record in records):
        alike = [record for record in records if (record.kind, record.score) == (kind, score)]
        name = kind if score is None else f"{kind}, {score}"
        for noun, names, hint in (
            ("networks", networks_of(alike), "--model, or --where weights=...,"),
            ("data sets", data_of(alike), "--data, or --where data.digest=... samples=...,"),
        ):
            if len(names) > 1:
                text = "; ".join(names[:MAX_NAMED])
                more = f"; and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
                lines.append(f"mixed: {name}: {len(names)} {noun}: {text}{more}. {hint} selects")
    return lines
