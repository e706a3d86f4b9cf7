"""Where condensed images start: noise, real images, RDED's best crops, a file's (coresets: test_coresets.py)."""

import numpy as np
import pytest
import torch
from small_runs import CLASSES, pictures, small_inputs_of, small_store
from torch import nn
from torchvision.transforms.v2 import functional as vision

from engine.compute.seeding import generator
from engine.data import augment
from engine.data.condensed import read_condensed, write_condensed
from engine.data.sources import ClassIndex
from engine.data.store import ImageStore, Split
from engine.errors import RunError, Stopped
from engine.files import digest_file
from engine.stages import initialise as stage
from engine.stages.initialise import crop_to, draw_real, initialise, rded_images, score, tile
from engine.stages.report import Report

SAVE = {"save.format": "tensor", "save.quality": 75, "save.quantise": "round"}
RDED = {"rded.factor": 2, "rded.candidates": 12, "rded.crops": 3, "rded.crop_scale": [0.1, 1.0], "rded.tile_order": "stratified"}


def settings(**changes):
    return {
        "source": "real", "seed": 0, "ipc": 4, "replacement": "never", "flip": False, "shuffle_patches": 0, "save": None, "rded": RDED,
    } | changes  # fmt: skip


def start(folder, inputs, **changes):
    initialise(settings(**changes), inputs, folder, Report())
    return read_condensed(folder)


class TestRealImages:
    def test_each_class_has_distinct_images_of_its_own(self, small_inputs, tmp_path):
        condensed = start(tmp_path, small_inputs, ipc=15)
        assert condensed.labels.tolist() == [label for label in range(4) for _ in range(15)]
        store = small_inputs.store
        for label in range(4):
            real = {image.tobytes() for image in store.train.images[store.train.rows_of_class(label)]}
            chosen = [image.numpy().tobytes() for image in condensed.images[condensed.labels == label]]
            assert set(chosen) == real and len(chosen) == len(real) == 15

    def test_the_rows_that_images_come_from_are_recorded(self, small_inputs, tmp_path):
        condensed = start(tmp_path, small_inputs)
        rows = sum(condensed.metadata["training_rows"], [])
        assert np.array_equal(condensed.images.numpy(), small_inputs.store.train.images[rows])

    def test_the_seed_decides(self, small_inputs, tmp_path):
        first = start(tmp_path / "a", small_inputs)
        assert torch.equal(first.images, start(tmp_path / "b", small_inputs).images)
        assert not torch.equal(first.images, start(tmp_path / "c", small_inputs, seed=1).images)

    def test_a_mirrored_start_mirrors_some_images_and_changes_no_other_draw(self, small_inputs, tmp_path):
        plain, mirrored = start(tmp_path / "a", small_inputs).images, start(tmp_path / "b", small_inputs, flip=True).images
        flipped = [torch.equal(image, other.flip(-1)) for image, other in zip(plain, mirrored, strict=True)]
        kept = [torch.equal(image, other) for image, other in zip(plain, mirrored, strict=True)]
        assert all(one or other for one, other in zip(flipped, kept, strict=True)) and any(flipped) and any(kept)

    def test_shuffled_patches_are_the_same_pixels_elsewhere(self, small_inputs, tmp_path):
        plain = start(tmp_path / "a", small_inputs).images
        shuffled = start(tmp_path / "b", small_inputs, shuffle_patches=2).images
        assert not torch.equal(plain, shuffled)
        assert torch.equal(plain.flatten(2).sort().values, shuffled.flatten(2).sort().values)

    def test_a_stop_leaves_no_images_that_are_not_all_there(self, small_inputs, tmp_path):
        with pytest.raises(Stopped, match="stopped after 1 of 4 classes"):
            initialise(settings(), small_inputs, tmp_path, Report(stop_wanted=lambda: True))
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000.safetensors"]


class TestDrawing:
    def test_never_twice_means_a_random_subset(self):
        drawn = [sorted(draw_real(6, 4, "never", generator(seed)).tolist()) for seed in range(200)]
        assert all(len(set(rows)) == 4 for rows in drawn) and len({tuple(rows) for rows in drawn}) == 15

    def test_always_means_independent_draws_which_repeat(self):
        drawn = torch.stack([draw_real(10, 10, "always", generator(seed)) for seed in range(300)])
        distinct = np.mean([len(set(rows)) for rows in drawn.tolist()])
        assert distinct == pytest.approx(10 * (1 - 0.9**10), abs=0.15)  # 6.5 of 10, as methods D15 says

    def test_usage_avoids_what_was_used_with_probability_softmax(self):
        drawn = [draw_real(3, 2, "usage", generator(seed)).tolist() for seed in range(3000)]
        repeated = np.mean([rows[0] == rows[1] for rows in drawn])
        assert repeated == pytest.approx(np.exp(-1) / (2 + np.exp(-1)), abs=0.02)

    def test_more_images_than_there_are_come_about_evenly_with_usage(self):
        counts = torch.bincount(draw_real(5, 50, "usage", generator(0)), minlength=5)
        assert counts.sum() == 50 and counts.min() >= 8 and counts.max() <= 12


def reordered(store: ImageStore, order: list[int]) -> ImageStore:
    """The same images with the classes in another order."""
    images = np.concatenate([store.train.images[store.train.rows_of_class(label)] for label in order])
    names = tuple(store.classes.names[label] for label in order)
    return ImageStore(Split(images, store.train.labels), store.test, ClassIndex(names), store.mean, store.std, store.resolution, "", True)


@pytest.mark.parametrize("source", ["real", "noise"])
def test_the_order_of_classes_only_orders_the_images(source, small_inputs, tmp_path):
    order = [2, 0, 3, 1]
    plain = start(tmp_path / "a", small_inputs, source=source, flip=True)
    moved = start(tmp_path / "b", small_inputs_of(reordered(small_inputs.store, order)), source=source, flip=True)
    assert moved.classes.names == tuple(CLASSES[label] for label in order)
    assert torch.equal(moved.images.view(4, 4, 3, 16, 16), plain.images.view(4, 4, 3, 16, 16)[order])


def test_noise_is_normal_in_normalised_units_up_to_the_range_of_pixels(tmp_path):
    store = small_store()
    object.__setattr__(store, "mean", (0.5, 0.45, 0.4))
    object.__setattr__(store, "std", (0.1, 0.12, 0.1))  # so narrow that only one pixel in thousands is cut off
    inputs = small_inputs_of(store)
    noise = inputs.normalise(start(tmp_path, inputs, source="noise", ipc=15).images)
    assert noise.mean((0, 2, 3)).abs().max() < 0.03
    assert (noise.std((0, 2, 3)) - 1).abs().max() < 0.03
    assert (noise[0] * noise[1]).sum().abs() / 768 < 0.15  # one image is not the other


def test_noise_as_a_control_is_other_noise_for_every_seed_and_has_nothing_of_the_images(small_inputs, tmp_path):
    control = {"source": "noise", "save": None}  # as planner.images_of asks for it, with the seed of the training
    first, again = (start(tmp_path / name, small_inputs, **control, seed=3) for name in "ab")
    other = start(tmp_path / "c", small_inputs, **control, seed=4)
    assert torch.equal(first.images, again.images) and (first.images != other.images).float().mean() > 0.9
    assert first.metadata["training_rows"] == [[], [], [], []]
    between = torch.corrcoef(torch.cat([first.images, other.images]).flatten(1).float())
    assert (between - torch.eye(len(between))).abs().max() < 0.2


class TestFiles:
    @staticmethod
    def written(folder, soft_labels=None):
        images, labels = torch.from_numpy(pictures(2, 5)), torch.arange(4).repeat_interleave(2)
        about = {"classes": ClassIndex(CLASSES), "mean": (0.5,) * 3, "std": (0.2,) * 3, "metadata": {"source": "elsewhere"}}
        path = write_condensed(folder, images, labels, **about, soft_labels=soft_labels)
        return path, {"source": "files", "path": str(path), "content": digest_file(path), "ipc": 2}

    @pytest.mark.parametrize("soft", [False, True])
    def test_images_and_the_soft_labels_that_came_with_them_are_taken_as_they_are(self, soft, small_inputs, tmp_path):
        soft_labels = torch.randn(8, 4) if soft else None
        _, asked = self.written(tmp_path, soft_labels)
        result = initialise(settings(**asked, flip=True, shuffle_patches=2, save=SAVE), small_inputs, tmp_path / "step", Report())
        condensed = read_condensed(tmp_path / "step")
        assert torch.equal(condensed.images, torch.from_numpy(pictures(2, 5))) and condensed.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert condensed.soft_labels is None if not soft else torch.equal(condensed.soft_labels, soft_labels)
        assert result == {"images": 8, "image_bytes": 8 * 3 * 16 * 16, "label_bytes": 8 * 4 * 4 if soft else 0}
        assert condensed.mean == pytest.approx(small_inputs.store.mean)  # the dataset's, whatever the file says
        assert (tmp_path / "step" / "contact-sheet.png").exists()

    @pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes() + b" ")])
    def test_a_file_that_changed_since_the_plan_was_made_is_refused(self, change, small_inputs, tmp_path):
        path, asked = self.written(tmp_path)
        change(path)
        with pytest.raises(RunError, match="changed or gone since this run was planned"):
            initialise(settings(**asked), small_inputs, tmp_path / "step", Report())
        assert not (tmp_path / "step").exists()


class Brightness(nn.Module):
    """Says class 0 the more the brighter the image is, so that scores are known without training."""

    def forward(self, images):
        level = images.mean((1, 2, 3))
        return torch.stack([level, torch.zeros_like(level), -level, level / 2], 1)


class TestRded:
    @pytest.mark.parametrize("side", [16, 15])
    @pytest.mark.parametrize("factor", [1, 2])
    @pytest.mark.parametrize("order", ["stratified", "consecutive"])
    def test_images_are_those_of_a_slow_loop_over_candidates_and_crops(self, side, factor, order):
        inputs = small_inputs_of(small_store(side))
        chosen = RDED | {"rded.factor": factor, "rded.tile_order": order}
        real = torch.from_numpy(pictures(15, 1, side)[15:30])
        images, rows = rded_images(real, 1, 2, Brightness(), inputs, chosen, generator("rded"))

        draws, size = generator("rded"), side // factor
        candidates = torch.randperm(15, generator=draws)[:12].tolist()
        best = {row: (float("inf"), None) for row in candidates}
        for _ in range(3):
            boxes = augment.draw_crops(12, side, side, scale=(0.1, 1.0), ratio=(1.0, 1.0), generator=draws)
            for row, box in zip(candidates, boxes.tolist(), strict=True):
                crop = vision.resized_crop(real[row], *box, size=[size, size], antialias=True)
                canvas = torch.zeros(3, side, side)
                first = (side - size) // 2
                canvas[:, first : first + size, first : first + size] = inputs.normalise(crop[None])[0]
                loss = nn.functional.cross_entropy(Brightness()(canvas[None]), torch.tensor([1])).item()
                if loss < best[row][0]:
                    best[row] = (loss, crop)
        ranked = sorted(candidates, key=lambda row: best[row][0])[: 2 * factor**2]
        assert rows.tolist() == ranked
        for image in range(2):
            canvas = torch.zeros(3, size * factor, size * factor, dtype=torch.uint8)
            for place in range(factor**2):
                rank = place * 2 + image if order == "stratified" else image * factor**2 + place
                top, left = place // factor * size, place % factor * size
                canvas[:, top : top + size, left : left + size] = best[ranked[rank]][1]
            if size * factor != side:
                canvas = nn.functional.interpolate(canvas[None], size=(side, side), mode="nearest")[0]
            # One grey level of tolerance: whole-size crops are rounded once, torchvision's in its own order.
            assert (images[image].int() - canvas.int()).abs().max() <= 1
        assert images.shape == (2, 3, side, side) and images.dtype == torch.uint8

    def test_one_crop_of_an_image_is_used_at_most(self, small_inputs, squeezed, tmp_path):
        small_inputs.folders["scorer"] = (squeezed("wrn-10-1"),)
        condensed = start(tmp_path, small_inputs, source="rded", ipc=3)
        for label, rows in enumerate(condensed.metadata["training_rows"]):
            assert len(rows) == len(set(rows)) == 12
            assert {small_inputs.store.train.labels[row] for row in rows} == {label}
        assert condensed.images.shape == (12, 3, 16, 16)

    def test_scores_are_minus_log_probabilities_of_zero_padded_crops(self, small_inputs, monkeypatch):
        monkeypatch.setattr(stage, "SCORING_BATCH", 3)
        crops = torch.from_numpy(pictures(2, 3, 6))

        class Middle(Brightness):
            def forward(self, images):
                assert images[:, :, :5].abs().max() == images[:, :, 11:].abs().max() == images[..., :5].abs().max() == 0
                return super().forward(images[:, :, 5:11, 5:11])

        values = score(crops, 2, Middle(), small_inputs)
        level = small_inputs.normalise(crops).mean((1, 2, 3))
        expected = torch.log(level.exp() + 1 + (-level).exp() + (level / 2).exp()) + level
        torch.testing.assert_close(values, expected)

    def test_stratified_tiles_give_every_image_each_quality_band(self):
        crops = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 2, 2)
        assert tile(crops, 2, 2, "stratified", 4)[:, 0, ::2, ::2].tolist() == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
        assert tile(crops, 2, 2, "consecutive", 4)[:, 0, ::2, ::2].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]

    def test_an_odd_side_is_filled_by_the_nearest_pixel(self):
        crops = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8)
        image = tile(crops, 1, 2, "stratified", 5)
        even = tile(crops, 1, 2, "stratified", 4)
        assert torch.equal(image[..., [0, 2, 3, 4], :][..., [0, 2, 3, 4]], even)

    def test_a_crop_of_the_whole_image_is_the_image(self):
        images = torch.from_numpy(pictures(2, 3))
        whole = torch.tensor([[0, 0, 16, 16]]).expand(8, 4)
        assert torch.equal(crop_to(images, whole, 16), images)
        expected = vision.resize(images, [8, 8], antialias=True)
        assert torch.equal(crop_to(images, whole, 8), expected)


def test_final_images_come_with_a_contact_sheet_and_files(small_inputs, tmp_path):
    condensed = start(tmp_path, small_inputs, save=SAVE | {"save.format": "png"})
    assert (tmp_path / "contact-sheet.png").exists()
    files = sorted((tmp_path / "png").rglob("*.png"))
    assert len(files) == 16 and files[0].parent.name == "0_bird"
    assert len(condensed) == 16
