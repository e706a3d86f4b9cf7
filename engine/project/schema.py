"""What a project may ask for: every key with its type, range, unit, help, and where the papers say so.

The form of the terminal app, `--set`, the checks of a TOML file and the reference page are all made from this one declaration.
Abbreviations of sources: EDC is arXiv 2404.13733, SRe2L 2306.13092, CDA 2311.18838, RDED 2312.03526, G-VBSM 2311.17950.
"""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Ge(0), Le(1)]
BelowOne = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]
Range = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
Percent = Annotated[float, Ge(0), Le(100)]
Names = Annotated[list[str], MinLen(1)]


def key(default: Any, help: str, paper: str = "", unit: str = "") -> Any:
    """Declare a key: its default, one sentence of help, its source in the papers, and its unit."""
    return Field(default, description=help, json_schema_extra={"paper": paper, "unit": unit})


class Section(BaseModel):
    """A table of the project file; unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True, allow_inf_nan=False, protected_namespaces=())


class Dataset(Section):
    """Which real images are condensed."""

    name: str = key("digits", "The dataset: a name that `edc datasets` lists, or `folder` for your own images.")
    root: str | None = key(None, "Folder that holds the data, relative to the project file; otherwise below the data root ($EDC_DATA).")
    resolution: Annotated[int, Ge(8), Le(1024)] | None = key(
        None, "Working side of the square images; the dataset's own when absent.", unit="px"
    )
    mirror: bool | None = key(None, "Whether a mirrored image keeps its class; false switches every horizontal flip off.")
    store: Literal["auto", "memory-map", "stream"] = key(
        "auto",
        "Decode all images once into files that are mapped into memory (3 x side x side bytes an image: 193 GB for ImageNet-1k at 224 px), "
        "or decode each whenever it is needed, which takes no disk; auto streams above 50 GB or where the disk lacks the room. Results do "
        "not depend on it.",
    )


class Condense(Section):
    """What is made of them."""

    method: str = key("edc", "The method whose file gives every key below its default; `edc methods` lists them.")
    ipc: Count = key(10, "Images per class of the condensed set.", unit="images")
    seed: CountOrNone = key(0, "Every random draw of the run follows from this number.")
    compat: Literal["fixed", "edc-head", "edc-9836066"] = key(
        "fixed",
        "`fixed` does what the papers mean; the others reproduce two states of the reference release with their defects.",
        "docs/methods.md",
    )
    published: list[str] = key(
        [],
        "Printed figures to hold the result against, such as table-1/edc; when empty, those of the same dataset, ipc, method and student.",
        "EDC Tables 1-5 and 22",
    )


class Observers(Section):
    """The networks through which real and condensed images are compared and labelled."""

    synthesis: Names = key(["resnet18"], "Observers whose statistics the images are matched to.", "EDC A.2, Table 12")
    labels: Names = key(["resnet18"], "Observers whose logits are averaged into soft labels.", "EDC Table 13")
    rotation: Literal["round_robin", "random", "all"] = key(
        "round_robin", "Which observers an iteration uses: the next, a random one, or all.", "G-VBSM 3.3"
    )
    weights: dict[str, str] = key(
        {},
        "Where the weights of single observers come from: `squeeze` trains them, `torchvision` and `timm` have published ones, else a file "
        "(.safetensors, .pt, .pth); `*` stands for all others.",
        "EDC A.2",
    )
    accuracy: dict[str, Percent] = key(
        {}, "Top-1 accuracy on the test images that observers from files should have; far below it they are refused.", unit="%"
    )
    normalisation: dict[
        str, Literal["dataset", "imagenet", "cifar10", "cifar10-narrow", "cifar100", "tiny-imagenet", "half", "none"] | list[float]
    ] = key({}, "How observers with weights from elsewhere want their images normalised, by name or as three means and three deviations.")
    class_order: dict[str, Literal["names", "alphabetical", "numeric", "imagenet"] | list[str]] = key(
        {}, "What the outputs of observers with weights from elsewhere mean: classes in the dataset's order, in another one, or by name."
    )


class Squeeze(Section):
    """How observers are trained on the real images."""

    epochs: Count = key(10, "Passes over the training images.", "EDC A.2", "epochs")
    optimizer: Literal["sgd", "adamw"] = key("sgd", "Optimiser of the observers.")
    learning_rate: Positive = key(0.05, "Peak learning rate.", "EDC reference release")
    momentum: BelowOne = key(0.9, "Momentum of SGD.")
    weight_decay: NotNegative = key(0.0, "Decay of weights with more than one dimension.")
    batch_size: Count = key(64, "Images of a step.", unit="images")
    schedule: Literal["constant", "cosine", "one_cycle"] = key("constant", "Learning rate over the steps.")
    padding: CountOrNone = key(4, "Zero padding of the random crop.", unit="px")
    crop_scale: Range | None = key(
        None, "Area of a random resized crop as a fraction of the image; the padded crop when absent.", "EDC reference release (224 px)"
    )
    flip: bool = key(True, "Mirror half of the images.")
    seed: CountOrNone = key(0, "Seed of the observers, apart from condense.seed so that runs of several seeds share them.")
    checkpoint: Literal["last", "every10"] = key(
        "last",
        "Which weights are kept: the last, or those of the last epoch whose index is a multiple of ten, as the release does.",
        "defect D10",
    )


class Statistics(Section):
    """How the targets of matching are collected from the real images."""

    augmentation: Literal["crop", "none"] = key(
        "crop", "Whether images are cropped and mirrored as in squeeze while statistics are collected.", "EDC 3.2"
    )
    batch_size: Count = key(256, "Images of one forward pass; does not change the result beyond rounding.", unit="images")


class Initialise(Section):
    """Where the condensed images start."""

    source: Literal["noise", "real", "rded", "easy", "medium", "herding", "k-center", "files"] = key(
        "real",
        "Normal noise; random real images of the class; RDED's best crops; the real images that an observer finds easiest or of medium "
        "difficulty, herding's or k-center's choice by its features; or images of your own.",
        "EDC 3.1, DELT, 2606.18209",
    )
    path: str | None = key(None, "Folder or file of your own images for the source `files`, relative to the project file.")
    replacement: Literal["never", "always", "usage"] = key(
        "never", "Draw real images without replacement, with it, or with probability softmax(-times used).", "defect D15"
    )
    flip: bool = key(True, "Mirror each starting image with probability one half.")
    shuffle_patches: CountOrNone = key(0, "Permute the N x N patches of each starting image; 0 leaves them.", "defect D1")


class Rded(Section):
    """How RDED chooses and tiles real crops."""

    factor: Count = key(1, "Each image is tiled from factor x factor crops.", "RDED 3.2")
    candidates: Count = key(300, "Real images of a class that are scored.", "RDED 3.2", "images")
    crops: Count = key(5, "Random crops drawn from each candidate; the best one is kept.", "RDED 3.2")
    crop_scale: Range = key([0.08, 1.0], "Area of a crop as a fraction of its image.", "RDED 3.2")
    tile_order: Literal["stratified", "consecutive"] = key(
        "stratified", "Give every image one crop of each quality band, or consecutive ranks to one image.", "RDED; EDC's own builder"
    )


class Match(Section):
    """Statistical matching: what is compared, and how hard."""

    layers: Literal["bn", "bn+conv"] = key("bn+conv", "Layers whose inputs are matched.", "G-VBSM 3.2")
    patch_size: CountOrNone = key(4, "Side of the tiles whose moments conv inputs also match; 0 leaves tiles out.", "G-VBSM 3.2", "px")
    first_multiplier: NotNegative = key(10.0, "Weight of the first matched layer.", "SRe2L, reference release")
    weight: NotNegative | Literal["auto"] = key(
        0.01,
        "Weight of the matching loss beside the classification loss; `auto` makes the two equal at a batch's first iteration.",
        "reference release",
    )
    w_global: Fraction | None = key(None, "Weight of the moments of the whole dataset; 1 - w_class when absent.", "EDC Eq. 5, Table 5")
    w_class: Fraction = key(0.5, "Weight of the moments of the classes in the batch (soft category-aware matching).", "EDC Eq. 5, Table 5")
    class_form: Literal["batch_mean", "per_class_sum"] = key(
        "batch_mean", "Compare the batch with the mean of its classes' moments (the release), or each class by itself (Eq. 5).", "EDC Eq. 5"
    )
    class_source: Literal["table", "sampled_real"] = key(
        "table", "Class moments from all images of the class, or from a random set of as many."
    )
    class_variance: Literal["pooled", "within_image"] = key(
        "pooled", "Variance of a class over all its pixels, or the mean of its images' variances.", "defect D3"
    )
    ema_momentum: BelowOne = key(0.8, "Momentum of the moments of the condensed images over iterations.", "G-VBSM 3.4")
    ema_start: Literal["zero", "first", "debias"] = key(
        "debias", "How the momentum starts: at zero, at the first value, or corrected for its start.", "defect D6"
    )
    ema_reset: bool = key(True, "Start the momentum anew for every batch of images.", "defect D16")
    conv_drop: BelowOne = key(0.0, "Probability with which a conv layer is left out of an iteration.", "G-VBSM 3.2")
    norm: Literal["l2", "l2_squared"] = key("l2", "Distance between moments.", "SRe2L Eq. 6")
    swap_class_patch: bool = key(False, "Exchange the tile means and variances of the class tables, as the release does.", "defect D2")
    double_global_conv: bool = key(False, "Double the pooled conv targets, as a fresh clone of the release does.", "defect D8")


class Flatness(Section):
    """Flatness regularisation of the images."""

    kind: Literal["off", "logit_ema", "stat_ema", "two_crop", "sam"] = key(
        "logit_ema",
        "Off, the paper's L'_FR on logits, L_FR on statistics, the release's two-crop form, or sharpness-aware steps.",
        "EDC Eq. 6 and 7, Table 4",
    )
    weight: NotNegative = key(0.25, "Weight of the flatness loss.", "EDC Table 4")
    beta: BelowOne = key(0.99, "Momentum of the averaged images.", "EDC Table 4")
    tau: Positive = key(4.0, "Temperature of the logits.", "EDC Table 4")
    reduction: Literal["batchmean", "mean"] = key(
        "batchmean", "Mean over images, or over images and classes as the CIFAR release does.", "defect D5"
    )
    rho: Positive = key(0.05, "Length of a sharpness-aware step over the batch.", "SAM, 2010.01412")


class Diversity(Section):
    """Data densification: keeps the images of a class apart."""

    weight: NotNegative = key(0.0, "Weight of the densification loss.", "G-VBSM 3.1")
    tau: Positive = key(4.0, "Temperature of the eigenvalues.", "G-VBSM 3.1")
    normalise: bool = key(False, "Divide the eigenvalues by their mean, since raw ones saturate the softmax.", "defect G2")


class Prior(Section):
    """Smoothness priors of the images."""

    tv: NotNegative = key(0.0, "Weight of the total variation.", "SRe2L Eq. 7")
    l2: NotNegative = key(0.0, "Weight of the images' length.", "SRe2L Eq. 7")


class Augment(Section):
    """Augmentation while images are synthesised."""

    crop_mode: Literal["none", "fixed", "padded", "curriculum_step", "curriculum_linear", "curriculum_cosine"] = key(
        "fixed", "No crop, a random resized crop, a padded crop, or CDA's curriculum from whole images to small crops.", "CDA 3.3, EDC 3.3"
    )
    crop_scale: Range = key([0.5, 1.0], "Area of a crop as a fraction of the image.", "EDC 3.3 (weak augmentation), Table 5")
    milestone: Fraction = key(1.0, "Part of the iterations over which the curriculum runs.", "CDA 3.3")
    padding: CountOrNone = key(4, "Zero padding of the padded crop.", unit="px")
    flip: bool = key(True, "Mirror with probability one half.")
    roll: CountOrNone = key(0, "Shift circularly by up to this many pixels in each direction.", "SRe2L", "px")
    per_image: bool = key(False, "Draw crop and flip for each image rather than once for a statistics batch.")


class Batch(Section):
    """Which condensed images are optimised together."""

    order: Literal["class_major", "one_per_class"] = key(
        "class_major", "Fill a batch class by class, or with one image of each class.", "G-VBSM, SRe2L"
    )
    size: CountOrNone = key(
        100, "Images of one batch; 0 means all. With one_per_class at most one of each class.", "EDC Tables 6-10", "images"
    )
    statistics: CountOrNone = key(
        0,
        "Images whose moments are taken together and which share a crop; 0 means the whole batch. The release's value is size / GPUs.",
        "defect D18",
        "images",
    )


class Synthesise(Section):
    """Optimisation of the images."""

    enabled: bool = key(True, "Whether images are optimised at all; false keeps the starting images.")
    iterations: Count = key(2000, "Steps for each batch of images.", "EDC Tables 6-10", "iterations")
    learning_rate: Positive = key(0.05, "Learning rate of Adam on the pixels, in normalised units.", "EDC Tables 6-10")
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)] = key([0.5, 0.9], "Momenta of Adam.", "EDC Tables 6-10")
    schedule: Literal["cosine", "constant"] = key("cosine", "Learning rate over the iterations.", "SRe2L")


class Save(Section):
    """How the condensed images are kept."""

    format: Literal["tensor", "png", "jpeg"] = key(
        "tensor", "Tensor file only, PNG files beside it, or JPEG files whose losses the tensor then carries.", "defect D21"
    )
    quality: Annotated[int, Ge(1), Le(100)] = key(75, "Quality of JPEG files.")
    quantise: Literal["round", "truncate"] = key("round", "How pixels become whole numbers; the release truncates.", "defect D21")


class Labels(Section):
    """Soft labels of the condensed images."""

    mode: Literal["online", "stored", "fixed", "given"] = key(
        "online",
        "Ask the observers while the student trains, store their logits beforehand for every epoch or once for each image, or take the "
        "labels that came with your own images.",
        "EDC A.2; FKD, 2112.01528",
    )
    ensemble: Literal["mean", "norm_mean"] = key("mean", "Mean of raw logits, or of logits brought to equal norm.", "G-VBSM 3.4")
    crop_mode: Literal["fixed", "padded"] = key("fixed", "A random resized crop, or a crop of the padded image.", "SRe2L (CIFAR-100)")
    crop_scale: Range = key([0.5, 1.0], "Area of a random resized crop as a fraction of the image.", "EDC 3.3")
    padding: CountOrNone = key(4, "Zero padding of the padded crop.", "SRe2L (CIFAR-100)", "px")
    flip: bool = key(True, "Mirror half of the images.")
    mix: Literal["none", "cutmix", "mixup"] = key("cutmix", "How two images of a batch are mixed.", "SRe2L 3.3")
    dtype: Literal["float16", "float32"] = key("float16", "Precision of stored logits, and of what is stored beside 8-bit ones.")
    storage: Literal["full", "top-k", "8-bit"] = key(
        "full",
        "What is stored of logits: all of them, the largest and one value that the others share, or 8 bits each with an offset and a "
        "scale a row.",
        "FKD, 2112.01528; docs/speed.md",
    )
    top_k: Count = key(5, "How many of the largest logits top-k keeps.", "FKD, 2112.01528", "logits")
    teacher_batchnorm: Literal["eval", "train"] = key(
        "eval", "Whether observers label with their running or with the batch's statistics.", "defect S1"
    )


class Evaluate(Section):
    """How a student is trained on the condensed set and measured."""

    students: Names = key(["resnet18"], "Networks trained from scratch on the condensed set.", "EDC Tables 1 and 2")
    seeds: Annotated[list[CountOrNone], MinLen(1)] = key([0, 1, 2], "One training for each of these seeds.")
    epochs: Count = key(300, "Passes over the condensed set.", "EDC Tables 6-10", "epochs")
    batch_size: Count = key(100, "Images of a step.", "EDC 3.4", "images")
    loss: Literal["mse_ce", "kl", "dist", "ce"] = key(
        "mse_ce", "Mean squared error of logits plus cross-entropy, KL with temperature, DIST, or hard labels.", "G-VBSM 3.4"
    )
    ce_weight: NotNegative = key(0.025, "Weight of the cross-entropy in mse_ce.", "reference release")
    ce_target: Literal["base", "mixed"] = key(
        "base", "Whether the cross-entropy knows the unmixed class only, or both by their share.", "defect D22"
    )
    temperature: Positive = key(20.0, "Temperature of KL and DIST.", "SRe2L")
    temperature_squared: bool = key(False, "Multiply KL by the squared temperature.", "SRe2L (Tiny-ImageNet)")
    optimizer: Literal["adamw", "adam", "sgd"] = key("adamw", "Optimiser of the student.", "EDC Tables 6-10")
    learning_rate: Positive = key(1e-3, "Peak learning rate.", "EDC Tables 6-10")
    student_learning_rates: dict[str, Positive] = key(
        {}, "Peak learning rates of single students by name; the others have learning_rate.", "EDC Tables 6-10, RDED"
    )
    weight_decay: NotNegative = key(0.01, "Decay of weights with more than one dimension.", "EDC Tables 6-10")
    momentum: BelowOne = key(0.9, "Momentum of SGD.")
    schedule: Literal["cosine", "ssrs", "linear", "multistep", "alrs", "linear_zeta"] = key(
        "cosine", "Learning rate over the epochs; linear_zeta is what the release trains where it says cosine.", "EDC 3.4, defect D7"
    )
    zeta: Annotated[float, Ge(1)] = key(
        2.0, "Slows the cosine down (smoothing): 1 ends at zero, 2 at half of the peak.", "EDC 3.4, Table 3"
    )
    warmup_epochs: CountOrNone = key(
        0, "First epochs in which the learning rate rises linearly from a hundredth; the schedule takes the rest.", "SRe2L", "epochs"
    )
    milestones: list[Fraction] = key([0.8, 0.9, 0.95], "Parts of the epochs after which multistep multiplies by gamma.", "EDC Table 10")
    gamma: Positive = key(0.5, "Factor of multistep and of alrs.", "EDC Table 10")
    randaugment: bool = key(True, "RandAugment before crop and flip.", "EDC Tables 7-10")
    shuffle_patches: CountOrNone = key(0, "Permute the N x N patches of each image; 0 leaves them.", "RDED")
    ema: BelowOne = key(0.99, "Momentum of the averaged student that is measured; 0 measures the student itself.", "EDC 3.4, Table 5")
    ema_batchnorm: Literal["recalibrate", "ema", "online"] = key(
        "recalibrate", "Batch-norm statistics of the averaged student: taken anew, averaged, or the student's own.", "defect D9"
    )
    select: Literal["last", "best_on_test"] = key(
        "last", "Which measurement is the headline; the best on the test set is always marked as such.", "defect D38"
    )
    every: CountOrNone = key(0, "Measure every this many epochs as well; 0 measures about ten times.", unit="epochs")
    protocol: Literal["published", "common", "both"] = key(
        "published",
        "The method's own recipe, one recipe that is the same for all methods, or both, shown apart.",
        "RD3, 2509.19743",
    )
    common_epochs: Count = key(400, "Passes over the condensed set under the common protocol.", "RD3", "epochs")
    common_teacher: str = key("resnet18", "The one observer that labels under the common protocol.", "RD3")
    hard_labels: bool = key(True, "Train with hard labels as well, as results of their own: what the images alone teach.", "2604.18811")
    without_augmentation: bool = key(
        False, "Train without augmentation as well, for the augmentation-robust score.", "DD-Ranking, 2505.13300"
    )
    search_learning_rates: list[Positive] = key(
        [],
        "Peak learning rates of which every set takes its best on a tenth of the training images, never on the test images.",
    )
    controls: list[
        Literal["random", "noise", "initial", "easy", "medium", "herding", "k-center", "equal-bytes", "full", "full-soft"]
    ] = key(
        ["random", "noise"],
        "What the condensed set is held against, under the same labels and recipe: random real images, pure noise, the images before "
        "synthesis, four coresets, as many real images with hard labels as fit in its bytes, the whole dataset with hard or soft labels.",
        "RD3, 2606.18209",
    )
    full_epochs: Count = key(10, "Passes over the whole dataset for the controls `full` and `full-soft`.", unit="epochs")
    full_batch_size: Count = key(128, "Images of a step on the whole dataset.", unit="images")


class Compute(Section):
    """Where and how it runs; of these only device kind and precision change a result."""

    device: str = key("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto", "Precision of the networks; auto follows what the device supports natively."
    )
    threads: CountOrNone = key(0, "CPU threads; 0 means all cores that it may use.")
    checkpoint_seconds: NotNegative = key(20.0, "Work that a kill may cost: how often a stage writes its checkpoint.", unit="s")


class Project(Section):
    """A whole project, every key resolved."""

    title: str = key("", "A title for people.")
    dataset: Dataset = Field(default_factory=Dataset)
    condense: Condense = Field(default_factory=Condense)
    observers: Observers = Field(default_factory=Observers)
    squeeze: Squeeze = Field(default_factory=Squeeze)
    statistics: Statistics = Field(default_factory=Statistics)
    initialise: Initialise = Field(default_factory=Initialise)
    rded: Rded = Field(default_factory=Rded)
    match: Match = Field(default_factory=Match)
    flatness: Flatness = Field(default_factory=Flatness)
    diversity: Diversity = Field(default_factory=Diversity)
    prior: Prior = Field(default_factory=Prior)
    augment: Augment = Field(default_factory=Augment)
    batch: Batch = Field(default_factory=Batch)
    synthesise: Synthesise = Field(default_factory=Synthesise)
    save: Save = Field(default_factory=Save)
    labels: Labels = Field(default_factory=Labels)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    compute: Compute = Field(default_factory=Compute)


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Project.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


OWN_SECTIONS = ("dataset", "condense", "compute")  # data, seed and machine are the user's to say: no method has them otherwise
OWN_KEYS = ("initialise.path", "observers.accuracy", "observers.normalisation", "observers.class_order")  # and so are files


def has_method_value(name: str) -> bool:
    """Say whether a `section.key` is one that methods set (data, seed, machine and files are not)."""
    return "." in name and name.partition(".")[0] not in OWN_SECTIONS and name not in OWN_KEYS


def keys() -> dict[str, Any]:
    """Return every `section.key` with its pydantic field (annotation, default, description, paper and unit), in order."""
    return {f"{section}.{name}": field for section, model in SECTIONS.items() for name, field in model.model_fields.items()}
