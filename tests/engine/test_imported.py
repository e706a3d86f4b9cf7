"""Condensed sets of other tools: every form in which one comes gives the same images, and what is unclear is refused in one line."""

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from engine.data.condensed import write_condensed
from engine.data.imported import Target, read_imported
from engine.data.sources import ClassIndex
from engine.errors import UserError

CLASSES = ("bird", "cat", "dog")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.25)
LABELS = np.array([0, 0, 1, 1, 2, 2])


def target(resolution=8, classes=CLASSES, bordered=False, statistics=lambda: (MEAN, STD)):
    return Target("pets", ClassIndex(classes), resolution, bordered, statistics)


def unasked():
    raise AssertionError("mean and deviation are needed for normalised pixels only")


def pixels(side=8, count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, side, side)).astype(np.uint8)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 255
    return images


def soft(scale=5.0):
    logits = np.random.default_rng(1).normal(size=(6, 3))
    logits[np.arange(6), LABELS] += scale
    return logits.astype(np.float32)


def write_tree(folder, images=None, names=("bird", "cat", "dog"), labels=LABELS):
    for number, (image, label) in enumerate(zip(pixels() if images is None else images, labels, strict=True)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / names[label] / f"{number:03d}.png")
    return folder


def saved(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(values, path)
    return path


def refusal(path, *more, **changes):
    with pytest.raises(UserError) as caught:
        read_imported(path, target(statistics=unasked, **changes), *more)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def normalised(images):
    return (images / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))


def tensors():
    return {"images": torch.from_numpy(pixels()), "labels": torch.from_numpy(LABELS)}


def as_tensors(value):
    """The same with tensors for arrays, which is all that torch saves without pickling numpy's code."""
    if isinstance(value, dict):
        return {name: as_tensors(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_tensors(one) for one in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


FORMS = {
    "tree.d": lambda path: write_tree(path),
    "numbers.d": lambda path: write_tree(path, names=("0000", "0001", "0002")),
    "train.d": lambda path: write_tree(path / "train").parent,
    "uint8.pt": lambda path: saved(path, tensors()),
    "unit.pth": lambda path: saved(path, {"x": tensors()["images"] / 255, "y": tensors()["labels"].int()}),
    "half.pt": lambda path: saved(path, {"image_syn": tensors()["images"].half(), "label_syn": tensors()["labels"].float()}),
    "normalised.pt": lambda path: saved(path, {"data": torch.from_numpy(normalised(pixels())).float(), "targets": tensors()["labels"]}),
    "pair.pt": lambda path: saved(path, (tensors()["images"], tensors()["labels"])),
    "experiments.pt": lambda path: saved(path, {"data": [[tensors()["images"], tensors()["labels"]]], "accs_all_exps": {"a": [1.0]}}),
    "channels_last.pt": lambda path: saved(path, {"images": tensors()["images"].permute(0, 2, 3, 1), "labels": LABELS.tolist()}),
    "one_hot.pt": lambda path: saved(path, {"images": tensors()["images"], "labels": torch.eye(3)[LABELS]}),
    "parameter.pt": lambda path: saved(path, {"images": torch.nn.Parameter(tensors()["images"] / 255), "labels": tensors()["labels"]}),
    "foreign.safetensors": lambda path: safetensors.torch.save_file(tensors(), path) or path,
}


class TestForms:
    @pytest.mark.parametrize("form", FORMS)
    def test_every_form_gives_the_same_images_class_after_class(self, form, tmp_path):
        found = read_imported(FORMS[form](tmp_path / form), target())
        assert found.images.dtype == np.uint8 and np.array_equal(found.images, pixels())
        assert found.labels.dtype == np.int64 and found.labels.tolist() == LABELS.tolist()
        assert found.soft_labels is None and found.ipc == 2

    def test_numpys_archive(self, tmp_path):
        np.savez(tmp_path / "mine.npz", images=pixels(), labels=LABELS, soft_labels=soft())
        found = read_imported(tmp_path / "mine.npz", target())
        assert np.array_equal(found.images, pixels()) and np.array_equal(found.soft_labels, soft())

    def test_images_and_labels_in_two_files_of_trajectory_matching(self, tmp_path):
        saved(tmp_path / "labels_best.pt", tensors()["labels"])
        found = read_imported(saved(tmp_path / "images_best.pt", tensors()["images"]), target())
        assert np.array_equal(found.images, pixels()) and found.labels.tolist() == LABELS.tolist()

    def test_images_in_another_order_are_put_class_after_class_with_their_soft_labels(self, tmp_path):
        order = np.array([4, 2, 0, 5, 3, 1])
        values = {"images": torch.from_numpy(pixels()[order]), "labels": torch.from_numpy(LABELS[order])}
        found = read_imported(saved(tmp_path / "mine.pt", values | {"soft_label": torch.from_numpy(soft()[order])}), target())
        assert np.array_equal(found.images, pixels()) and np.array_equal(found.soft_labels, soft())
        assert found.labels.tolist() == LABELS.tolist()

    def test_grey_images_get_three_equal_channels(self, tmp_path):
        for name, images in (("a.pt", pixels()[:, :1]), ("b.pt", pixels()[:, 0])):
            found = read_imported(saved(tmp_path / name, (torch.from_numpy(images), torch.from_numpy(LABELS))), target())
            assert np.array_equal(found.images, np.repeat(pixels()[:, :1], 3, axis=1))


class TestOwnSets:
    @staticmethod
    def write(folder, classes=CLASSES, soft_labels=None):
        about = {"classes": ClassIndex(classes), "mean": MEAN, "std": STD, "metadata": {}}
        return write_condensed(folder, pixels(), LABELS, **about, soft_labels=soft_labels)

    def test_a_file_its_folder_and_a_run_are_the_same(self, tmp_path):
        path = self.write(tmp_path / "run" / "stages" / "4-synthesise" / "condensed", soft_labels=soft())
        (tmp_path / "run" / "summary.json").write_text('{"condensed": {"folder": "stages/4-synthesise/condensed"}}')
        for place in (path, path.parent, tmp_path / "run"):
            found = read_imported(place, target())
            assert np.array_equal(found.images, pixels()) and np.array_equal(found.soft_labels, soft()) and found.notes == ()

    def test_classes_in_another_order_are_brought_into_the_datasets_by_name(self, tmp_path):
        path = self.write(tmp_path, ("dog", "bird", "cat"), soft())
        found = read_imported(path, target())
        order = [2, 3, 4, 5, 0, 1]  # birds were second, cats third, dogs first
        assert np.array_equal(found.images, pixels()[order]) and found.labels.tolist() == LABELS.tolist()
        assert np.array_equal(found.soft_labels, soft()[order][:, [1, 2, 0]])
        assert found.notes == ("its classes were brought into the order of pets",)

    def test_other_classes_are_refused(self, tmp_path):
        assert "other classes (bird, cat, frog) than pets has (bird, cat, dog)" in refusal(self.write(tmp_path, ("bird", "cat", "frog")))


class TestPixels:
    @pytest.mark.parametrize(
        ("values", "told"),
        [(lambda x: x / 255, "0 to 1"), (lambda x: x * 1.0, "0 to 255"), (normalised, "normalised by the mean and deviation of pets")],
    )
    def test_the_range_that_was_found_is_told(self, values, told, tmp_path):
        found = read_imported(saved(tmp_path / "a.pt", (torch.from_numpy(values(pixels())), torch.from_numpy(LABELS))), target())
        assert np.array_equal(found.images, pixels())
        (note,) = found.notes
        assert told in note and "cut" not in note

    def test_pixels_beyond_black_and_white_are_cut_and_counted(self, tmp_path):
        images = normalised(pixels())
        images[:3] += 100
        found = read_imported(saved(tmp_path / "a.pt", (torch.from_numpy(images), torch.from_numpy(LABELS))), target())
        assert (found.images[:3] == 255).all() and np.array_equal(found.images[3:], pixels()[3:])
        assert "50.0% of which lay beyond black or white and were cut" in found.notes[0]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda x: x / 127.5 - 1, "may be scaled to -1..1 or normalised"),
            (lambda x: x * 2.0, "neither 0..255 nor 0..1 nor normalised"),
            (lambda x: x.astype(int) - 9, "neither 0..255"),
            (lambda x: x * np.nan, "not a finite number"),
            (lambda x: x > 9, "true or false"),
            (lambda x: x[:, :2], r"the shape \(6, 2, 8, 8\)"),
            (lambda x: x[0, 0], "the shape"),
        ],
    )
    def test_what_is_unclear_or_impossible_is_refused(self, change, said, tmp_path):
        path = saved(tmp_path / "a.pt", (torch.from_numpy(change(pixels())), torch.from_numpy(LABELS)))
        with pytest.raises(UserError, match=said):
            read_imported(path, target(statistics=unasked))

    def test_images_of_another_size_are_resized_and_told(self, tmp_path):
        flat = np.full((6, 3, 12, 16), 7, np.uint8)
        flat[:, :, :, :2], flat[:, :, :, -2:] = 200, 200  # what a centre crop leaves out
        for path in (saved(tmp_path / "a.pt", (torch.from_numpy(flat), torch.from_numpy(LABELS))), write_tree(tmp_path / "tree", flat)):
            found = read_imported(path, target())
            assert found.images.shape == (6, 3, 8, 8) and (found.images[:, :, :, 1:-1] == 7).all()
            assert found.notes == ("its images of 16 x 12 px were resized to 8 px",)

    def test_pictures_of_28_px_get_a_border_where_the_datasets_own_do(self, tmp_path):
        images = pixels(28)
        for path in (saved(tmp_path / "a.pt", (torch.from_numpy(images), torch.from_numpy(LABELS))), write_tree(tmp_path / "tree", images)):
            found = read_imported(path, target(32, bordered=True))
            assert np.array_equal(found.images, np.pad(images, [(0, 0), (0, 0), (2, 2), (2, 2)]))
            assert "got a border" in found.notes[0]
            assert "resized" in read_imported(path, target(32)).notes[0]


class TestSoftLabels:
    def test_a_file_of_their_own_is_read_in_every_format(self, tmp_path):
        tree = write_tree(tmp_path / "tree")
        np.save(tmp_path / "a.npy", soft())
        np.savez(tmp_path / "a.npz", logits=soft())
        saved(tmp_path / "a.pt", torch.from_numpy(soft()))
        saved(tmp_path / "b.pt", {"soft_labels": torch.from_numpy(soft()), "epoch": 3})
        safetensors.torch.save_file({"whatever": torch.from_numpy(soft())}, tmp_path / "a.safetensors")
        for name in ("a.npy", "a.npz", "a.pt", "b.pt", "a.safetensors"):
            found = read_imported(tree, target(), tmp_path / name)
            assert found.soft_labels.dtype == np.float32 and np.array_equal(found.soft_labels, soft()), name

    def test_probabilities_become_their_logarithms(self, tmp_path):
        probabilities = torch.from_numpy(soft()).softmax(1)
        found = read_imported(saved(tmp_path / "a.pt", (tensors()["images"], tensors()["labels"], probabilities)), target())
        torch.testing.assert_close(torch.from_numpy(found.soft_labels).softmax(1), probabilities)
        assert "probabilities, whose logarithms are used" in found.notes[0]

    def test_labels_that_are_learned_are_soft_and_their_largest_is_the_class(self, tmp_path):
        found = read_imported(saved(tmp_path / "a.pt", {"x": tensors()["images"], "y": torch.from_numpy(soft())}), target())
        assert found.labels.tolist() == LABELS.tolist() and np.array_equal(found.soft_labels, soft())

    def test_labels_that_name_other_classes_are_told(self, tmp_path):
        rolled = torch.from_numpy(np.roll(soft(), 1, axis=1))
        found = read_imported(saved(tmp_path / "a.pt", (tensors()["images"], tensors()["labels"], rolled)), target())
        assert "only 0 of its 6 soft labels name the class of their image" in found.notes[0]

    @pytest.mark.parametrize("values", [torch.zeros(6, 4), torch.zeros(5, 3), torch.full((6, 3), torch.inf), {"a": 1, "b": 2}])
    def test_what_does_not_fit_is_refused(self, values, tmp_path):
        tree = write_tree(tmp_path / "tree")
        assert "soft label" in refusal(tree, saved(tmp_path / "a.pt", values))

    def test_a_missing_file_is_named(self, tmp_path):
        assert "nope.pt" in refusal(write_tree(tmp_path / "tree"), tmp_path / "nope.pt")


class Anything:
    """What a pickle may hold and no tensor file should."""


class TestRefusing:
    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"images": pixels()}, "no labels"),
            ({"labels": LABELS}, "has no images"),
            ({}, "found nothing"),
            (torch.zeros(3), "expected images and labels"),
            ({"images": pixels(), "labels": LABELS[:4]}, "expected (6,) for its 6 images"),
            ({"images": pixels(), "labels": LABELS + 1}, "whole numbers from 0 to 2"),
            ({"images": pixels(), "labels": LABELS + 0.5}, "whole numbers from 0 to 2"),
            ({"images": pixels(), "labels": LABELS % 2}, "as many images as the others: bird 4, cat 2, dog 0"),
            ({"data": [[pixels(), LABELS]] * 2}, "holds 2 condensed sets"),
        ],
    )
    def test_what_does_not_fit_together_is_said(self, values, said, tmp_path):
        assert said in refusal(saved(tmp_path / "a.pt", as_tensors(values)))

    def test_code_in_a_file_is_not_executed(self, tmp_path):
        assert "is not opened" in refusal(saved(tmp_path / "a.pt", {"images": Anything(), "labels": 1}))
        np.savez(tmp_path / "a.npz", images=np.array([{}]), labels=LABELS)
        assert "a.npz" in refusal(tmp_path / "a.npz")

    @pytest.mark.parametrize("name", ["a.pt", "a.npz", "a.safetensors"])
    def test_a_damaged_file_is_named(self, name, tmp_path):
        whole = {"a.pt": FORMS["uint8.pt"], "a.safetensors": FORMS["foreign.safetensors"]}
        path = tmp_path / name
        if name in whole:
            whole[name](path)
        else:
            np.savez(path, images=pixels(), labels=LABELS)
        content = path.read_bytes()
        for damaged in (b"", b"hello", content[:100], content[:-20]):
            path.write_bytes(damaged)
            assert name in refusal(path)

    def test_other_files_and_places_are_named(self, tmp_path):
        (tmp_path / "a.txt").write_text("hello")
        assert "expected a folder of images" in refusal(tmp_path / "a.txt")
        assert "there is no" in refusal(tmp_path / "nothing")
        (tmp_path / "empty").mkdir()
        assert "no class folders" in refusal(tmp_path / "empty")
        (tmp_path / "bare" / "bird").mkdir(parents=True)
        assert "no images" in refusal(tmp_path / "bare")

    def test_a_set_with_unequal_classes_is_refused_with_the_odd_counts(self, tmp_path):
        tree = write_tree(tmp_path / "tree", pixels(count=5), labels=LABELS[:5])
        assert "as many images as the others: dog 1, the others 2" in refusal(tree)

    def test_a_damaged_image_is_named(self, tmp_path):
        tree = write_tree(tmp_path / "tree")
        (tree / "cat" / "003.png").write_bytes(b"\x89PNG")
        assert "003.png cannot be decoded" in refusal(tree)
