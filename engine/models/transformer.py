"""A small vision transformer for small images (Dosovitskiy et al. 2021), built from timm's parts."""

from torch import nn

from engine.models.counts import VIT_TINY, small_patch


def vit_tiny(*, classes: int, resolution: int) -> nn.Module:
    """Vision transformer of 4 blocks, 128 wide with 4 heads: (B, 3, resolution, resolution) normalised images -> (B, classes) logits.

    Patches are 4 px wide from 24 px on and 2 px below, so that small images still have tokens enough. The tokens are averaged, without
    a class token (2205.01580). Weights are timm's truncated normal, with no dropout; layers are scaled by 0.1 at first (2103.17239,
    Eq. 4), without which a few hundred updates on a few hundred images at a learning rate of 1e-3 teach it little.
    """
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=resolution,
        patch_size=small_patch(resolution),
        num_classes=classes,
        embed_dim=VIT_TINY.width,
        depth=VIT_TINY.depth,
        num_heads=4,
        init_values=0.1,
        class_token=False,
        global_pool="avg",
    )
    for block in model.blocks:
        block.attn.fused_attn = False  # the fused kernels' gradients on CUDA differ from call to call
    return model
