"""The known datasets: what they are, where their files come from, and in which layouts they are recognised."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.data import class_lists, finders
from engine.data.finders import Found


@dataclass(frozen=True)
class DatasetInfo:
    """What can be said of a dataset without its files; `class_count` and `image_counts` (train, test) are None for the user's own."""

    name: str
    title: str
    resolution: int  # the working resolution when a project names none, pixels
    class_count: int | None
    image_counts: tuple[int, int] | None
    mirror: bool  # whether an image keeps its meaning when flipped left to right
    where: str  # how to obtain it


@dataclass(frozen=True)
class Download:
    """A file to fetch: address, size in bytes, MD5 in hex."""

    url: str
    size: int
    md5: str

    @property
    def file_name(self) -> str:
        """The last part of the address, which is also the file's name on disk."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Preparation:
    """How images become tensors where that differs from the usual.

    mean, std: per channel in [0, 1], where they are those of published weights rather than of the training images. test_margin: test
    images are resized to this many times the working resolution before their centre is cut out.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    test_margin: float = 1.0


USUAL = Preparation()
# What torchvision's weights expect: `Resize(256)`, `CenterCrop(224)`, and these constants.
IMAGENET = Preparation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256 / 224)


@dataclass(frozen=True)
class Dataset:
    """One entry of the list: facts, the finders that look for its layouts in a folder, and what to fetch."""

    info: DatasetInfo
    classes: Callable[[], tuple[str, ...]] | None  # in label order, () where no list is at hand; None: the class folders' names, sorted
    finders: tuple[Callable[[Path], Found | None], ...]
    expected: str  # which files go where, for the message when they are missing
    other_names: tuple[str, ...] = ()  # folders of the data root searched after the one of the dataset's name
    system_folders: tuple[Path, ...] = ()  # searched last
    downloads: tuple[Download, ...] = ()
    own_root: bool = False  # whether dataset.root must say where the images lie
    part: bool = False  # whether further classes in the same folders are left aside
    wordnet: bool = False  # whether classes are WordNet's numbers, which have titles
    preparation: Preparation = USUAL


_FASHION_MNIST_HOST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_LICENCE = "its licence lets no program hand it on: ask for it at image-net.org"
_IMAGENET_FILES = (
    "images as train/<number>/… and val/<number>/…, number being WordNet's such as n01440764, or the original archives "
    "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz (nothing is unpacked)"
)

DATASETS = (
    Dataset(
        DatasetInfo("digits", "handwritten digits, 8x8 grey", 16, 10, (1198, 599), mirror=False, where="comes with scikit-learn"),
        classes=lambda: tuple("0123456789"),
        finders=(finders.find_digits,),
        expected="digits.csv.gz, which scikit-learn installs",
        system_folders=finders.scikit_learn_data(),
    ),
    Dataset(
        DatasetInfo(
            "fashion-mnist", "Zalando's articles, 28x28 grey", 32, 10, (60_000, 10_000), mirror=True,
            where="edc datasets --fetch fashion-mnist, or Debian's package dataset-fashion-mnist",
        ),
        classes=lambda: class_lists.FASHION_MNIST,
        finders=(finders.find_idx,),
        expected="train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz",
        other_names=("FashionMNIST",),
        system_folders=(Path("/usr/share/datasets/fashion-mnist"),),
        downloads=(
            Download(f"{_FASHION_MNIST_HOST}/train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            Download(f"{_FASHION_MNIST_HOST}/train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            Download(f"{_FASHION_MNIST_HOST}/t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            Download(f"{_FASHION_MNIST_HOST}/t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    Dataset(
        DatasetInfo("cifar10", "CIFAR-10, 32x32 colour", 32, 10, (50_000, 10_000), mirror=True, where="edc datasets --fetch cifar10"),
        classes=lambda: class_lists.CIFAR10,
        finders=(finders.find_cifar10, finders.find_tree),
        expected="cifar-10-python.tar.gz, the folder cifar-10-batches-py, or images as train/<class>/… and test/<class>/…",
        other_names=("cifar-10-batches-py",),
        downloads=(
            Download("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"),
        ),
    ),
    Dataset(
        DatasetInfo(
            "cifar100", "CIFAR-100, 32x32 colour, fine labels", 32, 100, (50_000, 10_000), mirror=True,
            where="edc datasets --fetch cifar100",
        ),
        classes=lambda: class_lists.CIFAR100,
        finders=(finders.find_cifar100, finders.find_tree),
        expected="cifar-100-python.tar.gz, the folder cifar-100-python, or images as train/<class>/… and test/<class>/…",
        other_names=("cifar-100-python",),
        downloads=(
            Download("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),
        ),
    ),
    Dataset(
        DatasetInfo(
            "tiny-imagenet", "Tiny-ImageNet, 64x64 colour", 64, 200, (100_000, 10_000), mirror=True,
            where="edc datasets --fetch tiny-imagenet",
        ),
        classes=None,
        finders=(finders.find_tiny_imagenet,),
        expected="tiny-imagenet-200.zip (nothing is unpacked) or the folder tiny-imagenet-200, its val/ as it is or sorted into classes",
        other_names=("tiny-imagenet-200",),
        downloads=(Download("http://cs231n.stanford.edu/tiny-imagenet-200.zip", 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"),),
        wordnet=True,
    ),
    Dataset(
        DatasetInfo(
            "imagenet-10", "ten classes of ImageNet-1k", 224, 10, None, mirror=True,
            where=f"cut from the files of imagenet-1k; {_LICENCE}",
        ),
        classes=lambda: class_lists.IMAGENET10,
        finders=(finders.find_imagenet,),
        expected=f"at least its ten classes of ImageNet: {_IMAGENET_FILES}",
        other_names=("imagenet-1k", "imagenet", "ImageNet", "ILSVRC2012"),
        part=True,
        wordnet=True,
        preparation=IMAGENET,
    ),
    Dataset(
        DatasetInfo(
            "imagenet-1k", "ImageNet-1k (ILSVRC 2012)", 224, 1000, (1_281_167, 50_000), mirror=True, where=_LICENCE,
        ),
        classes=class_lists.imagenet_1k,
        finders=(finders.find_imagenet,),
        expected=_IMAGENET_FILES,
        other_names=("imagenet", "ImageNet", "ILSVRC2012"),
        wordnet=True,
        preparation=IMAGENET,
    ),
    Dataset(
        DatasetInfo(
            "imagenet-21k-p", "ImageNet-21K-P, winter 2021, processed", 224, 10_450, (11_060_223, 522_500), mirror=True, where=_LICENCE,
        ),
        classes=class_lists.imagenet_21k_p,
        finders=(finders.find_imagenet_21k,),
        expected="the release imagenet21k_resized unpacked (imagenet21k_train/<number>/… and imagenet21k_val/<number>/…) or as "
        "imagenet21k_resized.tar",
        wordnet=True,
        preparation=IMAGENET,
    ),
    Dataset(
        DatasetInfo("folder", "your own images", 32, None, None, mirror=True, where="dataset.root = a folder with train/ and test/"),
        classes=None,
        finders=(finders.find_tree,),
        expected="images as train/<class>/… and test/<class>/… (or val/<class>/…)",
        own_root=True,
    ),
)
