"""One soft label an image: stored by relabel or brought along, mixed as views are, and what a student is trained with."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from small_runs import StopAfter, flat_settings, small_inputs_of, small_store, stopping_report
from test_resume import content, with_interruptions
from torch import nn

from engine.data.condensed import read_condensed, write_condensed
from engine.data.views import ViewSettings, draw_epoch
from engine.errors import RunError, Stopped
from engine.stages import evaluate as evaluation
from engine.stages import relabel as relabelling
from engine.stages.evaluate import evaluate
from engine.stages.initialise import initialise
from engine.stages.losses import mixed_target, student_loss
from engine.stages.relabel import relabel
from engine.stages.report import Report

OBSERVERS = ("wrn-10-1", "convnet-d2-w16-bn")
FIXED = {"labels.ensemble": "mean", "labels.teacher_batchnorm": "eval", "labels.dtype": "float32", "labels.mode": "fixed"}
STUDENT = {"student": "convnet-d1-w8", "seed": 1, "condense__ipc": 2, "evaluate__epochs": 3, "evaluate__batch_size": 3}


@pytest.fixture
def chosen(squeezed, tmp_path):
    """Inputs with eight images, two of each class, and two observers."""
    inputs = small_inputs_of(small_store(), observers=tuple(squeezed(name) for name in OBSERVERS), images=(tmp_path / "start",))
    settings = {"source": "real", "seed": 0, "ipc": 2, "replacement": "never", "flip": False, "shuffle_patches": 0, "save": None}
    initialise(settings, inputs, tmp_path / "start", Report())
    return inputs


def labelled(inputs, folder, **changes):
    folder.mkdir(exist_ok=True)
    result = relabel(FIXED | changes, inputs, folder, Report())
    return np.load(folder / "logits.npy"), result


class TestRelabel:
    def test_each_image_has_the_mean_of_the_observers_logits_on_itself_unaugmented(self, chosen, tmp_path):
        logits, result = labelled(chosen, tmp_path / "labels")
        mean, std = (np.array(values).reshape(3, 1, 1) for values in (chosen.store.mean, chosen.store.std))
        images = torch.from_numpy((read_condensed(tmp_path / "start").images.numpy() / 255 - mean) / std)
        with torch.no_grad():
            expected = [[observer.double()(image[None])[0].numpy() for image in images] for observer in chosen.observers()]
        assert logits.dtype == np.float32 and logits.shape == (8, 4)
        assert np.allclose(logits, np.mean(expected, axis=0), rtol=1e-4, atol=1e-4)
        assert result == {"label_bytes": 8 * 4 * 4, "views": 8}

    def test_labels_of_float16_are_those_of_float32_rounded(self, chosen, tmp_path):
        exact, _ = labelled(chosen, tmp_path / "float32")
        rounded, result = labelled(chosen, tmp_path / "float16", **{"labels.dtype": "float16"})
        assert (exact.astype(np.float16) == rounded).all() and result["label_bytes"] == 64

    def test_observers_that_normalise_by_the_batch_are_shown_classes_mixed(self, chosen, tmp_path, monkeypatch):
        """Images in class order would come four of two classes together; here the batches of four have more."""
        seen = []
        plain = relabelling.ensemble_logits

        def watched(observers, images, batches, settings, inputs):
            classes = [means.index(round(image.mean().item(), 4)) // 2 for image in images]
            seen.extend(classes[batch] for batch in batches)
            return plain(observers, images, batches, settings, inputs)

        means = [round(value, 4) for value in chosen.normalise(read_condensed(tmp_path / "start").images).mean((1, 2, 3)).tolist()]
        monkeypatch.setattr(relabelling, "ensemble_logits", watched)
        monkeypatch.setattr(relabelling, "FIXED_BATCH", 4)
        by_batch, _ = labelled(chosen, tmp_path / "train", **{"labels.teacher_batchnorm": "train"})
        assert sorted(seen[0] + seen[1]) == [0, 0, 1, 1, 2, 2, 3, 3] and len(seen) == 2
        assert max(len(set(batch)) for batch in seen) > 2
        assert not np.allclose(by_batch, labelled(chosen, tmp_path / "eval")[0], atol=1e-2)

    def test_stopped_after_a_part_it_starts_anew_and_ends_in_the_same_bytes(self, chosen, tmp_path, monkeypatch):
        monkeypatch.setattr(relabelling, "FIXED_BATCH", 2)
        monkeypatch.setattr(relabelling, "chunk_limit", lambda side: 4)
        labelled(chosen, tmp_path / "whole")
        (tmp_path / "parts").mkdir()
        with pytest.raises(Stopped, match="image 4 of 8; it starts anew"):
            relabel(FIXED, chosen, tmp_path / "parts", stopping_report(0))
        assert content(tmp_path / "parts") == {}
        relabel(FIXED, chosen, tmp_path / "parts", Report(stop_wanted=StopAfter(5)))
        assert content(tmp_path / "parts") == content(tmp_path / "whole")

    def test_a_finished_file_that_is_shared_is_not_written_into(self, chosen, tmp_path):
        labelled(chosen, tmp_path / "labels")
        (tmp_path / "shared.npy").hardlink_to(tmp_path / "labels" / "logits.npy")
        kept = (tmp_path / "shared.npy").read_bytes()
        labelled(chosen, tmp_path / "labels", **{"labels.dtype": "float16"})
        assert (tmp_path / "shared.npy").read_bytes() == kept


DRAWS = np.random.default_rng(3)
OWN, PARTNER, SHARE = DRAWS.normal(0, 3, (5, 4)), DRAWS.normal(0, 3, (5, 4)), np.array([1.0, 0.25, 0.5, 0.9, 0.0])


class TestMixing:
    def target(self, **changes):
        tensors = (torch.tensor(part) for part in (OWN, PARTNER, SHARE))
        return mixed_target(flat_settings(**changes), *tensors).numpy()

    def test_logits_are_mixed_where_logits_are_compared(self):
        share = SHARE[:, None]
        assert np.allclose(self.target(evaluate__loss="mse_ce"), share * OWN + (1 - share) * PARTNER)

    @pytest.mark.parametrize("loss", ["kl", "dist"])
    @pytest.mark.parametrize("temperature", [1.0, 20.0])
    def test_probabilities_are_mixed_where_probabilities_are_compared(self, loss, temperature):
        target = self.target(evaluate__loss=loss, evaluate__temperature=temperature)
        share = SHARE[:, None]
        expected = share * softmax(OWN / temperature, axis=1) + (1 - share) * softmax(PARTNER / temperature, axis=1)
        assert np.allclose(softmax(target / temperature, axis=1), expected, rtol=1e-6)
        assert np.isfinite(target).all()


class Watched:
    """What a student was trained with, batch after batch, and the loss function that it went to."""

    def __init__(self, monkeypatch):
        self.teachers, self.views = [], []
        monkeypatch.setattr(evaluation, "student_loss", self)
        plain = evaluation.augmented

        def rendering(seen, views, *rest):
            self.views.append(views)
            return plain(seen, views, *rest)

        monkeypatch.setattr(evaluation, "augmented", rendering)

    def __call__(self, settings, student, teacher, labels, partners, share):
        self.teachers.append(teacher)
        return student_loss(settings, student, teacher, labels, partners, share)


def trained(inputs, folder, report=None, **changes):
    folder.mkdir(exist_ok=True)
    return evaluate(flat_settings(**STUDENT | {"set": "condensed"} | changes), inputs, folder, report or Report())


class TestStudent:
    @pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
    def test_every_view_has_its_images_label_mixed_with_its_partners(self, chosen, tmp_path, monkeypatch, mix):
        logits, _ = labelled(chosen, tmp_path / "labels")
        inputs = small_inputs_of(chosen.store, images=chosen.folders["images"], labels=(tmp_path / "labels",))
        watched = Watched(monkeypatch)
        result = trained(inputs, tmp_path / "student", labels__mode="fixed", labels__mix=mix, evaluate__ema=0.0)
        expected = []
        for epoch in range(3):
            settings = flat_settings(**STUDENT | {"labels__mix": mix})
            views = draw_epoch(8, 16, epoch, ViewSettings.of(settings, evaluation.seed_for("labels", 1)))
            own, share = logits[views.index.numpy()], views.share.numpy()[:, None]
            expected.append(share * own + (1 - share) * own[views.partner.numpy()])
        assert np.allclose(torch.cat(watched.teachers).numpy(), np.concatenate(expected), rtol=1e-5, atol=1e-5)
        assert (result["images"], result["updates"]) == (8, 9)

    def test_labels_that_came_with_the_images_are_used_as_they_are(self, chosen, tmp_path, monkeypatch):
        plain = read_condensed(tmp_path / "start")
        soft = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
        about = {"classes": plain.classes, "mean": plain.mean, "std": plain.std, "metadata": {}}
        write_condensed(tmp_path / "given", plain.images, plain.labels, **about, soft_labels=soft)
        inputs = small_inputs_of(chosen.store, images=(tmp_path / "given",))
        watched = Watched(monkeypatch)
        trained(inputs, tmp_path / "student", labels__mode="given", labels__mix="none", evaluate__ema=0.0)
        index = torch.cat([views.index for views in watched.views])
        assert torch.equal(torch.cat(watched.teachers), soft[index])

    def test_images_without_labels_of_their_own_are_refused(self, chosen, tmp_path):
        inputs = small_inputs_of(chosen.store, images=chosen.folders["images"])
        with pytest.raises(RunError, match="came without soft labels"):
            trained(inputs, tmp_path / "student", labels__mode="given")

    def test_labels_of_another_set_are_refused(self, chosen, tmp_path):
        (tmp_path / "labels").mkdir()
        np.save(tmp_path / "labels" / "logits.npy", np.zeros((7, 4), np.float32))
        inputs = small_inputs_of(chosen.store, images=chosen.folders["images"], labels=(tmp_path / "labels",))
        with pytest.raises(RunError, match="7 labels for 8 images"):
            trained(inputs, tmp_path / "student", labels__mode="fixed")

    def test_interrupted_it_ends_in_the_same_bytes(self, chosen, tmp_path, monkeypatch):
        labelled(chosen, tmp_path / "labels")
        inputs = small_inputs_of(chosen.store, images=chosen.folders["images"], labels=(tmp_path / "labels",))
        whole = trained(inputs, tmp_path / "whole", labels__mode="fixed", evaluate__loss="kl")
        settings = flat_settings(**STUDENT | {"set": "condensed", "labels__mode": "fixed", "evaluate__loss": "kl"})
        result, interruptions = with_interruptions(evaluate, settings, inputs, tmp_path / "parts", lambda: stopping_report(2))
        assert result == whole and interruptions >= 2 and content(tmp_path / "parts") == content(tmp_path / "whole")

    def test_without_augmentation_it_sees_the_images_themselves_each_once_an_epoch(self, chosen, tmp_path, monkeypatch):
        seen = []
        plain = evaluation.student_loss
        original = nn.Sequential.forward

        def watching(self, images):
            if self.training:
                seen.append(images.detach().clone())
            return original(self, images)

        monkeypatch.setattr(nn.Sequential, "forward", watching)
        off = {"labels__crop_scale": [1.0, 1.0], "labels__flip": False, "labels__mix": "none", "evaluate__randaugment": False}
        inputs = small_inputs_of(chosen.store, images=chosen.folders["images"])
        trained(inputs, tmp_path / "student", **off, evaluate__loss="ce", evaluate__ema=0.0)
        images = chosen.normalise(read_condensed(tmp_path / "start").images)
        shown = torch.cat(seen).view(3, 8, 3, 16, 16)
        assert plain is evaluation.student_loss
        for epoch in shown:
            nearest = torch.cdist(epoch.flatten(1), images.flatten(1))
            assert sorted(nearest.argmin(1).tolist()) == list(range(8)) and nearest.min(1).values.max() < 1e-3


class TestWholeDataset:
    SETTINGS = {"set": "full", "evaluate__epochs": 2, "evaluate__batch_size": 16, "labels__mode": "online", "evaluate__every": 1}

    @pytest.fixture(autouse=True)
    def small_pieces(self, monkeypatch):
        monkeypatch.setattr(evaluation, "chunk_limit", lambda side: 32)
        monkeypatch.setattr(evaluation, "RECALIBRATION_VIEWS", 20)

    def inputs(self, squeezed):
        return small_inputs_of(small_store(), observers=tuple(squeezed(name) for name in OBSERVERS))

    def test_all_training_images_are_seen_in_augmented_views_with_the_observers_labels(self, squeezed, tmp_path, monkeypatch):
        inputs, watched = self.inputs(squeezed), Watched(monkeypatch)
        result = trained(inputs, tmp_path / "student", **self.SETTINGS, evaluate__ema=0.0)
        assert (result["images"], result["updates"]) == (60, 8) and len(result["history"]) == 2
        for epoch in (0, 1):
            shown = torch.cat([views.index for views in watched.views[2 * epoch : 2 * epoch + 2]])
            assert sorted(shown.tolist()) == list(range(60))
        expected = draw_epoch(60, 16, 1, ViewSettings.of(flat_settings(**STUDENT | self.SETTINGS), evaluation.seed_for("labels", 1)))
        assert torch.equal(torch.cat([views.crops for views in watched.views[2:4]]), expected.crops)
        assert torch.cat(watched.teachers).shape == (120, 4)

    def test_interrupted_it_ends_in_the_same_bytes(self, squeezed, tmp_path):
        inputs = self.inputs(squeezed)
        settings = flat_settings(**STUDENT | self.SETTINGS | {"student": "wrn-10-1"})
        whole = trained(inputs, tmp_path / "whole", **self.SETTINGS, student="wrn-10-1")
        result, interruptions = with_interruptions(evaluate, settings, inputs, tmp_path / "parts", lambda: stopping_report(2))
        assert result == whole and interruptions >= 2 and content(tmp_path / "parts") == content(tmp_path / "whole")

    def test_batch_statistics_are_taken_anew_from_no_more_views_than_needed(self, squeezed, tmp_path, monkeypatch):
        counts = []

        def counted(model, batches):
            counts.append([len(batch) for batch in batches])

        monkeypatch.setattr(evaluation.averaging, "recalibrate", counted)
        trained(self.inputs(squeezed), tmp_path / "student", **self.SETTINGS, student="wrn-10-1")
        assert counts[0] == [16, 16]

    def test_with_hard_labels_it_tells_its_images_too(self, tmp_path):
        settings = {"set": "full", "evaluate__full_epochs": 1, "evaluate__full_batch_size": 20}
        result = trained(small_inputs_of(small_store()), tmp_path / "student", **settings)
        assert (result["images"], result["updates"]) == (60, 3)


class TestOneImageABatch:
    """At 16 px the last maps of MobileNet-V2 have one pixel."""

    def test_a_student_that_cannot_train_on_it_says_which_key_to_change(self, chosen, tmp_path):
        inputs = small_inputs_of(chosen.store, images=chosen.folders["images"])
        with pytest.raises(RunError, match=r"one pixel.*one image at a time; set evaluate.batch_size to 2 or more"):
            trained(inputs, tmp_path / "student", student="mobilenet-v2", evaluate__batch_size=1, evaluate__loss="ce")

    def test_neither_can_the_control_on_the_whole_dataset(self, tmp_path):
        settings = {"set": "full", "student": "mobilenet-v2", "evaluate__full_batch_size": 1}
        with pytest.raises(RunError, match="set evaluate.full_batch_size to 2 or more"):
            trained(small_inputs_of(small_store()), tmp_path / "student", **settings)

    def test_other_errors_stay_what_they_are(self):
        with pytest.raises(ValueError, match="something else"), evaluation.training.naming_batches_of_one("a step", "a key"):
            raise ValueError("something else")
