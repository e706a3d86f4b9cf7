"""Small datasets in the forms in which the real ones lie on disk."""

import gzip
import pickle
import shutil
import tarfile
import zipfile

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


def write_cifar100(root, count=200):
    """Write `cifar-100-python/{train,test,meta}` as the original has them; returns the training images, fine and coarse labels."""
    random = np.random.default_rng(2)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    result = None
    for name in ("test", "train"):
        fine = np.arange(count)[::-1] % 100
        batch = {
            "filenames": [f"{number}.png" for number in range(count)],
            "batch_label": f"{name} 1 of 1",
            "fine_labels": [int(label) for label in fine],
            "coarse_labels": [int(label) // 5 for label in fine],
            "data": random.integers(0, 256, (count, 3072)).astype(np.uint8),
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        result = batch["data"].reshape(-1, 3, 32, 32), fine
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple"], "coarse_label_names": ["fruit"]}, protocol=2))
    return result


def pack_tar(folder, archive, mode="w:gz"):
    """Put a folder into a tar archive beside it and remove it."""
    with tarfile.open(archive, mode) as packed:
        packed.add(folder, folder.name)
    shutil.rmtree(folder)


TINY = ("n01443537", "n01629819", "n02124075")
WORDS = "n01443537\tgoldfish, Carassius auratus\nn01629819\tEuropean fire salamander\nn02124075\tEgyptian cat\nn09999999\tnothing here\n"


def picture(seed, size=(64, 64)):
    """Return an image that is like no other: blocks of random colours, which JPEG keeps well."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BILINEAR)


def write_tiny_imagenet(root, train=4, val=2, sort=False):
    """Write `tiny-imagenet-200` of three classes as the original lies on disk, or with `val` sorted into class folders."""
    folder = root / "tiny-imagenet-200"
    for label, name in enumerate(TINY):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        for number in range(train):
            picture((0, label, number)).save(images / f"{name}_{number}.JPEG")
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t63\t63\n")
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    picture(9).save(folder / "test" / "images" / "test_0.JPEG")
    lines = []
    for number in range(val * len(TINY)):
        name, file = TINY[number * 2 % len(TINY)], f"val_{number}.JPEG"
        place = folder / "val" / (name if sort else "images")
        place.mkdir(exist_ok=True)
        picture((1, number)).save(place / file)
        lines.append(f"{file}\t{name}\t0\t32\t44\t62\n")
    if sort:
        (folder / "val" / "images").rmdir()
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(TINY)))
    (folder / "words.txt").write_text(WORDS)
    return folder


def zip_folder(folder, archive, packing=zipfile.ZIP_DEFLATED):
    """Put a folder with entries for its folders into a zip file and remove it."""
    with zipfile.ZipFile(archive, "w", packing) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder.parent))
    shutil.rmtree(folder)


def write_imagenet(root, numbers, train=3, val=2, names=("train", "val")):
    """Write `train/<number>/<number>_<n>.JPEG` and `val/<number>/ILSVRC2012_val_<n>.JPEG` of images of several sizes."""
    validation = 0
    for label, name in enumerate(numbers):
        for split in names:
            (root / split / name).mkdir(parents=True)
        for number in range(train):
            picture((2, label, number), (40 + 9 * number, 48)).save(root / names[0] / name / f"{name}_{number * 7}.JPEG")
        for _ in range(val):
            validation += 1
            picture((3, validation), (60, 50)).save(root / names[1] / name / f"ILSVRC2012_val_{validation:08d}.JPEG")
    return root


def pack_imagenet(root, numbers):
    """Turn what `write_imagenet` wrote into the three original archives, whose development kit numbers the classes backwards."""
    from scipy.io import savemat

    truth = {int(path.stem[-8:]): path.parent.name for path in (root / "val").rglob("*.JPEG")}
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for path in sorted((root / "val").rglob("*.JPEG")):
            archive.add(path, path.name)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as archive:
        for name in numbers[::-1]:
            inner = root / f"{name}.tar"
            with tarfile.open(inner, "w") as packed:
                for path in sorted((root / "train" / name).iterdir(), reverse=True):
                    packed.add(path, path.name)
            archive.add(inner, inner.name)
            inner.unlink()
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")
    kit = root / "ILSVRC2012_devkit_t12"
    (kit / "data").mkdir(parents=True)
    leaves = [(number, name, "words", "gloss", 0) for number, name in enumerate(reversed(numbers), 1)]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = np.array([*leaves, (len(leaves) + 1, "n00000001", "entity", "all of them", len(leaves))], dtype=kind)
    savemat(kit / "data" / "meta.mat", {"synsets": rows})
    numbered = {name: number for number, name, *_ in leaves}
    lines = [str(numbered[truth[number]]) for number in sorted(truth)]
    (kit / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(lines) + "\n")
    pack_tar(kit, root / "ILSVRC2012_devkit_t12.tar.gz")
