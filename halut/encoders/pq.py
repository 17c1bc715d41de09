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
from halut.prototypes.buckets import bucket_means, reconstruct
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

    With `residual` codebooks the codes of a stage are those of what the prototypes of the stages
    before it leave: x_c - P_1[code_1] - ... Each needs the codes before it, by one call of the
    operator a stage; the gradient goes by the slower parts of Encoder.

    Sources: Jegou et al., Product Quantization, PAMI 2011; Chen et al., Approximate Nearest
    Neighbor Search by Residual Vector Quantization, Sensors 2010; Tang et al., LUT-NN, MobiCom
    2023.
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
        one = self.blocks.of_stage
        spans = list(zip(one.starts, one.widths, strict=True))
        self.prototypes.data.zero_()

        def learn(c: int) -> list[Tensor]:
            start, width = spans[c]
            return self._stages(sample[:, start : start + width], c, seed + c)

        for c, stages in enumerate(each_codebook(learn, one.total)):
            g, b = divmod(c, one.C)
            for stage, centroids in enumerate(stages):
                book = g * self.blocks.C + stage * one.C + b
                self.prototypes.data[book, :, : spans[c][1]] = centroids
                if progress is not None:
                    progress(1)
        return bucket_means(rows, self.codes(rows), self.blocks, self.prototypes.data)

    def _stages(self, x: Tensor, c: int, seed: int) -> list[Tensor]:
        """Centroids [K, width] of every stage of a block's rows x [N, width]."""
        centroids = [self._centroids(x, c, seed)]
        for _ in range(self.options.residual):
            last = centroids[-1]
            codes = ops.nearest_encode(x, last[None], self.options.metric)
            x = x - last[codes[:, 0].long()]
            centroids.append(self._centroids(x, c, seed))
        return centroids

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
        if self.options.residual:
            return self._chain(inputs.detach(), lambda x, prototypes, codes: codes)
        x, prototypes = self._measured(inputs.detach())
        return ops.nearest_encode(x, prototypes.detach(), self.options.metric, self.blocks.groups)

    def _chain(self, inputs: Tensor, answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """answer(rest, prototypes, codes) of every stage, side by side as codebooks lie.

        `rest` are the rows [N, groups * D] less the prototypes of the stages before; answers are
        [N, groups * C / stages, ...]. Differentiable in rows and prototypes where answers are.
        """
        one, groups = self.blocks.of_stage, self.blocks.groups
        by_stage = self.prototypes.unflatten(0, (groups, self.blocks.stages, -1)).unbind(1)
        answers = []
        for stage, grouped in enumerate(by_stage):
            prototypes = grouped.flatten(0, 1)
            rest, own = inputs.detach(), prototypes.detach()
            codes = ops.nearest_encode(rest, own, self.options.metric, groups)
            answers.append(answer(inputs, prototypes, codes).unflatten(1, (groups, -1)))
            if stage + 1 < self.blocks.stages:
                inputs = inputs - reconstruct(codes, prototypes, one)
        return torch.stack(answers, 2).flatten(1, 3)

    @property
    def by_parts(self) -> bool:
        """True if no operator makes codes of rows and prototypes as they are, in one call."""
        return self.options.output_metric or self.options.residual > 0

    def codes(self, x: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
        """Codes of rows or of a map, read in place unless the metric is the output's."""
        if self.by_parts:
            return self.encode(self.gather_columns(x, geometry))
        metric, groups = self.options.metric, self.blocks.groups
        return ops.nearest_encode(x.detach(), self.prototypes.detach(), metric, groups, geometry)

    def assign(self, inputs: Tensor, tau: Tensor) -> Tensor:
        """softmax_k(-dist / tau), [N, GC, K]; tau a scalar or [GC]."""
        return torch.softmax(-self.distances(inputs) / tau.reshape(-1, 1), dim=-1)

    def distances(self, inputs: Tensor) -> Tensor:
        """Distances [N, GC, K] of inputs [N, groups * D]; squared for l2.

        Of a later stage, those of what the stages before leave.
        """
        if self.options.residual:
            one = self.blocks.of_stage
            return self._chain(inputs, lambda x, p, _: self._distances(one.split(x), p))
        rows, prototypes = self._measured(inputs)
        return self._distances(self.blocks.split(rows), prototypes)

    def _distances(self, x: Tensor, prototypes: Tensor) -> Tensor:
        """Distances [N, c, K] of blocks x [N, c, V] to prototypes [c, K, V]."""
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
        if self.options.residual:
            return super().sums(x, geometry, lut, entries, tau, ste_mix)
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
        if self.by_parts:
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
        (l1) or compares (chebyshev). Every stage has as many of its own, and D subtractions for
        what it leaves to the next one.
        """
        squares = sum(width**2 for width in self.blocks.widths)
        extra = squares if self.options.output_metric else 0
        inputs = self.blocks.inputs * self.K * self.blocks.stages
        least = self.blocks.total * (self.K - 1)
        compares, macs, adds = {
            "l2": (least, inputs + extra, 0),
            "l1": (least, 0, 2 * inputs),
            "chebyshev": (least + inputs, 0, inputs),
        }[self.options.metric]
        return {
            "compares": rows * compares,
            "macs": rows * macs,
            "adds": rows * (adds + self.blocks.inputs * self.options.residual),
            "state_bytes": 4 * (inputs + extra),
        }
