"""A binary decision tree per codebook whose every node tests an input of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from halut.configs import DecisionTree
from halut.encoders.base import Encoder, encoders
from halut.encoders.tree import flip_assignment, leaf_assignment, tree_depth
from halut.ops.blocks import Blocks, check_rows
from halut.prototypes.buckets import bucket_means
from halut.prototypes.cart import NodeTree, learn_node_tree
from halut.prototypes.codebooks import each_codebook
from halut.prototypes.kmeans import sampled


@encoders.register("decision_tree")
class DecisionTreeEncoder(Encoder):
    """code = the path through a complete binary tree of depth log2 K with an input per node.

    Nodes are in heap order as in the tree encoder; `node_dims` [GC, K-1] are the columns of the
    rows that they test, `thresholds` [GC, K-1]; above the threshold is right, a one bit. The tree
    may test most inputs of a block, so all columns are taken as inputs.

    Source: CART (Breiman et al., 1984) on k-means labels, as scikit-learn grows it.
    Raises HalutError unless K is a power of two in 2..256.
    """

    Config = DecisionTree
    estimators = ("tree", "flip", "identity", "blend")
    options: DecisionTree
    node_dims: Tensor

    def __init__(self, blocks: Blocks, K: int, options: DecisionTree | None = None) -> None:
        self.depth = tree_depth("decision_tree", K)
        super().__init__(blocks, K, options)
        self.register_buffer("node_dims", torch.tensor(blocks.starts)[:, None].repeat(1, K - 1))
        self.thresholds = nn.Parameter(torch.zeros(blocks.total, K - 1))

    def calibrate(
        self,
        rows: Tensor,
        *,
        seed: int = 0,
        weight: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """k-means labels and a tree per codebook on a seeded sample; means over all rows."""
        check_rows(rows, self.blocks.inputs)
        rows = rows.detach().float()
        sample = sampled(rows, self.options.learn_rows, seed).cpu().numpy()
        empty = rows.new_zeros(self.blocks.total, self.K, self.blocks.V)
        spans = list(zip(self.blocks.starts, self.blocks.widths, strict=True))

        def learn(c: int) -> NodeTree:
            start, width = spans[c]
            x = sample[:, start : start + width]
            return learn_node_tree(x, self.K, seed + c, self.options.iterations)

        for c, tree in enumerate(each_codebook(learn, self.blocks.total)):
            start, width = spans[c]
            self.node_dims[c] = torch.from_numpy(tree.dims) + start
            self.thresholds.data[c] = torch.from_numpy(tree.thresholds)
            empty[c, :, :width] = torch.from_numpy(tree.means)
            if progress is not None:
                progress(1)
        return bucket_means(rows, self.codes(rows), self.blocks, empty)

    @torch.no_grad()
    def _walk(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [N, GC] int64, and x - t [N, GC, depth] at the nodes passed."""
        first = torch.arange(self.blocks.total, device=inputs.device) * (self.K - 1)
        codes = torch.zeros(inputs.shape[0], len(first), dtype=torch.int64, device=inputs.device)
        margins = []
        for level in range(self.depth):
            nodes = first + 2**level - 1 + codes
            x = inputs.gather(1, self.node_dims.reshape(-1)[nodes])
            thresholds = self.thresholds.reshape(-1)[nodes]
            margins.append(x - thresholds)
            codes = 2 * codes + (x > thresholds)
        return codes, torch.stack(margins, dim=2)

    def encode(self, inputs: Tensor) -> Tensor:
        """inputs [N, groups * D] -> codes [N, GC] uint8."""
        return self._walk(inputs)[0].to(torch.uint8)

    def assign(self, inputs: Tensor, tau: Tensor) -> Tensor:
        """As TreeEncoder.assign."""
        node_inputs = inputs[:, self.node_dims.reshape(-1)]
        node_inputs = node_inputs.reshape(inputs.shape[0], self.blocks.total, self.K - 1)
        assignment = flip_assignment if self.options.estimator == "flip" else leaf_assignment
        return assignment(node_inputs, self.thresholds, tau)

    def initial_tau(self, rows: Tensor) -> float:
        """Mean |x - t| over the nodes that the rows pass; 1 if that is zero."""
        check_rows(rows, self.blocks.inputs)
        return float(self._walk(rows)[1].abs().mean(dtype=torch.float64)) or 1.0

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The thresholds."""
        return {"thresholds": [self.thresholds]}

    def cost(self, rows: int) -> dict[str, int]:
        """log2 K compares per code; 8 bytes per node: its threshold and its column."""
        GC = self.blocks.total
        return {
            "compares": rows * GC * self.depth,
            "macs": 0,
            "state_bytes": 8 * GC * (self.K - 1),
        }
