"""What a student is trained with."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def mse_ce(
    student: Tensor, teacher: Tensor, labels: Tensor, *, ce_weight: float, partner_labels: Tensor, share: Tensor, ce_target: str
) -> Tensor:
    """Return the mean squared error of raw logits (B, C) plus `ce_weight` times the cross-entropy with hard labels (G-VBSM 3.4).

    `ce_target` is `base` (the view's own class, as in the reference release) or `mixed` (its own and its partner's class by `share`).
    """
    entropy = functional.cross_entropy(student, labels, reduction="none")
    if ce_target == "mixed":
        entropy = share * entropy + (1 - share) * functional.cross_entropy(student, partner_labels, reduction="none")
    return functional.mse_loss(student, teacher) + ce_weight * entropy.mean()


def kl(student: Tensor, teacher: Tensor, *, temperature: float, squared: bool) -> Tensor:
    """Return KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, times T² where `squared` (SRe2L)."""
    value = functional.kl_div(
        functional.log_softmax(student / temperature, 1),
        functional.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return value * temperature**2 if squared else value


def dist(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return DIST: one minus the Pearson correlation of probabilities between classes, plus the same within classes (2205.10536)."""
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    between = 1 - correlation(p, q).mean()
    within = 1 - correlation(p.T, q.T).mean()
    return temperature**2 * (between + within)


def correlation(p: Tensor, q: Tensor) -> Tensor:
    """Return the Pearson correlation of each row of two (N, M) tensors: (N,)."""
    return functional.cosine_similarity(p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True), dim=1, eps=1e-8)


def hard(student: Tensor, labels: Tensor, partner_labels: Tensor, share: Tensor) -> Tensor:
    """Return the cross-entropy with hard labels, of which a mixed view has two, by their share (CutMix, MixUp)."""
    own = functional.cross_entropy(student, labels, reduction="none")
    other = functional.cross_entropy(student, partner_labels, reduction="none")
    return (share * own + (1 - share) * other).mean()


def mixed_target(settings: dict[str, Any], own: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Return the soft labels (B, C) of mixed views from one label an image: `share` (B,) of the own and the rest of the partner's.

    What is mixed is what the loss compares: logits for a squared error, else probabilities at `evaluate.temperature`, returned as the
    logits that have the mixed probabilities at that temperature.
    """
    share = share[:, None]
    if settings["evaluate.loss"] == "mse_ce":
        return share * own + (1 - share) * partner
    temperature = settings["evaluate.temperature"]
    parts = [(own / temperature).log_softmax(1) + share.log(), (partner / temperature).log_softmax(1) + (1 - share).log()]
    return temperature * torch.logaddexp(*parts)


def student_loss(
    settings: dict[str, Any], student: Tensor, teacher: Tensor | None, labels: Tensor, partner_labels: Tensor, share: Tensor
) -> Tensor:
    """Return the loss `evaluate.loss` of student logits (B, C) in float32; `teacher` is None only for hard labels."""
    student = student.float()
    name = settings["evaluate.loss"]
    if name == "ce":
        return hard(student, labels, partner_labels, share)
    assert teacher is not None
    if name == "kl":
        return kl(student, teacher, temperature=settings["evaluate.temperature"], squared=settings["evaluate.temperature_squared"])
    if name == "dist":
        return dist(student, teacher, temperature=settings["evaluate.temperature"])
    return mse_ce(
        student,
        teacher,
        labels,
        ce_weight=settings["evaluate.ce_weight"],
        partner_labels=partner_labels,
        share=share,
        ce_target=settings["evaluate.ce_target"],
    )
