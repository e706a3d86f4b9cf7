"""The augmented views of condensed images that a student sees and observers label, epoch after epoch.

Everything drawn for an epoch (order, crops, flips, RandAugment, CutMix boxes and partners) follows from (seed, epoch) alone, so stored
labels need no record of it: whoever knows the seed draws the same views again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.compute.seeding import generator
from engine.compute.transfer import sent
from engine.data import augment, rand_augment


@dataclass(frozen=True)
class ViewSettings:
    """How views are drawn; `mix` is none, cutmix or mixup, `shuffle_patches` 0 or the number of tiles a side.

    With `padding` (px) a crop of the padded image takes the place of the random resized crop.
    """

    seed: int
    batch_size: int
    crop_scale: tuple[float, float]
    flip: bool
    mix: str
    randaugment: bool
    shuffle_patches: int
    padding: int | None = None

    @classmethod
    def of(cls, settings: dict, seed: int) -> "ViewSettings":
        """Take them from a step's flat settings."""
        padded = settings["labels.crop_mode"] == "padded"
        return cls(
            seed=seed,
            batch_size=settings["evaluate.batch_size"],
            crop_scale=(1.0, 1.0) if padded else tuple(settings["labels.crop_scale"]),
            flip=settings["labels.flip"] and settings["mirror"],
            mix=settings["labels.mix"],
            randaugment=settings["evaluate.randaugment"],
            shuffle_patches=settings["evaluate.shuffle_patches"],
            padding=settings["labels.padding"] if padded else None,
        )


@dataclass(frozen=True)
class Views:
    """What is drawn for M views in order; every tensor has the first axis M and lies on the CPU.

    `index` names the image; `crops` are boxes (M, 4) or, with padding, offsets (M, 2); `partner` the view mixed in (a position among the
    M); `share` the part of the view that is its own image.
    """

    index: Tensor
    crops: Tensor
    flips: Tensor
    operations: Tensor
    negative: Tensor
    patch_orders: Tensor
    boxes: Tensor
    partner: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def part(self, first: int, last: int) -> "Views":
        """Return views first … last-1, which must be whole batches."""
        cut = {name: tensor[first:last] for name, tensor in vars(self).items()}
        return Views(**cut | {"partner": cut["partner"] - first})


def batch_spans(count: int, size: int) -> list[tuple[int, int]]:
    """Return (first, last) of each batch of `size` among `count` views; the last batch may be smaller.

    A last view alone joins the batch before it: batch normalisation cannot train on one image where the maps have become 1x1.
    """
    starts = list(range(0, count, size))
    if len(starts) > 1 and size > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def draw_epoch(count: int, side: int, epoch: int, settings: ViewSettings) -> Views:
    """Draw the views of one epoch over `count` square images of `side` px, batch after batch."""
    draws = generator(settings.seed, "views", epoch)
    index = torch.randperm(count, generator=draws)
    if settings.padding is None:
        crops = augment.draw_crops(count, side, side, scale=settings.crop_scale, generator=draws)
    else:
        crops = augment.draw_offsets(count, padding=settings.padding, generator=draws)
    flips = augment.draw_flips(count, generator=draws)
    operations, negative = rand_augment.draw_rand_augment(count, generator=draws)
    patch_orders = augment.draw_patch_orders(count, factor=max(1, settings.shuffle_patches), generator=draws)
    boxes, partner, share = torch.zeros(count, 4, dtype=torch.long), torch.arange(count), torch.ones(count)
    for first, last in batch_spans(count, settings.batch_size):
        size, batch = last - first, slice(first, last)
        if settings.mix == "cutmix":
            _, box, permutation = augment.draw_cutmix(size, side, side, generator=draws)
            boxes[batch], partner[batch] = box, first + permutation
            share[batch] = 1 - (box[2] * box[3]).item() / side**2
        elif settings.mix == "mixup":
            share[batch] = augment.draw_beta(1, 0.8, generator=draws)
            partner[batch] = first + torch.randperm(size, generator=draws)
    return Views(index, crops, flips, operations, negative, patch_orders, boxes, partner, share)


def join(views: list[Views]) -> Views:
    """Put the views of several epochs or batches one after the other."""
    offsets = torch.tensor([0, *(len(part) for part in views[:-1])]).cumsum(0).tolist()
    moved = [replace(part, partner=part.partner + offset) for part, offset in zip(views, offsets, strict=True)]
    return Views(**{name: torch.cat([getattr(part, name) for part in moved]) for name in vars(views[0])})


def render(images: Tensor, views: Views, settings: ViewSettings, mean: Tensor, std: Tensor) -> Tensor:
    """Return the views (M, 3, H, W) of uint8 images (N, 3, H, W) as float in normalised units, on the images' device.

    The order is RandAugment, normalisation, patches, crop, flip, mixing, as in the papers' training code.
    """
    return augmented(images[sent(views.index, images.device)], views, settings, mean, std)


def augmented(seen: Tensor, views: Views, settings: ViewSettings, mean: Tensor, std: Tensor) -> Tensor:
    """Return what `render` does, from the uint8 images (M, 3, H, W) that the views show, one for each view."""
    if settings.randaugment:
        seen = rand_augment.rand_augment(seen, views.operations, views.negative)
    seen = ((seen.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    if settings.shuffle_patches > 1:
        seen = augment.shuffle_patches(seen, views.patch_orders)
    if settings.padding is not None:
        black = (-mean / std).flatten().tolist()
        seen = augment.padded_crop(seen, views.crops, padding=settings.padding, fill=black)
    elif tuple(settings.crop_scale) != (1.0, 1.0):
        seen = augment.resized_crop(seen, views.crops)
    if settings.flip:
        seen = augment.flip(seen, views.flips)
    if settings.mix == "cutmix":
        seen = augment.cutmix(seen, views.boxes, views.partner)
    elif settings.mix == "mixup":
        seen = augment.mixup(seen, views.share, views.partner)
    return seen.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Chunk:
    """Consecutive training batches that are rendered and labelled together: the views, and (epoch, first, last) of each batch."""

    number: int
    views: Views
    batches: list[tuple[int, int, int]]
    first_view: int  # the chunk's first view among all views of all epochs

    def parts(self, limit: int) -> "Iterator[tuple[int, Chunk]]":
        """Yield the chunk's batches in order, some together with at most about `limit` views, each time with the first one's number."""
        size = max(1, limit // max(last - first for _, first, last in self.batches))
        for number in range(0, len(self.batches), size):
            batches = self.batches[number : number + size]
            start, stop = batches[0][1], batches[-1][2]
            moved = [(epoch, first - start, last - start) for epoch, first, last in batches]
            yield number, Chunk(self.number, self.views.part(start, stop), moved, self.first_view + start)


def chunks(count: int, side: int, epochs: int, settings: ViewSettings, *, limit: int, first: int = 0) -> Iterator[Chunk]:
    """Yield the views of all epochs in chunks of whole batches with at most about `limit` images, from chunk number `first` on.

    Where chunks begin depends on the arguments alone, never on where a run was interrupted.
    """
    spans = batch_spans(count, settings.batch_size)
    if count <= limit:
        size = limit // count
        groups = [[(epoch, spans) for epoch in range(start, min(epochs, start + size))] for start in range(0, epochs, size)]
    else:
        size = max(1, limit // settings.batch_size)
        groups = [[(epoch, spans[start : start + size])] for epoch in range(epochs) for start in range(0, len(spans), size)]
    drawn: tuple[int, Views] | None = None  # a large set's epoch, kept for the chunks that are parts of it
    for number, group in enumerate(groups):
        if number < first:
            continue
        parts, batches, position = [], [], 0
        for epoch, whole in group:
            start, stop = whole[0][0], whole[-1][1]
            if drawn is None or drawn[0] != epoch:
                drawn = epoch, draw_epoch(count, side, epoch, settings)
            parts.append(drawn[1].part(start, stop))
            batches += [(epoch, position + begin - start, position + end - start) for begin, end in whole]
            position += stop - start
        epoch, whole = group[0]
        yield Chunk(number, join(parts), batches, first_view=epoch * count + whole[0][0])


def chunk_limit(side: int) -> int:
    """Return how many square images of `side` px are labelled together: a large batch for the observers, some 100 MB of memory."""
    return max(16, (1 << 20) // side**2)
