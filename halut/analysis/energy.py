"""Energy of counted work, by tables of energies per operation whose sources are named.

    energy = sum_o n_o e_o + sum_r bytes_r e_sram(size_r)

over the operations o and the reads r of halut.analysis.work.Work. Reading everything that is kept
once from DRAM is a figure of its own: a network that stays on chip does not, and a batch shares it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from halut.analysis.work import Operation, Work
from halut.errors import HalutError
from halut.io import reading
from halut.option import unknown

FOLDER = Path(__file__).parent / "energies"
FORMATS = ("int8", "int32", "fp16", "fp32")
DEFAULT = "45nm"
PICO = 1e-12


@dataclass(frozen=True)
class EnergyTable:
    """Picojoules of an operation by its format, of a byte read on chip by the bytes of the memory
    that it lies in, and of a byte from DRAM. `source` names where they are from.
    """

    name: str
    source: str
    add: Mapping[str, float]
    multiply: Mapping[str, float]
    compare: Mapping[str, float]
    sram: Mapping[int, float]
    dram: float

    def price(self, operation: Operation) -> float:
        """Picojoules of one operation.

        Integers of other widths than those listed are interpolated: additions and compares linearly
        in their bits, multiplications in the product of both factors' bits; narrower ones than 8
        bits are in proportion. Floats count as the next wider that is listed, fp32 at the most.
        """
        prices = {"add": self.add, "multiply": self.multiply, "compare": self.compare}[
            operation.name
        ]
        if operation.kind == "fp":
            return prices["fp16" if operation.bits <= 16 else "fp32"]
        size, low, high = operation.bits, 8, 32
        if operation.name == "multiply":
            size, low, high = operation.bits * operation.other, 8 * 8, 32 * 32
        if size <= low:
            return prices["int8"] * size / low
        return prices["int8"] + (prices["int32"] - prices["int8"]) * (size - low) / (high - low)

    def read_price(self, size: int) -> float:
        """Picojoules of a byte out of a memory of `size` bytes: that of the smallest listed memory
        which holds it, or of the largest, of which there are then several."""
        sizes = sorted(self.sram)
        return self.sram[next((each for each in sizes if each >= size), sizes[-1])]


def energy(work: Work, table: EnergyTable, bank: int | None = None) -> dict[str, float]:
    """Joules of the work for one sample.

    energy = energy_compute + energy_sram; energy_dram is what it takes to read the weights, tables
    and encoders once from DRAM. Memories are as large as what a site keeps in them, or consist of
    banks of at most `bank` bytes, of which a read costs what the bank does. What is counted, and
    what is not: halut.analysis.work.work_of.

    >>> adds = Work({Operation("add", "int", 32): 1000})
    >>> energy(adds, load_energies("45nm"))["energy"]
    1e-10
    """
    compute = sum(count * table.price(operation) for operation, count in work.operations.items())
    sram = sum(
        read.bytes * table.read_price(read.size if bank is None else min(read.size, bank))
        for read in work.reads
    )
    return {
        "energy": PICO * (compute + sram),
        "energy_compute": PICO * compute,
        "energy_sram": PICO * sram,
        "energy_dram": PICO * work.state * table.dram,
    }


def in_joules(value: float) -> str:
    """Three digits with a metric prefix: 4.86 mJ, 250 nJ."""
    for prefix, factor in (("", 1.0), ("m", 1e-3), ("u", 1e-6), ("n", 1e-9)):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}J"
    return f"{value / PICO:.3g} pJ"


def energy_tables() -> list[str]:
    """Names of the tables that come with halut."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (len(name), name))


def load_energies(choice: str | Path = DEFAULT) -> EnergyTable:
    """The table of that name, or of a YAML file of the same keys.

    Raises HalutError for an unknown name, a file that is missing or damaged, unknown or missing
    keys, and energies that are no positive numbers.
    """
    path = FOLDER / f"{choice}.yaml" if str(choice) in energy_tables() else Path(choice)
    if not path.is_file():
        raise HalutError(
            f"{unknown('energy table', str(choice), energy_tables())}, or the path of a YAML file"
        )
    import yaml

    with reading(path):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"no YAML: {error}") from error
    return _checked(content, path)


def _checked(content: Any, path: Path) -> EnergyTable:
    names = [field.name for field in fields(EnergyTable)]
    _check_keys(content, names, f"{path}", "key")
    for key in ("name", "source"):
        if not isinstance(content[key], str) or not content[key].strip():
            raise HalutError(f"{path}: {key} must be a text, got {content[key]!r}")
    for key in ("add", "multiply", "compare"):
        _check_keys(content[key], FORMATS, f"{path}: {key}", "format")
    sram = content["sram"]
    sizes = isinstance(sram, dict) and all(type(s) is int and s > 0 for s in sram)
    if not sizes or not sram:
        raise HalutError(
            f"{path}: sram must be energies by bytes of memory, such as {{8192: 1.25}}"
        )
    for key in ("add", "multiply", "compare", "sram", "dram"):
        values = content[key] if isinstance(content[key], dict) else {"": content[key]}
        for name, value in values.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                place = f"{key}.{name}".rstrip(".")
                raise HalutError(
                    f"{path}: {place} must be a positive number of pJ, got {value!r:.40}"
                )
    return EnergyTable(**content)


def _check_keys(content: Any, names: Any, place: str, noun: str) -> None:
    """Raise HalutError unless `content` is a mapping of exactly these names."""
    if not isinstance(content, dict):
        raise HalutError(f"{place}: a mapping of {', '.join(names)} is wanted, got {content!r:.40}")
    for key in content:
        if key not in names:
            raise HalutError(f"{place}: {unknown(noun, str(key), list(names))}")
    missing = [name for name in names if name not in content]
    if missing:
        raise HalutError(f"{place}: {', '.join(missing)} is missing; it has {', '.join(names)}")
