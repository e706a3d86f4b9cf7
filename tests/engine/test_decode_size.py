"""The size that decoded images get, held against torchvision."""

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from engine.data.datasets import IMAGENET
from engine.data.decode import decode_image


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (50, 33), (33, 50), (16, 40), (9, 12), (1, 70)])
def test_it_is_torchvisions_resize_and_centre_crop(tmp_path, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8))
    image.save(tmp_path / "a.png")
    expected = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(16)])(image)
    assert np.array_equal(decode_image(str(tmp_path / "a.png"), 16), np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(500, 375), (300, 300), (224, 224), (256, 256), (40, 900)])
def test_test_images_of_imagenet_are_resized_to_256_and_cut_to_224_as_torchvision_does(tmp_path, size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3)).astype(np.uint8))
    image.save(tmp_path / "a.png")
    expected = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    decoded = decode_image(str(tmp_path / "a.png"), 224, IMAGENET.test_margin)
    assert np.array_equal(decoded, np.asarray(expected).transpose(2, 0, 1))
