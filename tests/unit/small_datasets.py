"""Small datasets in the forms in which the real ones lie on disk."""

import gzip
import pickle
import tarfile

import numpy as np
from PIL import Image

RESOLUTIONS = {  # working sides in px, here and in the papers
    "cifar10": 32,
    "cifar100": 32,
    "tiny-imagenet": 64,
    "imagenet-10": 224,
    "imagenet-1k": 224,
    "imagenet-21k-p": 224,
    "fashion-mnist": 32,
    "digits": 16,
}
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_tree(root, classes=("cat", "dog"), train=3, test=2, size=(32, 32), test_name="test"):
    """Write PNG files `train/<class>/<n>.png` and the like; the first pixel's red tells the class, its green the number."""
    for split, count in (("train", train), (test_name, test)):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", size, (label, number, 200)).save(root / split / name / f"{number}.png")
    return root


def write_idx(path, array):
    """Write an IDX file of unsigned bytes, gzip when its name ends so."""
    data = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_fashion_mnist(folder, per_class=2, suffix=".gz"):
    """Write the four files with labels 0..9 over and over; returns the training images and labels."""
    random = np.random.default_rng(0)
    result = None
    for prefix in ("t10k", "train"):
        labels = np.tile(np.arange(10), per_class)
        images = random.integers(0, 256, (len(labels), 28, 28)).astype(np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
        result = images, labels
    return result


def write_cifar10(root, per_batch=10):
    """Write `cifar-10-batches-py/*` as Python 2 did (protocol 2, text keys); returns the training images and labels."""
    random = np.random.default_rng(1)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = [], []
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        batch = {
            "data": random.integers(0, 256, (per_batch, 3072)).astype(np.uint8),
            "labels": [int(label) for label in np.arange(per_batch)[::-1] % 10],
            "batch_label": name,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        if name != "test_batch":
            images.append(batch["data"].reshape(-1, 3, 32, 32))
            labels.extend(batch["labels"])
    return np.concatenate(images), np.array(labels)


def pack_cifar10(root):
    """Put the folder that `write_cifar10` wrote into `cifar-10-python.tar.gz` and remove it."""
    folder = root / "cifar-10-batches-py"
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
