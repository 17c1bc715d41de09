"""The codes of a layer's encoder by standard operators, in the body of a function.

An encoding says what its body depends on (`name`), which of the layer's tensors it reads (`inputs`)
and how codes [.., GC] int32 come of the values that a Source has at columns of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from onnx import TensorProto

from halut.encoders.tree import tree_depth
from halut.export.onnx.body import Body
from halut.export.onnx.sources import Source


class Encoding(Protocol):
    """See the module."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors it reads, inputs of the function."""

    @property
    def kind(self) -> str:
        """The first word of the function's name."""

    @property
    def variant(self) -> str:
        """The end of the function's name."""

    def codes(self, b: Body, source: Source) -> str:
        """The output that holds the codes."""


@dataclass(frozen=True)
class TreeCodes:
    """Hash trees: columns [depth, GC] that the levels test, thresholds [GC, K - 1] in heap order.

    The nodes of a level test one column, so that only the threshold depends on the path.
    """

    K: int
    kind: ClassVar[str] = "Tree"
    inputs: ClassVar[tuple[str, ...]] = ("columns", "thresholds")

    @property
    def variant(self) -> str:
        return f"_K{self.K}"

    def codes(self, b: Body, source: Source) -> str:
        code = ""
        for level in range(tree_depth("tree", self.K)):
            x = source.take(b("Gather", "columns", b.constant(level), axis=0))
            test = b("Greater", x, self._thresholds(b, level, code))
            code = deeper(b, code, b("Cast", test, to=TensorProto.INT32))
        return code

    def _thresholds(self, b: Body, level: int, code: str) -> str:
        """What a level compares with: the nodes of the path that `code` tells, [.., GC]."""
        first, count = 2**level - 1, 2**level
        nodes = b("Slice", "thresholds", *(b.constant([v]) for v in (first, first + count, 1)))
        flat = b("Reshape", nodes, b.constant([-1]))
        if not level:
            return flat
        trees = b("Squeeze", b.size("thresholds", 0, 1))
        return b("Gather", flat, b("Add", code, roots(b, trees, b.constant(count))))


@dataclass(frozen=True)
class DecisionTreeCodes:
    """Trees whose every node tests a column of its own: columns and thresholds [GC, K - 1]."""

    K: int
    kind: ClassVar[str] = "DecisionTree"
    inputs: ClassVar[tuple[str, ...]] = ("columns", "thresholds")

    @property
    def variant(self) -> str:
        return f"_K{self.K}"

    def codes(self, b: Body, source: Source) -> str:
        x = source.take(b("Reshape", "columns", b.constant([-1])))
        by_tree = b("Concat", b.size(x, 0, -1), b.size("columns", 0), axis=0)
        above = b("Greater", b("Reshape", x, by_tree), "thresholds")
        tests = b("Cast", above, to=TensorProto.INT32)
        code, last = b("Gather", tests, b.constant(0), axis=-1), b.constant([-1])
        for level in range(1, tree_depth("decision_tree", self.K)):
            node = b("Unsqueeze", b("Add", code, b.constant(2**level - 1, "int32")), last)
            code = deeper(b, code, b("Squeeze", b("GatherElements", tests, node, axis=-1), last))
        return code


@dataclass(frozen=True)
class NearestCodes:
    """Nearest prototypes: columns [G C / stages, V] of the blocks, prototypes [GC, K, V].

    Distances are taken about the first prototype, as halut.ops.nearest.distance does. Later stages
    code what the prototypes of those before leave. `rooted`: inputs are multiplied by roots
    [GC, V, V] first. Narrower blocks repeat a column, see halut.export.onnx.table_nodes.
    """

    metric: str
    stages: int = 1
    rooted: bool = False
    kind: ClassVar[str] = "Nearest"

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("columns", "prototypes", *(["roots"] if self.rooted else []))

    @property
    def variant(self) -> str:
        stages = f"_S{self.stages}" if self.stages > 1 else ""
        return f"_{self.metric}{stages}{'_rooted' if self.rooted else ''}"

    def codes(self, b: Body, source: Source) -> str:
        x = source.take(b("Reshape", "columns", b.constant([-1])))
        lead = b.size(x, 0, -1)
        blocks = b("Reshape", x, b("Concat", b.constant([-1]), b.size("columns", 0), axis=0))
        rest = b("Transpose", blocks, perm=[1, 0, 2])  # [books, N, V]
        if self.rooted:
            rest = b("MatMul", rest, "roots")
        by_stage = []
        for stage in range(self.stages):
            prototypes = self._prototypes(b, stage)
            code = b("ArgMin", self._distances(b, rest, prototypes), axis=-1, keepdims=0)
            by_stage.append(b("Transpose", code, perm=[1, 0]))
            if stage + 1 < self.stages:
                rest = b("Sub", rest, self._chosen(b, code, prototypes))
        code = by_stage[0] if self.stages == 1 else self._joined(b, by_stage)
        shape = b("Concat", lead, b.constant([-1]), axis=0)
        return b("Cast", b("Reshape", code, shape), to=TensorProto.INT32)

    def _prototypes(self, b: Body, stage: int) -> str:
        """Those of a stage, [books, K, V]; codebooks lie by group, stage, block."""
        if self.stages == 1:
            return "prototypes"
        sizes = b.size("prototypes", 1)
        ends = b.constant([self.stages, -1])
        grouped = b(
            "Reshape", "prototypes", b("Concat", b.size("table", 0, 1), ends, sizes, axis=0)
        )
        own = b("Gather", grouped, b.constant(stage), axis=1)
        return b("Reshape", own, b("Concat", b.constant([-1]), sizes, axis=0))

    def _distances(self, b: Body, x: str, prototypes: str) -> str:
        """[books, N, K], up to a term that is the same for all K."""
        last = b.constant([-1])
        if self.metric == "l2":
            first = b("Slice", prototypes, *(b.constant([v]) for v in (0, 1, 1)))
            p, centered = b("Sub", prototypes, first), b("Sub", x, first)
            squares = b("ReduceSum", b("Mul", p, p), last, keepdims=0)
            twice = b("Transpose", b("Add", p, p), perm=[0, 2, 1])
            return b("Sub", b("Unsqueeze", squares, b.constant([1])), b("MatMul", centered, twice))
        every, own = b("Unsqueeze", x, b.constant([2])), b("Unsqueeze", prototypes, b.constant([1]))
        gaps = b("Abs", b("Sub", every, own))
        if self.metric == "l1":
            return b("ReduceSum", gaps, last, keepdims=0)
        if b.opset >= 18:
            return b("ReduceMax", gaps, last, keepdims=0)
        return b("ReduceMax", gaps, axes=[-1], keepdims=0)

    def _chosen(self, b: Body, code: str, prototypes: str) -> str:
        """The prototypes [books, N, V] of codes [books, N]."""
        sizes = b.size(prototypes, 0)
        flat = b("Reshape", prototypes, b("Concat", b.constant([-1]), b.size("columns", 1), axis=0))
        starts = b(
            "Mul",
            b("Range", b.constant(0), b.entry(sizes, 0), b.constant(1)),
            b.entry(sizes, 1),
        )
        return b("Gather", flat, b("Add", code, b("Unsqueeze", starts, b.constant([1]))))

    def _joined(self, b: Body, codes: list[str]) -> str:
        """Codes [N, books] of the stages as codebooks lie, [N, GC]."""
        shape = b("Concat", b.constant([0]), b.size("table", 0, 1), b.constant([1, -1]), axis=0)
        grouped = [b("Reshape", code, shape) for code in codes]
        return b("Reshape", b("Concat", *grouped, axis=2), b.constant([0, -1]))


@dataclass(frozen=True)
class GivenCodes:
    """Codes [N, GC] that were made outside, as a user's own encoder does."""

    kind: ClassVar[str] = "LookUp"
    inputs: ClassVar[tuple[str, ...]] = ()
    variant: ClassVar[str] = ""

    def codes(self, b: Body, source: Source) -> str:
        return b("Cast", "x", to=TensorProto.INT32)


def deeper(b: Body, code: str, bit: str) -> str:
    """2 code + bit; of the root, whose code is the empty name, the bit."""
    return b("Add", b("Add", code, code), bit) if code else bit


def roots(b: Body, trees: str, nodes: str) -> str:
    """0, nodes, 2 nodes, ... for that many trees, int32."""
    numbers = b("Range", b.constant(0), trees, b.constant(1))
    return b("Cast", b("Mul", numbers, nodes), to=TensorProto.INT32)
