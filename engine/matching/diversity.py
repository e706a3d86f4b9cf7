"""Data densification: images of a class are to differ from each other (G-VBSM section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor

DENSIFIED_SIDE = 32  # pixels to which images are pooled before they are compared


def densification(images: Tensor, labels: Tensor, tau: float = 4.0, normalise: bool = False) -> Tensor:
    """Flatten the spectrum of each class: sum over classes of KL(softmax(e / tau) || softmax(e)), no gradient into the first (methods 1.4).

    images: (B, 3, H, W) in normalised units; labels: (B,), on the CPU to spare a wait for the device. e: eigenvalues of X X^T, where X
    holds a class's images as rows, average-pooled to 32 x 32. normalise divides e by its mean, for the raw eigenvalues, hundreds to
    thousands, saturate the softmax (methods G2). Returns a scalar; classes with one image add nothing.
    """
    with torch.autocast(images.device.type, enabled=False):
        precise = images.to(torch.promote_types(images.dtype, torch.float32))
        flat = F.adaptive_avg_pool2d(precise, DENSIFIED_SIDE).flatten(1)
        order = labels.cpu().argsort(stable=True)
        _, counts = labels.cpu().unique(return_counts=True)
        total = flat.new_zeros(())
        # Classes with equally many images share one batched decomposition.
        for count in counts[counts > 1].unique().tolist():
            chosen = order[(counts == count).repeat_interleave(counts)]
            rows = flat[chosen.to(flat.device)].unflatten(0, (-1, count))
            # Without eigenvectors asked for, the gradient has no 1 / (e_i - e_j) and stays finite at repeated eigenvalues.
            eigenvalues = torch.linalg.eigvalsh(rows @ rows.mT)
            if normalise:
                eigenvalues = eigenvalues / eigenvalues.mean(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
            target = F.log_softmax(eigenvalues.detach() / tau, dim=1)
            total = total + F.kl_div(F.log_softmax(eigenvalues, dim=1), target, reduction="sum", log_target=True)
        return total
