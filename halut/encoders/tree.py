"""The hash tree of MADDNESS: log2 K compares per code, all nodes of a level test one input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from halut import ops
from halut.configs import Tree
from halut.encoders.base import Encoder, encoders, shared_prototypes
from halut.encoders.lookup_table import LookupTable
from halut.errors import HalutError
from halut.ops.blocks import Blocks, check_rows
from halut.ops.geometry import ConvGeometry
from halut.ops.tree.encode import tree_encoder_gradient
from halut.ops.tree.train import INPUTS as TRAINED
from halut.prototypes.boosting import boosted_trees
from halut.prototypes.output_metric import weight_roots
from halut.prototypes.tree_learning import learn_trees


@encoders.register("tree")
class TreeEncoder(Encoder):
    """code = the path through a complete binary tree of depth log2 K, one tree per codebook.

    The node of level l with the path prefix p has index 2^l - 1 + p among the K-1 `thresholds`
    [GC, K-1]; a row goes right, and its code gets a one bit, if its input exceeds the threshold.
    `split_dims` [GC, depth] are the columns of the rows [N, groups * D] that the levels test.

    Source: Blalock and Guttag, Multiplying Matrices Without Multiplying, ICML 2021.
    Raises HalutError unless K is a power of two in 2..256.
    """

    Config = Tree
    estimators = ("flip", "tree", "identity", "blend")
    keeps_layout = True
    options: Tree
    split_dims: Tensor

    @classmethod
    def can_share(cls, options: Mapping[str, Any]) -> bool:
        """True: codes depend on inputs alone; the first layer's weight scores the cuts."""
        return True

    def __init__(self, blocks: Blocks, K: int, options: Tree | None = None) -> None:
        self.depth = tree_depth("tree", K)
        super().__init__(blocks, K, options)
        starts = torch.tensor(blocks.starts)[:, None].repeat(1, self.depth)
        self.register_buffer("split_dims", starts)
        self.flips = self.options.estimator == "flip"
        self.thresholds = nn.Parameter(torch.zeros(blocks.total, K - 1))

    @property
    def input_dims(self) -> Tensor:
        """The tested columns [GC * depth], codebook-major."""
        return self.split_dims.reshape(-1)

    def calibrate(
        self,
        rows: Tensor,
        *,
        seed: int = 0,
        weight: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Greedy cuts of least squared error (halut.prototypes.tree_learning); draws nothing.

        Without a weight there is no output to measure at: the error is that of the inputs.
        """
        check_rows(rows, self.blocks.inputs)
        roots = None
        if self.options.output_metric and weight is not None:
            roots = weight_roots(weight, self.blocks)
        split_dims, thresholds, prototypes = learn_trees(
            rows, self.blocks, self.depth, self.options.candidates, progress, roots
        )
        self.split_dims.copy_(split_dims)
        self.thresholds.data.copy_(thresholds)
        return prototypes.to(rows.device)

    def calibrate_jointly(
        self, rows: Tensor, prototypes: Tensor, weight: Tensor, target_rows: Tensor | None = None
    ) -> Tensor | None:
        """`boosting` passes of halut.prototypes.boosting."""
        if not self.options.boosting:
            return None
        split_dims, thresholds = boosted_trees(
            (self.split_dims, self.thresholds.detach()),
            rows,
            self.codes(rows),
            prototypes,
            weight,
            self.options.candidates,
            self.options.boosting,
            target_rows,
            self.blocks.stages,
        )
        self.split_dims.copy_(split_dims)
        self.thresholds.data.copy_(thresholds)
        return shared_prototypes(self, rows)

    def encode(self, inputs: Tensor) -> Tensor:
        """inputs = the taps [N, GC * depth] -> codes [N, GC] uint8."""
        return ops.tree_encode(inputs.detach(), self._all(inputs), self.thresholds.detach())

    def _all(self, inputs: Tensor) -> Tensor:
        return torch.arange(inputs.shape[-1], device=inputs.device)

    def codes(self, x: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
        """Codes of rows or of a map, read in place."""
        return ops.tree_encode(x.detach(), self.input_dims, self.thresholds.detach(), geometry)

    def assign(self, inputs: Tensor, tau: Tensor) -> Tensor:
        """Softmax over the leaf scores of the hard node signs, with tanh's gradient.

        For the estimator flip the hard codes, with the gradient of flipped tests.
        """
        levels = [level for level in range(self.depth) for _ in range(2**level)]  # of each node
        node_inputs = inputs.reshape(len(inputs), self.blocks.total, self.depth)[:, :, levels]
        assignment = flip_assignment if self.flips else leaf_assignment
        return assignment(node_inputs, self.thresholds, tau)

    def lookup(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        table: LookupTable,
        tau: Tensor,
        ste_mix: float = 1.0,
    ) -> Tensor:
        """One operator from x to the answer of a quantized table; other dtypes go by the parts."""
        lut, entries, shift, scale, _ = table
        if scale is None or lut.dtype != torch.float32 or x.dtype not in TRAINED:
            return super().lookup(x, geometry, table, tau, ste_mix)
        numbers = [] if geometry is None else geometry.numbers
        input_dims = self.split_dims.reshape(-1)
        inputs = (x, input_dims, self.thresholds, lut, entries, scale, shift, tau, ste_mix, numbers)
        return torch.ops.halut.tree_train(*inputs, self.flips)  # checked where the layer was built

    def sums(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        lut: Tensor,
        entries: Tensor,
        tau: Tensor,
        ste_mix: float,
    ) -> Tensor:
        numbers = [] if geometry is None else geometry.numbers
        input_dims = self.split_dims.reshape(-1)
        inputs = (x, input_dims, self.thresholds, lut, entries, tau, ste_mix, numbers)
        return torch.ops.halut.tree_matmul(*inputs, self.flips)[0]

    def gradient(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        grad: Tensor,
        lut: Tensor,
        tau: Tensor,
        ste_mix: float,
        parameters: Mapping[str, Tensor],
    ) -> Sequence[Tensor]:
        """The backward of the fused operator, without the table's."""
        thresholds = parameters["thresholds"]
        return tree_encoder_gradient(
            grad, x, self.input_dims, thresholds, lut, tau, ste_mix, geometry, self.flips
        )

    @torch.no_grad()
    def initial_tau(self, rows: Tensor) -> float:
        """Mean |x - t| over the nodes that the rows pass; 1 if that is zero."""
        check_rows(rows, self.blocks.inputs)
        level_inputs = self.gather_columns(rows).reshape(len(rows), self.blocks.total, self.depth)
        codes = self.codes(rows).long()
        total = rows.new_zeros((), dtype=torch.float64)
        for level in range(self.depth):
            nodes = 2**level - 1 + (codes >> (self.depth - level))
            passed = self.thresholds.T.gather(0, nodes)
            total += (level_inputs[:, :, level] - passed).abs().mean(dtype=torch.float64)
        return float(total) / self.depth or 1.0

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The thresholds."""
        return {"thresholds": [self.thresholds]}

    def cost(self, rows: int) -> dict[str, int]:
        """log2 K compares per code; 4 bytes per threshold and per tested column."""
        GC = self.blocks.total
        return {
            "compares": rows * GC * self.depth,
            "macs": 0,
            "state_bytes": 4 * GC * (self.K - 1 + self.depth),
        }


def tree_depth(name: str, K: int) -> int:
    """log2 K; HalutError unless K is a power of two in 2..256."""
    if not 2 <= K <= 256 or K & (K - 1):
        raise HalutError(
            f"{name} encoder: K must be a power of two in 2..256 (K = 2^depth), got {K}"
        )
    return K.bit_length() - 1


def leaf_assignment(node_inputs: Tensor, thresholds: Tensor, tau: Tensor) -> Tensor:
    """Soft assignment [N, GC, K] from the inputs `node_inputs` [N, GC, K-1] of all nodes.

    A node's sign s is +1 where its input exceeds the threshold, else -1, with the gradient of
    tanh((x - t) / tau); a leaf scores +s for every ancestor it is right of and -s for the others;
    a softmax over the K scores follows. tau: a scalar, or [GC].
    """
    margin = node_inputs - thresholds
    soft = torch.tanh(margin / tau.reshape(-1, 1))
    hard = torch.where(margin > 0, 1.0, -1.0).to(soft.dtype)
    sign = soft + (hard - soft).detach()
    return torch.softmax(sign @ leaf_paths(thresholds.shape[1] + 1).to(sign), dim=-1)


def flip_assignment(node_inputs: Tensor, thresholds: Tensor, tau: Tensor) -> Tensor:
    """Hard assignment [N, GC, K], with a gradient for the nodes that a row passes.

    node_inputs [N, GC, K-1], thresholds [GC, K-1], tau a scalar or [GC]. If a node's test came out
    right the row would reach one leaf, if left another, by the tests it has below; the gradient to
    the node's s = tanh((x - t) / tau) is half the difference of the two. Nodes beside the path have
    none. That is the finite difference of the answer over a flip of the code.
    """
    margin = node_inputs - thresholds
    soft, tests = torch.tanh(margin / tau.reshape(-1, 1)), margin.detach() > 0
    K = thresholds.shape[1] + 1
    reached = torch.arange(K, device=tests.device).expand(*tests.shape[:2], K)
    leaves: list[tuple[Tensor, Tensor]] = []  # of each level: reached to the left, to the right
    for level in reversed(range(K.bit_length() - 1)):
        leaves.insert(0, (reached[..., 0::2], reached[..., 1::2]))
        nodes = tests[..., 2**level - 1 : 2 ** (level + 1) - 1]
        reached = torch.where(nodes, leaves[0][1], leaves[0][0])
    code = reached[..., 0]
    assignment = one_hot(code, K).to(soft.dtype)
    for level in range(len(leaves)):
        prefix = (code >> (len(leaves) - level)).unsqueeze(-1)
        own = soft.gather(-1, 2**level - 1 + prefix)
        left, right = (one_hot(ends.gather(-1, prefix)[..., 0], K) for ends in leaves[level])
        difference = right - left
        assignment = assignment + (own - own.detach()) * difference.to(soft.dtype) / 2
    return assignment


def leaf_paths(K: int) -> Tensor:
    """[K-1, K]: +1 where the node is passed to the right on the way to a leaf, -1 left, else 0."""
    depth = K.bit_length() - 1
    leaves = torch.arange(K)
    paths = torch.zeros(K - 1, K)
    for level in range(depth):
        nodes = 2**level - 1 + (leaves >> (depth - level))
        right = (leaves >> (depth - level - 1)) & 1
        paths[nodes, leaves] = 2.0 * right - 1.0
    return paths
