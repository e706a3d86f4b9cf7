"""The constants by which networks of this field see their images normalised: means and deviations of the channels, in units of [0, 1]."""

from collections.abc import Sequence

Constants = tuple[tuple[float, float, float], tuple[float, float, float]]

# methods.md 0.8 of each code base: EDC and G-VBSM take CIFAR-100's on both CIFARs, RDED ImageNet's everywhere, CDA none on ImageNet-21k-P.
KNOWN: dict[str, Constants] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar10-narrow": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
DATASET = "dataset"  # the means and deviations of the dataset's own training images


def constants(value: str | Sequence[float], own: Constants) -> Constants:
    """Return the constants that `observers.normalisation` means: a known name, three means and three deviations, or the dataset's `own`."""
    if isinstance(value, str):
        return own if value == DATASET else KNOWN[value]
    red, green, blue, *deviations = map(float, value)
    return (red, green, blue), (deviations[0], deviations[1], deviations[2])
