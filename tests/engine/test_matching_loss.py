"""The matching loss is the papers' formula, in value and gradient, and its running moments survive a restart."""

from dataclasses import replace

import pytest
import torch
from matching_definitions import layer_inputs, patch_of, plain_moments, random_images, small_observer
from torch import Tensor, nn

from engine.errors import RunError
from engine.matching.loss import Matcher, MatchSettings, segment_distances
from engine.matching.tables import TableAccumulator

PLAIN = MatchSettings(ema_momentum=0.0)
LABELS = torch.tensor([[0, 2, 0], [1, 1, 1]])


@pytest.fixture(scope="module")
def observer():
    return small_observer()


@pytest.fixture(scope="module")
def table(observer):
    accumulator = TableAccumulator(observer, classes=3)
    with torch.no_grad(), accumulator.batch(torch.arange(9) % 3):
        observer(random_images(9, seed=1))
    return accumulator.finish()


@pytest.fixture
def images():
    return random_images(6, seed=2).requires_grad_()


def matched(matcher, observer, images, generator=None):
    with matcher.capture(generator):
        observer(images)
    return matcher.loss()


def started(observer, settings, table, labels=LABELS, class_target=None):
    matcher = Matcher(observer, settings, table)
    matcher.start_batch(labels, class_target)
    return matcher


def table_rows(table, layer) -> tuple[dict[str, Tensor], Tensor]:
    """The table's rows of one layer in float64, and which of their columns are tiles."""
    start, columns, tiles = 0, [], []
    for segment in table.segments:
        if segment.layer == layer:
            columns += range(start, start + segment.size)
            tiles += [segment.part == "tile"] * segment.size
        start += segment.size
    return {name: getattr(table, name)[:, columns].double() for name in ("mean", "variance", "within")}, torch.tensor(tiles)


def plain_loss(observer, images, table, settings, labels=LABELS) -> Tensor:
    """Sum over groups and layers, term by term, without running moments."""
    total = torch.zeros((), dtype=torch.float64)
    for group, group_images in zip(labels, images.chunk(len(labels)), strict=True):
        inputs = layer_inputs(observer, group_images)
        names = list(inputs) if settings.layers == "bn+conv" else [name for name in inputs if name.endswith("norm")]
        for name in names:
            weight = settings.first_multiplier if name == names[0] else 1.0
            h, patch = inputs[name], patch_of(name)
            target = global_target(observer, name, table, settings)
            total = total + weight * settings.w_global * distance(plain_moments(h, patch)[0], target, h, settings)
            if not settings.w_class:
                continue
            rows, tiles = table_rows(table, name)
            spread = rows["variance" if settings.class_variance == "pooled" else "within"]
            parts = [group] if settings.class_form == "batch_mean" else [group[group == label] for label in group.unique()]
            for part in parts:
                mean = rows["mean"][part].mean(0)
                if settings.class_variance == "pooled":
                    variance = (spread[part] + rows["mean"][part] ** 2).mean(0) - mean**2
                else:
                    variance = spread[part].mean(0)
                target = torch.stack([mean, variance])
                if settings.swap_class_patch:
                    target[:, tiles] = target.flip(0)[:, tiles]
                own = h if settings.class_form == "batch_mean" else h[group == part[0]]
                share = len(part) / len(group)
                total = total + weight * settings.w_class * share * distance(plain_moments(own, patch)[0], target, h, settings)
    return total


def global_target(observer, name, table, settings) -> Tensor:
    module = observer.get_submodule(name)
    if isinstance(module, nn.BatchNorm2d):
        return torch.stack([module.running_mean, module.running_var])
    rows, _ = table_rows(table, name)
    share = (table.counts / table.counts.sum()).double()[:, None]
    mean = (rows["mean"] * share).sum(0)
    variance = ((rows["variance"] + rows["mean"] ** 2) * share).sum(0) - mean**2
    return torch.stack([mean, variance]) * (2 if settings.double_global_conv else 1)


def distance(moments, target, h, settings) -> Tensor:
    """Norms over channels and over tiles, of means and of variances: two or four terms."""
    channels = h.shape[1]
    total = torch.zeros((), dtype=torch.float64)
    for part in (slice(None, channels), slice(channels, None)):
        for difference in (moments - target)[:, part]:
            squared = (difference**2).sum()
            total = total + (squared.sqrt() if settings.norm == "l2" and len(difference) else squared)
    return total


SETTINGS = {
    "EDC": PLAIN,
    "global only": replace(PLAIN, w_global=1.0, w_class=0.0),
    "class only": replace(PLAIN, w_global=0.0, w_class=1.0),
    "within-image variance": replace(PLAIN, class_variance="within_image"),
    "per-class sum": replace(PLAIN, class_form="per_class_sum"),
    "squared norm": replace(PLAIN, norm="l2_squared"),
    "class tiles swapped": replace(PLAIN, swap_class_patch=True),
    "class tiles swapped, per-class sum": replace(PLAIN, swap_class_patch=True, class_form="per_class_sum", class_variance="within_image"),
    "global convolution statistics doubled": replace(PLAIN, double_global_conv=True),
    "first layer unstressed": replace(PLAIN, first_multiplier=1.0),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
class TestFormula:
    def test_value_and_gradient_are_those_of_the_definition(self, observer, table, images, settings):
        loss = matched(started(observer, settings, table), observer, images)
        expected = plain_loss(observer, images, table, settings)
        torch.testing.assert_close(loss.total, expected, rtol=1e-6, atol=0)
        (ours,) = torch.autograd.grad(loss.total, images)
        (plain,) = torch.autograd.grad(expected, images)
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)

    def test_the_parts_add_up(self, observer, table, images, settings):
        matcher = started(observer, settings, table)
        loss = matched(matcher, observer, images)
        torch.testing.assert_close(loss.parts["global"] + loss.parts["class"], loss.total.detach())
        torch.testing.assert_close(loss.parts["mean"] + loss.parts["variance"], loss.total.detach())
        by_layer = matcher.by_layer(loss)
        assert list(by_layer) == ["stem", "stem_norm", "middle", "middle_norm", "last"]
        torch.testing.assert_close(sum(by_layer.values()), loss.total.detach())


class TestLoss:
    def test_gradcheck_to_the_pixels(self, observer, table, images):
        matcher = started(observer, PLAIN, table)
        assert torch.autograd.gradcheck(lambda pixels: matched(matcher, observer, pixels).total, (images,))

    def test_batchnorm_alone_needs_no_table(self, observer, images):
        settings = replace(PLAIN, layers="bn", w_global=1.0, w_class=0.0)
        loss = matched(started(observer, settings, None), observer, images)
        torch.testing.assert_close(loss.total, plain_loss(observer, images, None, settings), rtol=1e-6, atol=0)

    def test_groups_are_independent_problems(self, observer, table, images):
        together = matched(started(observer, PLAIN, table), observer, images).total
        alone = [matched(started(observer, PLAIN, table, LABELS[g : g + 1]), observer, images[3 * g : 3 * g + 3]).total for g in (0, 1)]
        torch.testing.assert_close(together, alone[0] + alone[1])

    def test_with_one_class_in_a_batch_both_class_forms_are_the_same(self, observer, table, images):
        labels = torch.tensor([[2, 2, 2], [0, 0, 0]])
        forms = [replace(PLAIN, class_form=form) for form in ("batch_mean", "per_class_sum")]
        losses = [matched(started(observer, settings, table, labels), observer, images).total for settings in forms]
        torch.testing.assert_close(*losses)

    def test_given_targets_replace_the_table_and_a_met_target_costs_nothing(self, observer, table, images):
        settings = replace(PLAIN, w_global=0.0, w_class=1.0)
        matcher = started(observer, settings, table)
        with torch.no_grad(), matcher.capture():
            observer(images)
        matcher.start_batch(LABELS, class_target=matcher.moments())
        loss = matched(matcher, observer, images)
        assert float(loss.total.detach()) < 1e-100
        (gradient,) = torch.autograd.grad(loss.total, images)
        assert not gradient.any()

    def test_under_autocast_the_loss_is_float32_and_near_the_exact_one(self, table, images):
        observer = small_observer(torch.float32)
        pixels = images.detach().float().to(memory_format=torch.channels_last).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = matched(started(observer, PLAIN, table), observer, pixels)
        assert loss.total.dtype == torch.float32
        exact = plain_loss(small_observer(), images, table, PLAIN)
        torch.testing.assert_close(loss.total.double(), exact, rtol=2e-2, atol=0)
        (gradient,) = torch.autograd.grad(loss.total, pixels)
        assert gradient.isfinite().all() and gradient.any()

    def test_no_hook_is_left_and_other_passes_do_not_count(self, observer, table, images):
        matcher = started(observer, PLAIN, table)
        with matcher.capture():
            observer(images)
        observer(images * 2)
        assert not any(module._forward_pre_hooks for module in observer.modules())
        torch.testing.assert_close(matcher.loss().total, plain_loss(observer, images, table, PLAIN), rtol=1e-6, atol=0)


class TestDistance:
    def test_hand_computed_norms(self):
        difference = torch.tensor([3.0, 4.0, 0.0, -2.0])
        sizes = torch.tensor([2, 1, 1])
        assert segment_distances(difference, sizes).tolist() == pytest.approx([5.0, 0.0, 2.0], abs=1e-18)
        assert segment_distances(difference, sizes, "l2_squared").tolist() == [25.0, 0.0, 4.0]

    def test_every_term_pulls_with_unit_force_and_a_met_one_not_at_all(self):
        difference = torch.tensor([3e3, 4e3, 0.0, 0.0, 3e-6, -4e-6], requires_grad=True)
        segment_distances(difference, torch.tensor([2, 2, 2])).sum().backward()
        torch.testing.assert_close(difference.grad, torch.tensor([0.6, 0.8, 0.0, 0.0, 0.6, -0.8]))


class TestRunningMoments:
    def steps(self, observer, table, settings, batches):
        matcher = started(observer, settings, table)
        return matcher, [matched(matcher, observer, batch) for batch in batches]

    @pytest.mark.parametrize("start", ["zero", "first", "debias"])
    def test_value_is_that_of_the_average_and_gradient_that_of_the_present(self, observer, table, start):
        settings = MatchSettings(ema_momentum=0.8, ema_start=start, w_global=0.0, w_class=1.0)
        batches = [random_images(6, seed).requires_grad_() for seed in (2, 3, 4)]
        _, losses = self.steps(observer, table, settings, batches)
        expected = straight_through_losses(observer, batches, table, settings)
        for loss, total, images in zip(losses, expected, batches, strict=True):
            torch.testing.assert_close(loss.total, total, rtol=1e-6, atol=0)
            torch.testing.assert_close(
                torch.autograd.grad(loss.total, images)[0], torch.autograd.grad(total, images)[0], rtol=1e-5, atol=1e-6
            )

    @pytest.mark.parametrize("start", ["first", "debias"])
    def test_a_steady_batch_is_its_own_average_from_the_first_step_on(self, observer, table, images, start):
        _, losses = self.steps(observer, table, MatchSettings(ema_start=start), [images] * 3)
        expected = plain_loss(observer, images, table, MatchSettings())
        for loss in losses:
            torch.testing.assert_close(loss.total, expected, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("reset", [True, False])
    def test_the_average_is_forgotten_or_kept_between_batches(self, observer, table, images, reset):
        settings = MatchSettings(ema_reset_per_batch=reset)
        matcher, _ = self.steps(observer, table, settings, [random_images(6, seed=9)])
        matcher.start_batch(LABELS)
        fresh = matched(started(observer, settings, table), observer, images).total
        assert torch.equal(matched(matcher, observer, images).total, fresh) is reset

    @pytest.mark.parametrize("form", ["batch_mean", "per_class_sum"])
    def test_a_restart_goes_on_in_the_same_bytes(self, observer, table, form):
        settings = MatchSettings(class_form=form, conv_drop=0.5)
        batches = [random_images(6, seed) for seed in range(4)]
        generator = torch.Generator().manual_seed(5)
        matcher = started(observer, settings, table)
        whole = [matched(matcher, observer, batch, generator).total for batch in batches]
        generator.manual_seed(5)
        matcher = started(observer, settings, table)
        first = [matched(matcher, observer, batch, generator).total for batch in batches[:2]]
        saved = {name: tensor.clone() for name, tensor in matcher.state_dict().items()}
        resumed = started(observer, settings, table)
        resumed.load_state_dict(saved)
        rest = [matched(resumed, observer, batch, generator).total for batch in batches[2:]]
        assert torch.equal(torch.stack(first + rest), torch.stack(whole))


def straight_through_losses(observer, batches, table, settings) -> list[Tensor]:
    """The class term with running moments, layer by layer, as section 0.2 of the methods writes them."""
    momentum, averages, totals = settings.ema_momentum, {}, []
    for visit, images in enumerate(batches, start=1):
        total = torch.zeros((), dtype=torch.float64)
        for g, group in enumerate(LABELS):
            inputs = layer_inputs(observer, images[3 * g : 3 * g + 3])
            for index, (name, h) in enumerate(inputs.items()):
                stat = plain_moments(h, patch_of(name))[0]
                before = averages.get((g, name), stat.detach() if settings.ema_start == "first" else 0.0)
                average = momentum * before + (1 - momentum) * stat.detach()
                averages[g, name] = average
                if settings.ema_start == "debias":
                    average = average / (1 - momentum**visit)
                rows, _ = table_rows(table, name)
                mean = rows["mean"][group].mean(0)
                target = torch.stack([mean, (rows["variance"][group] + rows["mean"][group] ** 2).mean(0) - mean**2])
                value = average + stat - stat.detach()
                total = total + (settings.first_multiplier if index == 0 else 1.0) * distance(value, target, h, settings)
        totals.append(total)
    return totals


class TestDroppedConvolutions:
    def test_with_probability_one_only_batchnorms_are_matched(self, observer, table, images):
        settings = replace(PLAIN, conv_drop=1.0)
        matcher = started(observer, settings, table)
        loss = matched(matcher, observer, images, torch.Generator())
        by_layer = matcher.by_layer(loss)
        assert [name for name, value in by_layer.items() if value] == ["stem_norm", "middle_norm"]
        assert loss.total.isfinite()

    def test_an_observer_of_convolutions_alone_may_lose_them_all(self):
        observer = nn.Conv2d(3, 4, 3).requires_grad_(False)
        pixels = random_images(6, dtype=torch.float32).requires_grad_()
        accumulator = TableAccumulator(observer, classes=3)
        with torch.no_grad(), accumulator.batch(LABELS.flatten()):
            observer(pixels)
        loss = matched(started(observer, replace(PLAIN, conv_drop=1.0), accumulator.finish()), observer, pixels, torch.Generator())
        assert float(loss.total) == 0

    def test_a_layer_left_out_keeps_its_average(self, observer, table, images):
        matcher = started(observer, MatchSettings(conv_drop=0.5), table)
        generator = torch.Generator().manual_seed(0)
        seen = []
        for _ in range(20):
            before = matcher.state_dict()["weight"].clone()
            by_layer = matcher.by_layer(matched(matcher, observer, images, generator))
            moved = (matcher.state_dict()["weight"] != before).split([segment.size for segment in matcher.segments])
            assert {segment.layer for segment, columns in zip(matcher.segments, moved, strict=True) if columns.all()} == {
                name for name, value in by_layer.items() if value
            }
            seen.append(len([name for name, value in by_layer.items() if value]))
        assert {2, 5} < set(seen)

    def test_without_dropping_nothing_is_drawn(self, observer, table, images):
        generator = torch.Generator()
        before = generator.get_state()
        matched(started(observer, PLAIN, table), observer, images, generator)
        assert torch.equal(generator.get_state(), before)


class TestErrors:
    def test_convolutions_need_a_table(self, observer):
        with pytest.raises(RunError, match="needs a statistics table"):
            Matcher(observer, PLAIN)

    def test_a_table_of_another_patch_size_is_refused(self, observer, table):
        with pytest.raises(RunError, match="another patch size"):
            Matcher(observer, replace(PLAIN, patch_size=2), table)

    def test_a_table_of_another_observer_is_refused(self, table):
        with pytest.raises(RunError, match="other layers"):
            Matcher(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), PLAIN, table)

    def test_images_must_be_as_many_as_labels(self, observer, table, images):
        matcher = started(observer, PLAIN, table)
        with pytest.raises(RunError, match="4 images, but the batch has 2 x 3 labels"), matcher.capture():
            observer(images[:4])
        assert not any(module._forward_pre_hooks for module in observer.modules())

    def test_a_loss_needs_a_captured_pass(self, observer, table):
        with pytest.raises(RunError, match="layer stem .* not reached"):
            started(observer, PLAIN, table).loss()

    def test_a_checkpoint_of_another_batch_is_refused(self, observer, table):
        other = started(observer, MatchSettings(), table, LABELS[:1])
        with pytest.raises(RunError, match="belong to another"):
            started(observer, MatchSettings(), table).load_state_dict(other.state_dict())
