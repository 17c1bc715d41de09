"""A small vision transformer for small images."""

from __future__ import annotations

from torch import Tensor, nn

from halut.errors import HalutError
from halut.models.builders import models


class PatchEmbed(nn.Module):
    """Images [B, in, H, W] -> tokens [B, (H/P)(W/P), dim], by a convolution of size and stride P.

    The fixed sine-cosine code of the token's place is added, so that one network takes any size.
    Raises HalutError unless H and W are multiples of P.
    """

    def __init__(self, in_channels: int, patch: int, dim: int) -> None:
        super().__init__()
        self.patch, self.dim = patch, dim
        self.proj = nn.Conv2d(in_channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        from timm.layers import build_sincos2d_pos_embed

        height, width = x.shape[-2:]
        if height % self.patch or width % self.patch:
            raise HalutError(
                f"tiny_vit: images of {height}x{width} are no whole number of patches of "
                f"{self.patch}; choose options.patch so that it divides both"
            )
        x = self.proj(x)
        grid = [height // self.patch, width // self.patch]
        places = build_sincos2d_pos_embed(grid, self.dim, device=x.device, dtype=x.dtype)
        return x.flatten(2).transpose(1, 2) + places


class TinyViT(nn.Module):
    """Patches, `depth` pre-norm transformer blocks, the mean over tokens, one linear layer.

    The blocks are timm's and so are their names: blocks.0.attn.qkv, attn.proj, mlp.fc1, mlp.fc2.

    Sources: Dosovitskiy et al., An Image is Worth 16x16 Words, 2021; Beyer et al., Better Plain
    ViT Baselines for ImageNet-1k, 2022 (fixed places, mean instead of a class token).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
    ) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.patch_embed = PatchEmbed(in_channels, patch, dim)
        ratio = mlp_dim / dim
        blocks = (Block(dim, heads, mlp_ratio=ratio, qkv_bias=True) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.patch_embed(x)))
        return self.head(x.mean(dim=1))


@models.register("tiny_vit")
def tiny_vit(
    num_classes: int,
    in_channels: int = 3,
    patch: int = 4,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    mlp_dim: int | None = None,
) -> nn.Module:
    """`patch` pixels a side, `dim` features a token, `depth` blocks of `heads` heads whose MLP has
    `mlp_dim` hidden features; None: 4 dim.

    Raises HalutError unless heads and 4 (the place's code) divide dim.
    """
    if dim % heads or dim % 4:
        raise HalutError(f"tiny_vit: dim must be a multiple of heads={heads} and of 4, got {dim}")
    return TinyViT(
        num_classes, in_channels, patch, dim, depth, heads, 4 * dim if mlp_dim is None else mlp_dim
    )
