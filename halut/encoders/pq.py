"""Product quantization: the code is the nearest of K prototypes, found by trying all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from halut import ops
from halut.configs import PQ
from halut.encoders.base import Encoder, encoders
from halut.ops.blocks import Blocks, check_rows
from halut.ops.geometry import ConvGeometry
from halut.ops.nearest.encode import nearest_encoder_gradient
from halut.prototypes.buckets import bucket_means
from halut.prototypes.codebooks import each_codebook
from halut.prototypes.kmeans import assign_nearest, kmeans, lloyd, sampled
from halut.prototypes.output_metric import weight_roots

METRICS = {"l2": 2.0, "l1": 1.0, "chebyshev": float("inf")}


@encoders.register("pq")
class PQEncoder(Encoder):
    """code[n, c] = argmin_k dist(x[n, c], prototypes[c, k]), the lowest k among equals.

    `prototypes` [GC, K, V], zero in the padding of narrow blocks. With `output_metric` both sides
    are first multiplied by the root L_c of W_c W_c' = L_c L_c' (buffer `roots` [GC, V, V]), in
    learning, encoding and the gradient; the roots keep the weight of the time of learning.

    Sources: Jegou et al., Product Quantization, PAMI 2011; Tang et al., LUT-NN, MobiCom 2023.
    """

    Config = PQ
    estimators = ("soft", "identity", "blend", "rotation", "diveq")
    options: PQ
    roots: Tensor

    def __init__(self, blocks: Blocks, K: int, options: PQ | None = None) -> None:
        super().__init__(blocks, K, options)
        self.prototypes = nn.Parameter(torch.zeros(blocks.total, K, blocks.V))
        if self.options.output_metric:
            self.register_buffer("roots", torch.eye(blocks.V).repeat(blocks.total, 1, 1))

    def calibrate(
        self,
        rows: Tensor,
        *,
        seed: int = 0,
        weight: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """k-means per codebook on a seeded sample of the rows; bucket means over all of them."""
        check_rows(rows, self.blocks.inputs)
        rows = rows.detach().float()
        if self.options.output_metric:
            self.roots.copy_(weight_roots(weight, self.blocks))
        sample = sampled(rows, self.options.learn_rows, seed)
        spans = list(zip(self.blocks.starts, self.blocks.widths, strict=True))

        def learn(c: int) -> Tensor:
            start, width = spans[c]
            return self._centroids(sample[:, start : start + width], c, seed + c)

        for c, centroids in enumerate(each_codebook(learn, self.blocks.total)):
            self.prototypes.data[c] = 0
            self.prototypes.data[c, :, : spans[c][1]] = centroids
            if progress is not None:
                progress(1)
        return bucket_means(rows, self.codes(rows), self.blocks, self.prototypes.data)

    def _centroids(self, x: Tensor, c: int, seed: int) -> Tensor:
        """[K, width], in the rows' own space also where the metric is the output's."""
        options, width = self.options, x.shape[1]
        if not options.output_metric:
            learned = kmeans(x.cpu().numpy(), self.K, seed, options.iterations, options.restarts)
            centroids = torch.from_numpy(learned).to(x)
            if options.metric != "l2":
                centroids = lloyd(x, centroids, METRICS[options.metric], options.iterations)
            return centroids
        root = self.roots[c, :width, :width].to(x)
        whitened = (x @ root).cpu().numpy()
        learned = kmeans(whitened, self.K, seed, options.iterations, options.restarts)
        codes = torch.from_numpy(assign_nearest(whitened, learned))
        # A linear map keeps means: each centroid's preimage is the mean of its rows.
        block = Blocks(width, 1)
        preimage = torch.linalg.lstsq(root.T.cpu(), torch.from_numpy(learned).T, driver="gelsd")
        empty = preimage.solution.T[None].to(x)
        return bucket_means(x, codes[:, None].to(x.device), block, empty)[0]

    def _measured(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [N, groups * D] and prototypes as the distance sees them."""
        if not self.options.output_metric:
            return inputs, self.prototypes
        whitened = torch.einsum("ncv,cvw->ncw", self.blocks.split(inputs), self.roots.to(inputs))
        return self.blocks.join(whitened), self.prototypes @ self.roots

    def encode(self, inputs: Tensor) -> Tensor:
        """inputs [N, groups * D] -> codes [N, GC] uint8."""
        x, prototypes = self._measured(inputs.detach())
        return ops.nearest_encode(x, prototypes.detach(), self.options.metric, self.blocks.groups)

    def codes(self, x: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
        """Codes of rows or of a map, read in place unless the metric is the output's."""
        if self.options.output_metric:
            return self.encode(self.gather_columns(x, geometry))
        metric, groups = self.options.metric, self.blocks.groups
        return ops.nearest_encode(x.detach(), self.prototypes.detach(), metric, groups, geometry)

    def assign(self, inputs: Tensor, tau: Tensor) -> Tensor:
        """softmax_k(-dist / tau), [N, GC, K]; tau a scalar or [GC]."""
        return torch.softmax(-self.distances(inputs) / tau.reshape(-1, 1), dim=-1)

    def distances(self, inputs: Tensor) -> Tensor:
        """Distances [N, GC, K] of inputs [N, groups * D]; squared for l2."""
        rows, prototypes = self._measured(inputs)
        x = self.blocks.split(rows)
        if self.options.metric != "l2":
            p = METRICS[self.options.metric]
            return torch.cdist(x.transpose(0, 1), prototypes, p=p).transpose(0, 1)
        products = torch.einsum("ncv,ckv->nck", x, prototypes)
        return x.square().sum(-1, keepdim=True) - 2 * products + prototypes.square().sum(-1)

    def sums(
        self,
        x: Tensor,
        geometry: ConvGeometry | None,
        lut: Tensor,
        entries: Tensor,
        tau: Tensor,
        ste_mix: float,
    ) -> Tensor:
        """The fused operator, which reads x in place unless the metric is the output's."""
        prototypes: Tensor = self.prototypes
        if self.options.output_metric:
            x, prototypes = self._measured(self.gather_columns(x, geometry))
            geometry = None
        numbers = [] if geometry is None else geometry.numbers
        inputs = (x, prototypes, lut, entries, tau, self.options.metric, ste_mix, numbers)
        return torch.ops.halut.nearest_matmul(*inputs)[0]  # checked where the layer was built

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
        if self.options.output_metric:
            return super().gradient(x, geometry, grad, lut, tau, ste_mix, parameters)
        metric, prototypes = self.options.metric, parameters["prototypes"]
        return nearest_encoder_gradient(grad, x, prototypes, lut, tau, metric, ste_mix, geometry)

    @torch.no_grad()
    def initial_tau(self, rows: Tensor) -> float:
        """Mean distance of rows to their nearest prototype; 1 if that is zero.

        At this temperature a prototype twice as far away as the nearest has 1/e of its weight.
        """
        check_rows(rows, self.blocks.inputs)
        least = [self.distances(part).amin(-1).clamp(min=0).double() for part in rows.split(1024)]
        return float(torch.cat(least).mean()) or 1.0

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The prototypes."""
        return {"prototypes": [self.prototypes]}

    def cost(self, rows: int) -> dict[str, int]:
        """K - 1 compares per code for the least distance; 4 bytes per entry of a prototype or root.

        Distances take, per row and group, D K multiply-adds (l2), D K subtractions and as many adds
        (l1) or compares (chebyshev).
        """
        squares = sum(width**2 for width in self.blocks.widths)
        extra = squares if self.options.output_metric else 0
        inputs = self.blocks.inputs * self.K
        least = self.blocks.total * (self.K - 1)
        compares, macs, adds = {
            "l2": (least, inputs + extra, 0),
            "l1": (least, 0, 2 * inputs),
            "chebyshev": (least + inputs, 0, inputs),
        }[self.options.metric]
        return {
            "compares": rows * compares,
            "macs": rows * macs,
            "adds": rows * adds,
            "state_bytes": 4 * (inputs + extra),
        }
