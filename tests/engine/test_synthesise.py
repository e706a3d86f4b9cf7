"""The optimisation of condensed images: which are optimised together, and what each iteration does to them."""

import math

import pytest
import torch
from PIL import Image
from small_runs import flat_settings, small_inputs_of, small_store
from torch import nn
from torch.nn import functional

from engine.data.condensed import read_condensed
from engine.errors import RunError
from engine.matching.loss import Matcher
from engine.matching.tables import StatisticsTable
from engine.stages.batch_views import BatchViews
from engine.stages.initialise import initialise
from engine.stages.report import Report
from engine.stages.statistics import statistics
from engine.stages.synthesise import _Synthesis, image_batches, match_settings, synthesise

OBSERVERS = ("wrn-10-1", "convnet-d2-w16-bn")


class TestImageBatches:
    def test_class_major_fills_batches_class_by_class(self):
        batches = image_batches(3, 4, order="class_major", size=4, statistics=0)
        assert [batch.tolist() for batch in batches] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9, 10, 11]]]

    def test_one_per_class_takes_the_first_image_of_every_class_then_the_second(self):
        batches = image_batches(3, 4, order="one_per_class", size=3, statistics=0)
        assert [batch.tolist() for batch in batches] == [[[0, 4, 8]], [[1, 5, 9]], [[2, 6, 10]], [[3, 7, 11]]]

    @pytest.mark.parametrize(("size", "lengths"), [(0, [3] * 4), (100, [3] * 4), (2, [2, 1] * 4)])
    def test_one_per_class_never_puts_two_images_of_a_class_into_a_batch(self, size, lengths):
        """As SRe2L's release, which goes over the images per class outside and over the classes within."""
        batches = image_batches(3, 4, order="one_per_class", size=size, statistics=0)
        assert [batch.numel() for batch in batches] == lengths
        assert all((batch // 4).unique().numel() == batch.numel() for batch in batches)

    def test_statistics_batches_divide_a_batch_into_groups(self):
        (batch,) = image_batches(3, 4, order="class_major", size=0, statistics=4)
        assert batch.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]

    def test_what_fills_no_statistics_batch_makes_a_smaller_one(self):
        batches = image_batches(2, 5, order="class_major", size=7, statistics=3)
        assert [batch.tolist() for batch in batches] == [[[0, 1, 2], [3, 4, 5]], [[6]], [[7, 8, 9]]]

    @pytest.mark.parametrize("order", ["class_major", "one_per_class"])
    @pytest.mark.parametrize("size", [0, 1, 3, 7, 12, 100])
    @pytest.mark.parametrize("statistics", [0, 1, 2, 5, 100])
    def test_no_image_is_lost_or_made_twice(self, order, size, statistics):
        batches = image_batches(4, 5, order=order, size=size, statistics=statistics)
        assert sorted(torch.cat([batch.flatten() for batch in batches]).tolist()) == list(range(20))
        assert all(batch.ndim == 2 and batch.numel() <= (size or 20) for batch in batches)


@pytest.fixture
def started(squeezed, tmp_path):
    """Inputs of a synthesis of eight images, two of each class, with two observers and their tables."""
    inputs = small_inputs_of(small_store())
    initialise(
        {"source": "real", "seed": 0, "ipc": 2, "replacement": "never", "flip": False, "shuffle_patches": 0, "save": None},
        inputs, tmp_path / "start", Report(),
    )  # fmt: skip
    inputs.folders |= {
        "images": (tmp_path / "start",),
        "observers": tuple(squeezed(name) for name in OBSERVERS),
        "tables": tuple(squeezed(name) for name in OBSERVERS),
    }
    return inputs


def settings_of(**changes):
    return flat_settings(**({"condense__ipc": 2, "synthesise__iterations": 4, "batch__size": 0, "compute__precision": "float32"} | changes))


def made(inputs, folder, metrics=None, **changes):
    report = Report(on_metrics=lambda step, values: None if metrics is None else metrics.append((step, values)))
    synthesise(settings_of(**changes), inputs, folder, report)
    return read_condensed(folder).images


def prepared(inputs, settings, folder):
    """The synthesis with its observers and matchers, as the stage makes it."""
    observers = inputs.observers()
    tables = [StatisticsTable.load(table / "table.safetensors") for table in inputs.folders["tables"]]
    matchers = [Matcher(observer, match_settings(settings), table) for observer, table in zip(observers, tables, strict=True)]
    return _Synthesis(settings, inputs, folder, Report(), observers, matchers, 1)


# The slow implementation: float64, one image plane after the other, straight from section 1.5 of the methods.


def tiles_of(h):
    sides = [-(-side // 4) * 4 for side in h.shape[2:]]
    if list(h.shape[2:]) != sides:
        h = functional.interpolate(h, size=sides, mode="bilinear", align_corners=False)
    return [h[:, :, top : top + 4, left : left + 4] for top in range(0, sides[0], 4) for left in range(0, sides[1], 4)]


def moments_of(h, conv):
    channels = [h[:, channel] for channel in range(h.shape[1])]
    moments = [torch.stack([part.mean() for part in channels]), torch.stack([part.var(unbiased=False) for part in channels])]
    if conv:
        moments += [torch.stack([part.mean() for part in tiles_of(h)]), torch.stack([part.var(unbiased=False) for part in tiles_of(h)])]
    return moments


def seen_by(observer, images):
    """The logits and, for each convolution and batch norm in order, whether it is a convolution and what enters it."""
    entering, handles = [], []
    for module in observer.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            handles.append(
                module.register_forward_pre_hook(lambda module, inputs: entering.append((isinstance(module, nn.Conv2d), inputs[0])))
            )
    logits = observer(images)
    for handle in handles:
        handle.remove()
    return logits, entering


class SlowObserver:
    """An observer in float64 with its targets, pooled over the real images themselves."""

    def __init__(self, inputs, folder):
        self.model = inputs.observer(folder).double()
        store = inputs.store
        real = inputs.normalise(torch.from_numpy(store.train.images)).double()
        with torch.no_grad():
            _, entering = seen_by(self.model, real)
        norms = [module for module in self.model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
        self.of_all = [
            moments_of(h, True) if conv else [module.running_mean, module.running_var]
            for module, (conv, h) in zip(norms, entering, strict=True)
        ]
        self.of_class = [
            [moments_of(h[store.train.rows_of_class(label)], conv) for conv, h in entering] for label in range(len(store.classes))
        ]
        self.average = [[torch.zeros_like(part) for part in parts] for parts in self.of_all]
        self.visits = 0

    def class_target(self, layer, labels):
        """Moments that the batch would have if every image had those of its class."""
        parts = []
        for kind in range(0, len(self.of_all[layer]), 2):
            means = torch.stack([self.of_class[label][layer][kind] for label in labels])
            variances = torch.stack([self.of_class[label][layer][kind + 1] for label in labels])
            parts += [means.mean(0), (variances + means**2).mean(0) - means.mean(0) ** 2]
        return parts

    def matching(self, entering, labels):
        """Sum over layers of w_l (D_global + D_class) / 2 with debiased running moments of momentum 0.8."""
        self.visits += 1
        total = 0
        for layer, (conv, h) in enumerate(entering):
            targets = zip(self.of_all[layer], self.class_target(layer, labels), strict=True)
            for number, (moment, (of_all, of_class)) in enumerate(zip(moments_of(h, conv), targets, strict=True)):
                self.average[layer][number] = 0.8 * self.average[layer][number] + 0.2 * moment.detach()
                value = self.average[layer][number] / (1 - 0.8**self.visits) + moment - moment.detach()
                total = total + (10 if layer == 0 else 1) * 0.5 * ((value - of_all).norm() + (value - of_class).norm())
        return total


def slow_gradient(observer, kind, shown, other, x, labels):
    """Cross-entropy + 0.3 * matching + 2 * flatness, whose reference `other` is the moving average or a second view."""
    logits, entering = seen_by(observer.model, shown)
    matching = observer.matching(entering, labels)
    with torch.no_grad():
        other_logits, other_entering = seen_by(observer.model, other)
    if kind == "stat_ema":
        flatness = 0
        for layer, ((conv, h), (_, reference)) in enumerate(zip(entering, other_entering, strict=True)):
            differences = [one - two for one, two in zip(moments_of(h, conv), moments_of(reference, conv), strict=True)]
            flatness = flatness + (10 if layer == 0 else 1) * sum(difference.norm() for difference in differences)
    else:
        teacher, student = functional.softmax(other_logits / 4, 1), functional.log_softmax(logits / 4, 1)
        flatness = (teacher * (teacher.log() - student)).sum(1).mean()
    loss = functional.cross_entropy(logits, torch.tensor(labels)) + 0.3 * matching + 2 * flatness
    return torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize("kind", ["logit_ema", "stat_ema", "two_crop"])
def test_gradients_of_some_iterations_are_those_of_a_slow_plain_implementation(started, squeezed, tmp_path, kind):
    settings = settings_of(match__weight=0.3, statistics__augmentation="none", flatness__kind=kind, flatness__weight=2.0)
    for name in OBSERVERS:  # tables without augmentation, so that the slow targets need none
        folder = tmp_path / name
        folder.mkdir()
        statistics(settings | {"observer": name}, small_inputs_of(started.store, observer=(squeezed(name),)), folder, Report())
    started.folders["tables"] = tuple(tmp_path / name for name in OBSERVERS)
    synthesis = prepared(started, settings, tmp_path)
    slow = [SlowObserver(started, folder) for folder in started.folders["observers"]]

    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    for matcher in synthesis.matchers:
        matcher.start_batch(torch.tensor([labels]))
    views = BatchViews(settings, started, 1, 8, 0, 0)
    images = started.normalise(read_condensed(tmp_path / "start").images)
    average = 0.9 * images.roll(3, 0)  # away from the images, for at distance zero a norm has no gradient to compare
    for iteration in range(4):
        x = (images + 0.3 * iteration * images.roll(1, 0)).requires_grad_(True)
        average = 0.99 * average + 0.01 * x.detach()
        synthesis._gradient(x, average, torch.tensor(labels), views, 0, iteration, 0)
        exact = x.detach().double().requires_grad_(True)
        other = views.of(exact.detach(), iteration, second=True) if kind == "two_crop" else views.of(average.double(), iteration)
        expected = slow_gradient(slow[iteration % 2], kind, views.of(exact, iteration), other, exact, labels)
        torch.testing.assert_close(x.grad.double(), expected, rtol=2e-3, atol=2e-4 * float(expected.abs().max()))
    assert [each.visits for each in slow] == [2, 2]


def test_a_sharpness_aware_gradient_is_that_of_the_same_loss_a_step_of_length_rho_up_the_gradient(started, tmp_path):
    labels = torch.arange(4).repeat_interleave(2)
    images = started.normalise(read_condensed(tmp_path / "start").images)

    def gradient(synthesis, x, iteration):
        x = x.clone().requires_grad_(True)
        views = BatchViews(synthesis.settings, started, 1, 8, 0, 0)
        synthesis._gradient(x, images, labels, views, 0, iteration, 0)
        return x.grad

    def begun(kind):
        synthesis = prepared(started, settings_of(flatness__kind=kind, flatness__rho=2.0, match__weight=0.3), tmp_path)
        for matcher in synthesis.matchers:
            matcher.start_batch(labels[None])
        return synthesis

    aware, plain, elsewhere = begun("sam"), begun("off"), begun("off")
    for iteration in range(4):
        x = images.roll(iteration, 0)
        slope = gradient(plain, x, iteration)
        expected = gradient(elsewhere, x + 2.0 * slope / slope.norm(), iteration)
        torch.testing.assert_close(gradient(aware, x, iteration), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        for ours, theirs, moved in zip(aware.matchers, plain.matchers, elsewhere.matchers, strict=True):
            torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
            moved.load_state_dict(theirs.state_dict())  # what the images were, not where the step led


def test_pixels_take_adam_steps_of_a_cosine_rate_and_stay_in_the_range_of_pixels(started, tmp_path, monkeypatch):
    settings = settings_of(synthesise__learning_rate=0.5, synthesise__iterations=5)
    synthesis = prepared(started, settings, tmp_path)
    images = started.normalise(read_condensed(tmp_path / "start").images)
    gradients = [torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step)) for step in range(5)]

    def given(x, average, targets, views, number, iteration, seed):
        x.grad = gradients[iteration].clone()
        return {"loss": x.new_zeros(())}

    monkeypatch.setattr(synthesis, "_gradient", given)
    result = synthesis.optimise(0, images, torch.arange(4).repeat_interleave(2)[None], torch.arange(8)[None], 0)

    lowest, highest = (-started.mean / started.std).double(), ((1 - started.mean) / started.std).double()
    x, first, second = images.double(), 0.0, 0.0
    for step, gradient in enumerate(gradients):
        rate = 0.5 * 0.5 * (1 + math.cos(math.pi * step / 5))
        first, second = 0.5 * first + 0.5 * gradient.double(), 0.9 * second + 0.1 * gradient.double() ** 2
        x = x - rate * (first / (1 - 0.5 ** (step + 1))) / ((second / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        x = torch.maximum(torch.minimum(x, highest), lowest)
    torch.testing.assert_close(result.double(), x, rtol=1e-4, atol=1e-5)
    assert (result == highest.float()).any() and (result == lowest.float()).any()


class TestObserversTurn:
    def turns(self, started, tmp_path, batches=2, **changes):
        synthesis = prepared(started, settings_of(synthesise__iterations=3, **changes), tmp_path)
        return [[synthesis._chosen(number, iteration, 0) for iteration in range(3)] for number in range(batches)]

    def test_they_take_turns_within_every_batch(self, started, tmp_path):
        assert self.turns(started, tmp_path) == [[[0], [1], [0]], [[0], [1], [0]]]

    def test_the_turn_runs_on_across_batches_as_in_the_release(self, started, tmp_path):
        assert self.turns(started, tmp_path, match__ema_reset=False) == [[[0], [1], [0]], [[1], [0], [1]]]

    def test_all_of_them_at_once(self, started, tmp_path):
        assert self.turns(started, tmp_path, observers__rotation="all") == [[[0, 1]] * 3] * 2

    def test_a_random_one(self, started, tmp_path):
        turns = self.turns(started, tmp_path, batches=20, observers__rotation="random")
        assert turns == self.turns(started, tmp_path, batches=20, observers__rotation="random")
        flat = [chosen for batch in turns for (chosen,) in batch]
        assert set(flat) == {0, 1} and 15 < sum(flat) < 45


@pytest.mark.parametrize("kind", ["off", "logit_ema", "stat_ema", "two_crop", "sam"])
@pytest.mark.parametrize("form", ["batch_mean", "per_class_sum"])
def test_statistics_batches_optimised_together_end_as_each_alone(started, tmp_path, kind, form):
    # Crops are drawn for all groups of a batch at once, so without them; the second view of two_crop then equals the first.
    changes = {
        "flatness__kind": kind, "match__class_form": form, "augment__crop_mode": "none", "augment__flip": False,
        "batch__statistics": 4, "diversity__weight": 0.001, "prior__tv": 0.0001, "prior__l2": 0.001, "flatness__weight": 5.0,
    }  # fmt: skip
    together = made(started, tmp_path / "together", **changes)
    alone = made(started, tmp_path / "alone", **changes, batch__size=4)
    difference = (together.int() - alone.int()).abs()
    assert difference.max() <= 1 and (difference == 0).float().mean() > 0.99
    whole = made(started, tmp_path / "whole", **changes | {"batch__statistics": 0})
    assert ((whole.int() - alone.int()).abs() > 1).float().mean() > 0.02


def test_densification_sees_all_images_of_a_class_even_from_several_statistics_batches(started, tmp_path):
    """With statistics batches of one image no class has two in any; the images of the whole batch are compared all the same."""
    changes = {"diversity__weight": 1.0, "diversity__normalise": True, "batch__statistics": 1, "match__weight": 0.0}
    metrics = []
    with_it = made(started, tmp_path / "with", metrics, **changes)
    without = made(started, tmp_path / "without", **changes | {"diversity__weight": 0.0})
    assert all(values["diversity"] > 0 for _, values in metrics)
    assert not torch.equal(with_it, without)


@pytest.fixture
def default_images(started, tmp_path):
    return made(started, tmp_path / "default")


TOGGLES = [
    {"flatness__kind": "off"},
    {"flatness__kind": "stat_ema", "flatness__weight": 10.0},
    {"flatness__kind": "two_crop"},
    {"flatness__kind": "sam"},
    {"flatness__weight": 1000.0, "flatness__reduction": "mean"},
    {"flatness__weight": 1000.0, "flatness__tau": 1.0},
    {"flatness__weight": 1000.0, "flatness__beta": 0.0},
    {"match__class_form": "per_class_sum"},
    {"match__class_source": "sampled_real"},
    {"match__class_source": "sampled_real", "match__class_form": "per_class_sum"},
    {"match__class_variance": "within_image"},
    {"match__w_class": 0.0},
    {"match__w_class": 1.0},
    {"match__ema_start": "zero"},
    {"match__ema_start": "first"},
    {"match__ema_momentum": 0.0},
    {"match__conv_drop": 0.5},
    {"match__conv_drop": 0.5, "flatness__kind": "stat_ema"},
    {"match__conv_drop": 0.5, "match__class_form": "per_class_sum"},
    {"match__norm": "l2_squared"},
    {"match__layers": "bn", "match__patch_size": 0},
    {"match__patch_size": 0},
    {"match__swap_class_patch": True},
    {"match__double_global_conv": True},
    {"match__first_multiplier": 1.0},
    {"match__weight": 1.0},
    {"match__weight": "auto"},
    {"observers__rotation": "random", "condense__seed": 1},
    {"observers__rotation": "all"},
    {"diversity__weight": 1.0, "diversity__tau": 1000.0},  # at 4 the softmax of two images' eigenvalues is saturated (methods G2)
    {"prior__tv": 1.0},
    {"prior__l2": 1.0},
    {"batch__order": "one_per_class", "batch__size": 4},
    {"batch__size": 3},
    {"batch__size": 6, "batch__statistics": 4},
    {"augment__crop_mode": "none"},
    {"augment__crop_mode": "padded"},
    {"augment__crop_mode": "curriculum_step"},
    {"augment__crop_mode": "curriculum_linear"},
    {"augment__crop_mode": "curriculum_cosine"},
    {"augment__per_image": True},
    {"augment__flip": False},
    {"augment__roll": 3},
    {"synthesise__schedule": "constant"},
    {"synthesise__betas": [0.9, 0.99]},
    {"save__quantise": "truncate"},
    {"save__format": "jpeg"},
    {"match__ema_reset": False, "batch__size": 3},
]


@pytest.mark.parametrize("changes", TOGGLES, ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()))
def test_every_toggle_runs_and_changes_the_images(started, squeezed, tmp_path, default_images, changes):
    if {"match__layers", "match__patch_size"} & set(changes):
        for name in OBSERVERS:
            (tmp_path / name).mkdir()
            inputs = small_inputs_of(started.store, observer=(squeezed(name),))
            statistics(settings_of(**changes) | {"observer": name}, inputs, tmp_path / name, Report())
        started.folders["tables"] = tuple(tmp_path / name for name in OBSERVERS)
    metrics = []
    images = made(started, tmp_path / "made", metrics, **changes)
    start = read_condensed(tmp_path / "start").images
    assert images.shape == start.shape and ((images.int() - start.int()).abs().flatten(1).amax(1) >= 2).all()
    assert not torch.equal(images, default_images)
    assert all(math.isfinite(value) for _, values in metrics for value in values.values())


def test_the_same_seed_gives_the_same_bytes(started, tmp_path, default_images):
    made(started, tmp_path / "again")
    assert torch.equal(read_condensed(tmp_path / "again").images, default_images)
    assert (tmp_path / "again/images.safetensors").read_bytes() == (tmp_path / "default/images.safetensors").read_bytes()


def test_observers_without_tables_match_running_statistics_alone(started, tmp_path):
    del started.folders["tables"]
    images = made(started, tmp_path / "made", match__layers="bn", match__patch_size=0, match__w_class=0.0)
    assert not torch.equal(images, read_condensed(tmp_path / "start").images)


def test_the_loss_falls_and_every_iteration_is_told(started, tmp_path):
    metrics, progress = [], []
    report = Report(on_metrics=lambda step, values: metrics.append((step, values)), on_progress=lambda *told: progress.append(told))
    synthesise(settings_of(synthesise__iterations=40, augment__crop_mode="none", match__weight=0.1), started, tmp_path / "made", report)
    assert [step for step, _ in metrics] == list(range(1, 41))
    assert progress[-1] == (40, 40, "iterations")
    first, last = (sum(values["loss"] for _, values in part) for part in (metrics[:6], metrics[-6:]))
    assert last < 0.9 * first
    values = metrics[0][1]
    assert values["loss"] == pytest.approx(values["classification"] + 0.1 * values["matching"] + 0.25 * values["flatness"], rel=1e-4)
    assert values["matching"] == pytest.approx(values["matching_global"] + values["matching_class"], rel=1e-4)


class TestSaving:
    def test_truncated_pixels_are_never_above_rounded_ones(self, started, tmp_path, default_images):
        difference = default_images.int() - made(started, tmp_path / "made", save__quantise="truncate").int()
        assert set(difference.unique().tolist()) == {0, 1}

    def test_the_tensor_carries_the_losses_of_jpeg_files_and_the_files_are_the_same(self, started, tmp_path, default_images):
        images = made(started, tmp_path / "made", save__format="jpeg", save__quality=60)
        files = sorted((tmp_path / "made/jpeg").rglob("*.jpg"))
        assert len(files) == 8
        decoded = torch.stack([torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8) for file in files])
        assert torch.equal(decoded.view(8, 16, 16, 3).permute(0, 3, 1, 2), images)
        assert 0.5 < (images.float() - default_images.float()).abs().mean() < 30

    def test_png_files_hold_the_tensors_pixels(self, started, tmp_path, default_images):
        images = made(started, tmp_path / "made", save__format="png")
        assert torch.equal(images, default_images)
        file = tmp_path / "made/png/2_dog/0001.png"
        assert Image.open(file).tobytes() == images[5].permute(1, 2, 0).contiguous().numpy().tobytes()

    def test_a_contact_sheet_comes_with_the_images(self, started, tmp_path, default_images):
        assert Image.open(tmp_path / "default/contact-sheet.png").height > 4 * 16


def test_images_that_are_no_longer_numbers_fail_the_run(started, tmp_path):
    with pytest.raises(RunError, match=r"no longer numbers.*learning_rate"):
        made(started, tmp_path / "made", match__weight=1e38, match__norm="l2_squared")
    assert not (tmp_path / "made/images.safetensors").exists()


def test_sampled_real_targets_are_those_of_the_images_drawn(started, tmp_path):
    settings = settings_of(match__class_source="sampled_real", match__class_form="per_class_sum")
    synthesis = prepared(started, settings, tmp_path)
    labels = torch.tensor([[0, 0, 1, 3], [1, 1, 3, 3]])
    target = synthesis._sampled_targets(0, labels, 0, 0)
    assert target.shape[0] == 5  # classes 0, 1, 3 of the first statistics batch, 1 and 3 of the second
    assert torch.equal(target[1], target[3]) and torch.equal(target[2], target[4])
    mixed = prepared(started, settings | {"match.class_form": "batch_mean"}, tmp_path)._sampled_targets(0, labels, 0, 0)
    torch.testing.assert_close(mixed[0, 0], (2 * target[0, 0] + target[1, 0] + target[2, 0]) / 4)
    # The first columns are the channels of the images themselves.
    stem = target[0, 0, :3]
    images = started.normalise(torch.from_numpy(started.store.train.images[started.store.train.rows_of_class(0)])).mean((2, 3))
    pairs = [(images[one] + images[other]) / 2 for one in range(15) for other in range(one)]
    assert any(torch.allclose(stem, pair, atol=1e-5) for pair in pairs)
