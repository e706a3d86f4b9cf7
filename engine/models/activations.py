"""About how many values a network keeps of an image for its backward pass, without building it: a plan's memory is told from it."""

from typing import Any

from engine.models.counts import MOBILENET_STAGES, RESNET_BLOCKS, VIT_TINY, small_patch

MOBILENET_STRIDES = (1, 1, 2, 2, 1, 2, 1)
OF_A_TOKEN = 20  # kept values of a transformer's block, in widths of its tokens


def kept_values(family: str, side: int, **options: Any) -> int:
    """Return about how many values a network of the small-image zoo keeps of an image of `side` px, `options` being its builder's.

    Kept are the inputs of normalisations and of convolutions, each once; 0 for a family that is not counted.
    """
    match family:
        case "resnet":
            return _resnet(side, **options)
        case "wide_resnet":
            return _wide_resnet(side, **options)
        case "mobilenet":
            return _mobilenet(side)
        case "convnet":
            return _convnet(side, **options)
        case "vision_transformer":
            tokens = (side // small_patch(side)) ** 2
            return VIT_TINY.depth * OF_A_TOKEN * VIT_TINY.width * tokens
        case _:
            return 0


def _resnet(side: int, depth: int = 18, base_width: int = 64) -> int:
    total, channels = 2 * base_width * side**2, base_width
    for stage, count in enumerate(RESNET_BLOCKS[depth]):
        width = base_width * 2**stage
        out = width if depth == 18 else 4 * width
        for index in range(count):
            entering, side = side**2, -(-side // 2) if stage and not index else side
            first = 2 * width * (side**2 if depth == 18 else entering)
            total += first + 2 * (width if depth > 18 else 0) * side**2 + 2 * out * side**2
            total += out * side**2 if channels != out or (stage and not index) else 0
            channels = out
    return total


def _wide_resnet(side: int, depth: int = 16, widen_factor: int = 2) -> int:
    total, channels = 16 * side**2, 16
    for group in range(3):
        width = 16 * 2**group * widen_factor
        for index in range((depth - 4) // 6):
            total += channels * side**2
            side = -(-side // 2) if group and not index else side
            total += 3 * width * side**2
            channels = width
    return total + channels * side**2


def _mobilenet(side: int) -> int:
    side = -(-side // 2)
    total, channels = 2 * 16 * side**2, 16
    for (expansion, full_width, count), stride in zip(MOBILENET_STAGES, MOBILENET_STRIDES, strict=True):
        for index in range(count):
            total += 2 * channels * expansion * side**2
            side = -(-side // 2) if stride == 2 and not index else side
            total += (2 * channels * expansion + 2 * (full_width // 2)) * side**2
            channels = full_width // 2
    return total + 2 * 1280 * side**2


def _convnet(side: int, depth: int = 3, width: int = 128, batch_norm: bool = False) -> int:
    total = 0
    for _ in range(depth):
        total += 2 * width * side**2 + width * (side // 2) ** 2
        side //= 2
    return total
