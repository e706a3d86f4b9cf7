"""A statistics table holds, per class, the moments of all that class's images, and everything else follows from its rows."""

import pytest
import torch
from matching_definitions import layer_inputs, patch_of, plain_moments, random_images, small_observer

from engine.errors import RunError, UserError
from engine.matching.tables import StatisticsTable, TableAccumulator

LABELS = torch.tensor([0, 2, 1, 0, 1, 2, 2, 0, 2])


def collect(observer, images, labels, *, batch=4, classes=3, **options):
    accumulator = TableAccumulator(observer, classes=classes, **options)
    with torch.no_grad():
        for some_images, some_labels in zip(images.split(batch), labels.split(batch), strict=True):
            with accumulator.batch(some_labels):
                observer(some_images)
    return accumulator.finish()


def plain_rows(observer, images, groups=1):
    inputs = layer_inputs(observer, images)
    return torch.cat([plain_moments(h, patch_of(name), groups) for name, h in inputs.items()], dim=2)


@pytest.fixture
def observer():
    return small_observer()


@pytest.fixture
def images():
    return random_images(len(LABELS))


@pytest.fixture
def table(observer, images):
    return collect(observer, images, LABELS)


class TestRows:
    def test_a_class_row_holds_the_moments_of_all_images_of_the_class(self, observer, images, table):
        for label in range(3):
            expected = plain_rows(observer, images[label == LABELS])[0]
            torch.testing.assert_close(table.mean[label], expected[0].float())
            torch.testing.assert_close(table.variance[label], expected[1].float())

    def test_the_within_row_is_the_mean_of_the_images_own_variances(self, observer, images, table):
        for label in range(3):
            own = images[label == LABELS]
            torch.testing.assert_close(table.within[label], plain_rows(observer, own, groups=len(own))[:, 1].mean(0).float())

    def test_columns_follow_the_modules_channels_before_tiles(self, table):
        assert [(segment.layer, segment.kind, segment.part, segment.size) for segment in table.segments] == [
            ("stem", "conv", "channel", 3),
            ("stem", "conv", "tile", 4),
            ("stem_norm", "bn", "channel", 4),
            ("middle", "conv", "channel", 4),
            ("middle", "conv", "tile", 1),
            ("middle_norm", "bn", "channel", 5),
            ("last", "conv", "channel", 5),
            ("last", "conv", "tile", 1),
        ]
        assert table.mean.shape == (3, 27)
        assert table.counts.tolist() == [3, 2, 4]

    def test_how_images_are_batched_does_not_matter(self, observer, images, table):
        other = collect(observer, images, LABELS, batch=2)
        torch.testing.assert_close(other.variance, table.variance, rtol=1e-6, atol=1e-7)

    def test_a_large_mean_does_not_drown_the_variance(self, observer, images):
        bright = collect(observer.float(), (images + 1000).float(), LABELS)
        expected = torch.stack([plain_rows(observer.double(), images[label == LABELS] + 1000)[0, 1] for label in range(3)])
        torch.testing.assert_close(bright.variance[:, :3].double(), expected[:, :3], rtol=1e-3, atol=0)

    def test_batchnorm_alone_has_no_tiles(self, observer, images):
        table = collect(observer, images, LABELS, kind="bn")
        assert [(segment.layer, segment.part) for segment in table.segments] == [("stem_norm", "channel"), ("middle_norm", "channel")]
        assert table.patch is None

    def test_the_observer_carries_no_hook_afterwards(self, observer, images, table):
        assert not any(module._forward_pre_hooks for module in observer.modules())


class TestDerived:
    def test_global_moments_are_those_of_all_images(self, observer, images, table):
        torch.testing.assert_close(table.global_moments(), plain_rows(observer, images)[0].float())

    def test_the_pooled_target_is_the_moments_of_a_batch_of_whole_classes(self, observer, images, table):
        labels = torch.tensor([0, 0, 1, 1])
        target = collect(observer, images[:4], labels, classes=2).class_target(labels[None])
        torch.testing.assert_close(target[0], plain_rows(observer, images[:4])[0].float())

    def test_a_hand_computed_target(self):
        table = StatisticsTable(
            segments=(),
            patch=None,
            mean=torch.tensor([[0.0], [4.0]]),
            variance=torch.tensor([[1.0], [3.0]]),
            within=torch.tensor([[0.5], [2.5]]),
            counts=torch.tensor([1, 3]),
        )
        labels = torch.tensor([[0, 1], [1, 1]])
        # Means 0 and 4 mix to 2 with a variance of 4 between them, on top of (1 + 3) / 2 within.
        assert table.class_target(labels).tolist() == [[[2.0], [6.0]], [[4.0], [3.0]]]
        assert table.class_target(labels, "within_image").tolist() == [[[2.0], [1.5]], [[4.0], [2.5]]]
        assert table.class_moments(torch.tensor([1])).tolist() == [[[4.0], [3.0]]]
        # Pooled over one image of class 0 and three of class 1: mean 3, variance (1 + 9)/4 + 3 (3 + 1)/4.
        assert table.global_moments().tolist() == [[3.0], [5.5]]


    def test_a_batch_of_all_classes_in_the_datasets_shares_has_the_datasets_moments_as_class_target(self, table):
        """So where EDC puts all images into one statistics batch, its class term repeats its dataset term."""
        labels = torch.arange(len(table.counts)).repeat_interleave(table.counts)
        torch.testing.assert_close(table.class_target(labels[None])[0], table.global_moments())


class TestFile:
    def test_a_table_reads_back_with_identical_values(self, table, tmp_path):
        table.save(tmp_path / "table.safetensors")
        again = StatisticsTable.load(tmp_path / "table.safetensors")
        assert (again.segments, again.patch) == (table.segments, table.patch)
        for name in ("mean", "variance", "within", "counts"):
            assert torch.equal(getattr(again, name), getattr(table, name))
        assert torch.equal(again.global_moments(), table.global_moments())
        assert [path.name for path in tmp_path.iterdir()] == ["table.safetensors"]

    @pytest.mark.parametrize("content", [b"", b"no table at all", b"\x02\0\0\0\0\0\0\0{}"])
    def test_another_file_is_refused_by_name(self, content, tmp_path):
        path = tmp_path / "other.safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"other\.safetensors is not a readable statistics table"):
            StatisticsTable.load(path)


class TestErrors:
    def test_a_class_without_images_is_named(self, observer, images):
        with pytest.raises(RunError, match="no image of class 1"):
            collect(observer, images, torch.where(LABELS == 1, 0, LABELS))

    def test_labels_without_a_forward_pass_are_refused(self, observer):
        with (
            pytest.raises(RunError, match="layer stem .* not reached"),
            TableAccumulator(observer, classes=3).batch(torch.tensor([0])),
        ):
            pass

    def test_an_observer_without_batchnorm_is_refused_where_only_those_are_matched(self):
        with pytest.raises(UserError, match="has no BatchNorm2d layer"):
            TableAccumulator(torch.nn.Conv2d(3, 4, 3), classes=3, kind="bn")

    def test_images_of_another_resolution_are_refused(self, observer, images):
        accumulator = TableAccumulator(observer, classes=3)
        with torch.no_grad():
            with accumulator.batch(LABELS):
                observer(images)
            with pytest.raises(RunError, match="must be of one resolution"), accumulator.batch(LABELS):
                observer(torch.nn.functional.interpolate(images, scale_factor=2))
