"""Pruning: values that stay, and values that are zero, by a mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import prune as torch_prune

from halut.codecs.base import Codec, Coded, Layout, codecs
from halut.codecs.packing import pack, unpack
from halut.configs import Prune
from halut.errors import HalutError

METHODS = {"l1": torch_prune.L1Unstructured, "random": torch_prune.RandomUnstructured}


@codecs.register("prune")
class PruneCodec(Codec):
    """x where `mask`, else 0; round(sparsity * numel) zeros, as torch.nn.utils.prune has them.

    The mask is drawn once, by `calibrate`, and saved: of a weight's entries by their magnitudes
    (l1), of the input features of activations (channels of a map) by their mean magnitudes; or at
    random. The gradient passes where the mask does. Codes are the floats' bits; what is held of a
    weight is those that stay, and a bit for every place.
    """

    Config = Prune
    arithmetic = "fp"
    shared = ("weight",)
    selects = True
    mask: Tensor

    def __init__(self, layout: Layout, options: Prune | None = None) -> None:
        super().__init__(layout, options)
        self.register_buffer("mask", torch.ones(layout.shape, dtype=torch.bool))

    @classmethod
    def refuses(cls, role: str, options: Prune) -> str | None:
        if options.scope == "global" and role != "weight":
            return "scope=global compares weights; choose scope=local"
        return None

    @property
    def width(self) -> int:
        return 32

    def calibrate(self, values: Tensor, *, seed: int = 0, keep_mask: Tensor | None = None) -> None:
        options = self.options
        if options.scope == "global":
            raise HalutError("global pruning is settled over a whole plan: see with_global_pruning")
        count = round(options.sparsity * self.layout.numel)
        over = tuple(range(values.ndim - len(self.layout.shape)))
        importance = (values.abs().mean(over) if over else values).contiguous()
        method = METHODS[options.method](count)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mask = method.compute_mask(importance.cpu(), torch.ones(self.layout.shape))
        self.mask.copy_(mask)

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Coded:
        return Coded(self.fake_quantize(x).view(torch.int32))

    def decode(self, coded: Coded) -> Tensor:
        return torch.where(self.mask, coded.codes.view(torch.float32), 0.0)

    def fake_quantize(self, x: Tensor, scales: Tensor | None = None) -> Tensor:
        return torch.where(self.mask, x, 0.0)

    def limits(self, scales: Tensor | None) -> tuple[float, float]:
        return -float("inf"), float("inf")

    def gradient_mask(self, x: Tensor, scales: Tensor | None) -> Tensor:
        return self.mask.expand_as(x)

    def bits(self) -> int:
        return sparse_bits(self, self.mask)

    def export(self, x: Tensor) -> dict[str, Tensor]:
        """`codes` of the values that stay, and `mask`, a bit for every place."""
        return sparse_export(self, self.encode(x.detach().float()).codes, self.mask)

    def restore(self, packed: dict[str, Tensor]) -> Tensor:
        codes, mask = sparse_restore(self, packed)
        return torch.where(mask, codes.view(torch.float32), 0.0)


def sparse_bits(codec: Codec, mask: Tensor) -> int:
    """Bits of the codes where the mask is set, and of the mask, if that is not set everywhere."""
    nonzeros = int(mask.sum())
    places = mask.numel() if nonzeros < mask.numel() and codec.layout.dynamic else 0
    return nonzeros * codec.width + places


def sparse_export(codec: Codec, codes: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The codes where the mask is set, packed; the mask, if it is not set everywhere."""
    packed = {"codes": pack(codes[mask], codec.width)}
    if not bool(mask.all()):
        packed["mask"] = pack(mask.to(torch.int32), 1)
    return packed


def sparse_restore(codec: Codec, packed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Codes int32 and mask bool, both of the layout's shape, of what sparse_export made."""
    shape = codec.layout.shape
    mask = torch.ones(shape, dtype=torch.bool, device=packed["codes"].device)
    if "mask" in packed:
        mask = unpack(packed["mask"], 1, codec.layout.numel, False).view(shape).bool()
    codes = torch.zeros(shape, dtype=torch.int32, device=mask.device)
    codes[mask] = unpack(packed["codes"], codec.width, int(mask.sum()), codec.signed)
    return codes, mask
