"""Flatness regularisation: keep the loss surface around the synthetic images flat (EDC section 3.3, Theorem 3.3).

`logit_ema` (L'_FR) and `stat_ema` (L_FR) compare the images with a slowly moving average of themselves; both see the same crop and
flip in an iteration. Two differently cropped copies of the same images in place of the average give the two-crop consistency that a
past state of the EDC release computes (methods D4).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.matching.loss import Norm, segment_distances, segment_weights
from engine.matching.moments import Segment


@torch.no_grad()
def update_ema(ema: Tensor, images: Tensor, beta: float = 0.99) -> None:
    """Move the averaged images in place: ema <- beta * ema + (1 - beta) * images; both (B, 3, H, W). It starts as the images."""
    ema.lerp_(images, 1 - beta)


def ema_logits_loss(
    logits: Tensor,
    ema_logits: Tensor,
    tau: float = 4.0,
    reduction: Literal["batchmean", "mean"] = "batchmean",
    groups: int = 1,
) -> Tensor:
    """KL(softmax(ema_logits / tau) || softmax(logits / tau)) without gradient into the first, and without tau^2 (EDC Eq. 7 as computed).

    logits, ema_logits: (G*n, K), the images of a group contiguous. Returns a scalar, the sum over groups of the mean over images
    ("batchmean") or over images and classes ("mean", as in the CIFAR scripts of the EDC release: 1/K of it; methods D5).
    """
    with torch.autocast(logits.device.type, enabled=False):
        precise = torch.promote_types(logits.dtype, torch.float32)
        student = F.log_softmax(logits.to(precise) / tau, dim=1)
        teacher = F.log_softmax(ema_logits.detach().to(precise) / tau, dim=1)
        terms = logits.shape[0] if reduction == "batchmean" else logits.numel()
        return F.kl_div(student, teacher, reduction="sum", log_target=True) * (groups / terms)


def stat_ema_loss(
    moments: Tensor,
    ema_moments: Tensor,
    segments: Sequence[Segment],
    first_multiplier: float = 10.0,
    norm: Norm = "l2",
) -> Tensor:
    """Distance between the moments of the images and those of their moving average (L_FR of EDC Eq. 6), without gradient into the latter.

    moments, ema_moments: (G, 2, M) with columns `segments`, from `Matcher.moments()` after a captured forward pass of either.
    Returns a scalar, weighted by layer as the matching loss is and summed over groups.
    """
    sizes = torch.tensor([segment.size for segment in segments], device=moments.device)
    distances = segment_distances(moments - ema_moments.detach(), sizes, norm)
    return (distances * segment_weights(segments, first_multiplier).to(moments)).sum()


def sam_perturbation(images: Tensor, gradient: Tensor, rho: float, groups: int = 1) -> Tensor:
    """The point at distance `rho` up the gradient, where sharpness-aware minimisation takes its gradient (Foret et al. 2021, Eq. 2).

    images, gradient: (G*n, 3, H, W), gradient of the loss at the images; the distance is over each group's images together, in
    normalised units. Returns detached (G*n, 3, H, W), the images themselves where the gradient is zero.
    """
    gradient = gradient.detach()
    length = gradient.reshape(groups, -1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    scale = (rho / length).repeat_interleave(len(images) // groups)
    return images.detach() + gradient * scale[:, None, None, None]
