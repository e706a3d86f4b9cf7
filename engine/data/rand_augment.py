"""RandAugment (Cubuk et al. 2020) with torchvision's operations and ranges, drawn for each image and computed for many at once.

Images that drew the same operation in the same direction are computed together, so a round costs at most 23 small batches whatever
the number of images, and each gets bit for bit what torchvision's functions give it.
"""

import functools
import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from engine.compute.transfer import sent
from engine.errors import UserError

OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
    "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
GEOMETRIC = frozenset(OPERATIONS[1:6])
SIGNED = frozenset(OPERATIONS[1:10])
MAGNITUDE_BINS = 31


def draw_rand_augment(count: int, *, operations: int = 2, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the operations of each image and their directions, all equally likely.

    Returns `operation` (count, operations) int64, indices into `OPERATIONS`, and `negative` (count, operations) bool, which counts
    for the operations of `SIGNED` only.
    """
    operation = torch.randint(len(OPERATIONS), (count, operations), generator=generator)
    return operation, torch.rand(count, operations, generator=generator) < 0.5


def rand_augment(images: Tensor, operation: Tensor, negative: Tensor, *, magnitude: int = 9) -> Tensor:
    """Apply to each image its operations one after the other; nearest interpolation, outside is black.

    `images` (N, 3, H, W) uint8 on any device; `operation` and `negative` (N, operations) on the CPU, as `draw_rand_augment` returns
    them, since how many images share an operation must be known without asking the device; `magnitude` one of 31 bins, 0..30.
    Returns (N, 3, H, W) uint8. Raises UserError for a magnitude outside its bins. Section 1.5 g of the methods: 2 operations, 9.
    """
    if not 0 <= magnitude < MAGNITUDE_BINS:
        raise UserError(f"RandAugment magnitude is {magnitude}; it must be a whole number from 0 to {MAGNITUDE_BINS - 1}")
    signed = torch.tensor([name in SIGNED for name in OPERATIONS])
    for group in (operation * 2 + (negative & signed[operation])).unbind(dim=1):
        order = group.argsort(stable=True)
        sizes = group.bincount(minlength=2 * len(OPERATIONS)).tolist()
        batches = images.index_select(0, sent(order, images.device)).split(sizes)
        done = [_apply(batch, OPERATIONS[key // 2], key % 2 == 1, magnitude) for key, batch in enumerate(batches) if sizes[key]]
        if done:
            images = torch.cat(done).index_select(0, sent(order.argsort(), images.device))
    return images


def operation_strength(name: str, magnitude: int, height: int, width: int) -> float:
    """Return what bin `magnitude` of 31 means for the operation: a slope, pixels, degrees, a change of factor, bits or a threshold.

    The direction of a signed operation is not in it; operations without a strength give 0.
    """
    highest = {
        "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 150 / 331 * width, "TranslateY": 150 / 331 * height, "Rotate": 30.0,
        "Brightness": 0.9, "Color": 0.9, "Contrast": 0.9, "Sharpness": 0.9,
    }  # fmt: skip
    if name in highest:
        return float(torch.linspace(0.0, highest[name], MAGNITUDE_BINS)[magnitude])
    if name == "Posterize":
        return 8 - round(magnitude / ((MAGNITUDE_BINS - 1) / 4))
    if name == "Solarize":
        return 255 * float(torch.linspace(1.0, 0.0, MAGNITUDE_BINS)[magnitude])
    return 0.0


def _apply(images: Tensor, name: str, negative: bool, magnitude: int) -> Tensor:
    height, width = images.shape[-2:]
    if name in GEOMETRIC:
        source, inside = _source_pixels(name, negative, magnitude, height, width, images.device)
        # On the CPU, gather along a broadcast index is ten times faster than index_select along the last axis.
        return images.flatten(2).gather(2, source.expand(*images.shape[:2], -1)).mul_(inside).view(images.shape)
    strength = operation_strength(name, magnitude, height, width)
    factor = 1.0 - strength if negative else 1.0 + strength
    match name:
        case "Brightness":
            return functional.adjust_brightness(images, factor)
        case "Color":
            return functional.adjust_saturation(images, factor)
        case "Contrast":
            return functional.adjust_contrast(images, factor)
        case "Sharpness":
            return _sharpen(images, factor)
        case "Posterize":
            return functional.posterize(images, int(strength))
        case "Solarize":
            return functional.solarize(images, strength)
        case "AutoContrast":
            return _stretch_contrast(images)
        case "Equalize":
            return functional.equalize(images)
    return images


@functools.lru_cache(maxsize=256)
def _source_pixels(name: str, negative: bool, magnitude: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (H*W,) int64, the pixel that each pixel of the moved image is taken from, and (H*W,) uint8, 0 where there is none.

    Read off from what torchvision makes of an image of pixel numbers, so that it rounds as torchvision does on every device.
    """
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
    strength = operation_strength(name, magnitude, height, width) * (-1 if negative else 1)
    if name == "Rotate":
        moved = functional.rotate(numbers, strength)
    elif name.startswith("Shear"):
        degrees = math.degrees(math.atan(strength))
        shear = [degrees, 0.0] if name == "ShearX" else [0.0, degrees]
        moved = functional.affine(numbers, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])
    else:
        pixels = int(strength)
        translate = [pixels, 0] if name == "TranslateX" else [0, pixels]
        moved = functional.affine(numbers, angle=0.0, translate=translate, scale=1.0, shear=[0.0, 0.0])
    source = moved.flatten().long()
    inside = (source > 0).to(torch.uint8)
    return sent((source - 1).clamp(min=0), device), sent(inside, device)


def _sharpen(images: Tensor, factor: float) -> Tensor:
    """Blend with a 3x3 blur of weights 1/13, 5/13 in the middle, borders kept.

    The blur is summed exactly, not convolved: torchvision makes its kernel on the host, which would hold up the device, and a
    convolution may round to TF32 or under autocast.
    """
    if min(images.shape[-2:]) <= 2:
        return images
    sharpened = images.float()
    rows = sharpened[:, :, :-2] + sharpened[:, :, 1:-1] + sharpened[:, :, 2:]
    inner = sharpened[:, :, 1:-1, 1:-1]
    blurred = rows[..., :-2].add(rows[..., 1:-1]).add_(rows[..., 2:]).add_(inner, alpha=4).div_(13).round_()
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return sharpened.clamp_(0, 255).to(torch.uint8)


def _stretch_contrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0..255, flat ones kept; torchvision's own assigns through a mask, which may hold up the device."""
    minimum = images.amin(dim=(-2, -1), keepdim=True).float()
    maximum = images.amax(dim=(-2, -1), keepdim=True).float()
    flat = maximum == minimum
    scale = torch.where(flat, 1.0, (maximum - minimum) * (1 / 255))
    return images.float().sub_(torch.where(flat, 0.0, minimum)).div_(scale).clamp_(0, 255).to(torch.uint8)
