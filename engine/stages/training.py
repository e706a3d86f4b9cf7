"""Training a network, shared by observers, students and the control on the whole dataset."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from engine.compute.precision import autocast, forward_batch
from engine.compute.seeding import generator, seed_for
from engine.compute.transfer import sent
from engine.data import augment
from engine.errors import RunError
from engine.models.registry import create_model
from engine.stages.inputs import Inputs, RealImages


def fresh_model(name: str, inputs: Inputs, *seed: str | int) -> nn.Module:
    """Build a network whose random weights depend on `seed` alone, in channels_last on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(*seed))
        model = create_model(name, inputs.classes, inputs.store.resolution)
    return model.to(device=inputs.device, memory_format=torch.channels_last)


def has_dropout(model: nn.Module) -> bool:
    """Say whether a network draws random numbers of its own while it trains."""
    return any("drop" in type(module).__name__.lower() or "stochastic" in type(module).__name__.lower() for module in model.modules())


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the parameters: only weights with more than one dimension are decayed (EDC, G-VBSM, RDED, SRe2L)."""
    decayed = [value for name, value in model.named_parameters() if value.ndim > 1 and "weight" in name]
    kept = [value for name, value in model.named_parameters() if not (value.ndim > 1 and "weight" in name)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def make_optimizer(name: str, model: nn.Module, *, learning_rate: float, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """Return sgd, adam or adamw over the decay groups of a network; fused, a step is one sweep over the weights rather than ten."""
    groups = decay_groups(model, weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, fused=True)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group of an optimiser the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as flat tensors `<parameter>.<name>` for a checkpoint."""
    return {
        f"optimizer.{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the state that `optimizer_tensors` returned.

    Averages take their parameter's memory format, which a file does not keep: another one would take other, differently rounding kernels.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = laid_out_as(parameters[int(index)], value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return `value` on the parameter's device and, where it has its shape, in its memory format; scalars as they are."""
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value) if value.shape == parameter.shape else value


def model_tensors(model: nn.Module, prefix: str = "model") -> dict[str, Tensor]:
    """Return a network's parameters and buffers as flat tensors for a checkpoint."""
    return {f"{prefix}.{name}": value for name, value in model.state_dict().items()}


def restore_model(model: nn.Module, tensors: dict[str, Tensor], prefix: str = "model") -> None:
    """Give a network what `model_tensors` returned."""
    model.load_state_dict({key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")})


def real_batch(
    images: RealImages,
    indices: Tensor,
    inputs: Inputs,
    *,
    padding: int,
    crop_scale: Sequence[float] | None = None,
    flip: bool,
    draws: torch.Generator,
) -> Tensor:
    """Return real images (B, 3, H, W) in normalised units, randomly cropped and mirrored.

    With `crop_scale` a crop has that share of the image's area and is resized to the image; else it is cut after zero padding.
    """
    batch = images.take(indices)
    if padding and crop_scale is None:
        offsets = augment.draw_offsets(len(indices), padding=padding, generator=draws)
        batch = augment.padded_crop(batch, offsets, padding=padding, fill=(0, 0, 0))
    if flip:
        batch = augment.flip(batch, augment.draw_flips(len(indices), generator=draws).to(batch.device))
    batch = inputs.normalise(batch)
    if crop_scale is None:
        return batch
    boxes = augment.draw_crops(len(indices), *batch.shape[-2:], scale=(crop_scale[0], crop_scale[1]), generator=draws)
    return augment.resized_crop(batch, boxes).contiguous(memory_format=torch.channels_last)


def epoch_batches(count: int, size: int, *seed: str | int) -> list[Tensor]:
    """Return the shuffled indices of one epoch over `count` images in batches of `size`, without a last batch of one image.

    A batch of one would break batch normalisation on 1x1 maps; its image waits for the next epoch.
    """
    parts = list(torch.randperm(count, generator=generator(*seed)).split(size))
    return parts[:-1] if len(parts) > 1 and size > 1 and len(parts[-1]) == 1 else parts


@contextmanager
def naming_batches_of_one(step: str, key: str) -> Iterator[None]:
    """Turn what PyTorch says of batch normalisation over a single value into a RunError that names the key of the batch size."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        wrong = "batch normalisation on maps of one pixel cannot train on one image at a time"
        raise RunError(f"{step}: {wrong}; set {key} to 2 or more") from error


@torch.no_grad()
def measure(model: nn.Module, images: RealImages, inputs: Inputs, *, batch_size: int = 0) -> dict[str, float]:
    """Return the top-1 and top-5 accuracy (percent) of a network in evaluation mode on real images; top-5 only above five classes.

    `batch_size` 0 is what the device passes fastest; the accuracies do not depend on it.
    """
    training, batch_size = model.training, batch_size or forward_batch(inputs.device, inputs.store.resolution)
    model.eval()
    hits1 = torch.zeros((), device=inputs.device)
    hits5 = torch.zeros((), device=inputs.device)
    batches = torch.arange(len(images)).split(batch_size)
    images.upcoming(batches)
    for indices in batches:
        with autocast(inputs.device, inputs.precision):
            logits = model(inputs.normalise(images.take(indices)))
        labels = images.labels[sent(indices, inputs.device)]
        ranked = logits.float().topk(min(5, inputs.classes)).indices == labels[:, None]
        hits1 += ranked[:, 0].sum()
        hits5 += ranked.any(dim=1).sum()
    model.train(training)
    result = {"top1": 100 * hits1.item() / len(images)}
    return result | ({"top5": 100 * hits5.item() / len(images)} if inputs.classes > 5 else {})
