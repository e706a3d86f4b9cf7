"""Image priors of SRe2L (from DeepInversion): smooth images, small pixel values."""

from torch import Tensor


def total_variation(images: Tensor, groups: int = 1) -> Tensor:
    """Sum of the L2 norms, each over a group's images together, of the differences to the four half-neighbours (methods 1.1).

    images: (G*n, 3, H, W) in normalised units. The neighbours are right, below, and the two diagonals below.
    Returns a scalar, summed over groups.
    """
    differences = (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    total = images.new_zeros(())
    for difference in differences:
        total = total + difference.reshape(groups, -1).norm(dim=1).sum()
    return total


def mean_norm(images: Tensor, groups: int = 1) -> Tensor:
    """Mean over a group's images of an image's L2 norm (methods 1.1); images as in `total_variation`, a scalar summed over groups."""
    return images.flatten(1).norm(dim=1).mean() * groups
