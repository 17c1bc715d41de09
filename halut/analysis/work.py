"""What a site does for one sample, in the terms that an energy table prices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from halut.codecs import Codec
from halut.encoders.pq import PQEncoder
from halut.layers.codec import CodecLayer
from halut.layers.codec_attention import CodecAttention
from halut.layers.lut import LUTLayer
from halut.sites.find import Site
from halut.sites.operator import ReplacedLayer

FLOAT = 32
SUM = 32
"""Bits of the integers that products and table entries are added up in."""


class Operation(NamedTuple):
    """`name`: add, multiply or compare, of `kind` int or fp and of `bits`; the other factor of a
    product has `other` bits."""

    name: str
    kind: str
    bits: int
    other: int = 0


class Read(NamedTuple):
    """`bytes` read, one sample's, of a memory that holds `size` bytes."""

    bytes: float
    size: int


@dataclass(frozen=True)
class Work:
    """Operations by their number, reads of on-chip memories, and the bytes that are kept."""

    operations: Mapping[Operation, int] = field(default_factory=dict)
    reads: tuple[Read, ...] = ()
    state: int = 0

    def __add__(self, other: Work) -> Work:
        operations = Counter(self.operations)
        operations.update(other.operations)
        return Work(operations, (*self.reads, *other.reads), self.state + other.state)


def work_of(
    site: Site, layer: ReplacedLayer | None, cost: Mapping[str, int], reuse: int | None = None
) -> Work:
    """The work of a site for one sample.

    `layer` is what takes the site's place, None: the exact product in float32; `cost` is that of
    halut.analysis.network_cost.planned_costs, less an encoder that an earlier site has. A weight or
    a prototype, once read, serves `reuse` rows (None: all of the sample's).

    Counted: a multiplication and an addition for each multiply-add; every addition and compare of
    encoders, in float32; an addition for each look-up. Sums of integers have 32 bits. Read from
    on-chip memory: the entry of every look-up, of a memory of the site's tables; the threshold of
    every compare of a tree; weights and prototypes; of every row the inputs that are looked at, in
    their format, of a memory of the site's inputs.

    Not counted: biases and the one rescaling of each output, making codes of a codec's inputs,
    codes between encoder and table, outputs (they are the next site's inputs), norms, activation
    functions, addresses, control and leakage.
    """
    state = sum(cost.get(key, 0) for key in ("weight_bytes", "table_bytes", "encoder_bytes"))
    if isinstance(layer, LUTLayer):
        return _tables(layer, cost, state, reuse)
    if isinstance(layer, CodecAttention):
        half = site.macs // 2
        work = Work(state=state)
        for first, second in ((layer.q, layer.k), (layer.a, layer.v)):
            work += Work(_products(half, _number(first), _number(second)))
        return work + Work(reads=_inputs(site, layer.q.width))
    if isinstance(layer, CodecLayer):
        weight, activation = _number(layer.weight_codec), _number(layer.activation_codec)
        reads = _stationary(cost["weight_bits"] / 8, site.rows, reuse)
        operations = _products(site.macs, weight, activation)
        return Work(operations, reads + _inputs(site, activation[1]), state)
    products = float_products(cost.get("macs", site.macs))
    reads = _stationary(FLOAT / 8 * site.weights, site.rows, reuse)
    return Work(products, reads + _inputs(site, FLOAT), state)


def _tables(layer: LUTLayer, cost: Mapping[str, int], state: int, reuse: int | None) -> Work:
    """Encoders read and compare floats; tables have integers, or floats where sums are floats."""
    site, options = layer.site, layer.options
    bits = FLOAT if options.bits is None else options.bits
    integer = options.bits is not None and options.scale != "codebook"
    compares, macs = cost["encode_compares"], cost["encode_macs"]
    operations = Counter(
        {
            Operation("compare", "fp", FLOAT): compares,
            Operation("multiply", "fp", FLOAT, FLOAT): macs,
            Operation("add", "fp", FLOAT): macs + cost["encode_adds"],
        }
    )
    operations[Operation("add", "int", SUM) if integer else Operation("add", "fp", FLOAT)] += cost[
        "adds"
    ]
    table = cost["table_bytes"]
    reads: tuple[Read, ...] = (Read(cost["lookups"] * bits / 8, table),)
    encoder = cost["encoder_bytes"]
    if not encoder:  # an earlier site has it, and reads the inputs
        return Work(+operations, reads, state)
    if isinstance(layer.encoder, PQEncoder):
        reads += _stationary(encoder, site.rows, reuse) + _inputs(site, FLOAT)
    else:
        tested = FLOAT / 8 * compares
        reads += (Read(tested, encoder), Read(tested, _input_bytes(site, FLOAT)))
    return Work(+operations, reads, state)


def _number(codec: Codec | None) -> tuple[str, int]:
    """The kind and the bits of a codec's values as factors; floats without one."""
    return ("fp", FLOAT) if codec is None else (codec.number, codec.width)


def float_products(macs: int) -> dict[Operation, int]:
    """Multiply-adds in float32."""
    return _products(macs, ("fp", FLOAT), ("fp", FLOAT))


def _products(macs: int, first: tuple[str, int], second: tuple[str, int]) -> dict[Operation, int]:
    """`macs` multiplications and additions of two kinds of numbers.

    A float makes the product one of floats, of the wider factor. Products of logarithms are
    additions of the wider one's bits, and those of a logarithm and an integer are shifts, counted
    like these.
    """
    kinds, bits = {first[0], second[0]}, max(first[1], second[1])
    if "fp" in kinds:
        return {
            Operation("multiply", "fp", bits, bits): macs,
            Operation("add", "fp", bits): macs,
        }
    add = Operation("add", "int", SUM)
    if "log" in kinds:
        operations = Counter({Operation("add", "int", bits): macs})
        operations[add] += macs
        return dict(operations)
    return {Operation("multiply", "int", first[1], second[1]): macs, add: macs}


def _stationary(weight_bytes: float, rows: int, reuse: int | None) -> tuple[Read, ...]:
    """Reads of what is held while `reuse` rows pass."""
    times = 1 if reuse is None else -(-rows // reuse)
    return (Read(weight_bytes * times, math.ceil(weight_bytes)),) if weight_bytes else ()


def _inputs(site: Site, bits: int) -> tuple[Read, ...]:
    """Reads of every row's inputs, each once for all outputs."""
    return (Read(site.inputs * bits / 8, _input_bytes(site, bits)),)


def _input_bytes(site: Site, bits: int) -> int:
    """Bytes of a site's inputs for one sample: of a convolution's map, an input of several kernel
    positions once, and those that a stride steps over as well."""
    stride = math.prod(site.geometry.stride) if site.geometry is not None else 1
    return math.ceil(site.inputs / site.taps * stride * bits / 8)
