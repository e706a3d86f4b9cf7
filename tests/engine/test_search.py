"""The search of a learning rate on training images that are held out."""

import numpy as np
import pytest
import torch
from small_runs import flat_settings, small_inputs_of, small_store, stopping_report
from test_resume import with_interruptions

from engine.errors import RunError
from engine.files import write_json
from engine.stages import evaluate as evaluation
from engine.stages import inputs as stage_inputs
from engine.stages.evaluate import evaluate
from engine.stages.initialise import initialise
from engine.stages.inputs import RealImages
from engine.stages.report import Report
from engine.stages.search import found_learning_rate, held_out_rows

STUDENT = {
    "set": "condensed", "student": "convnet-d1-w8", "seed": 1, "condense__ipc": 2, "evaluate__epochs": 4, "evaluate__batch_size": 4,
    "evaluate__loss": "ce", "evaluate__ema": 0.0, "evaluate__every": 1,
}  # fmt: skip


class TestHeldOutRows:
    def test_they_are_a_tenth_of_each_class_and_follow_the_seed(self):
        store = small_store()
        store.train.labels[:] = np.repeat(np.arange(4), [20, 20, 15, 5])
        rows = held_out_rows(store, 3)
        assert np.bincount(store.train.labels[rows]).tolist() == [2, 2, 2, 1]
        assert (np.diff(rows) > 0).all() and (rows == held_out_rows(store, 3)).all()
        assert {tuple(held_out_rows(store, seed)) for seed in range(5)} != {tuple(rows)}

    def test_none_is_trained_on(self):
        store = small_store()
        trained_on = [row for row in range(60) if row % 15 != 7]
        assert held_out_rows(store, 0, trained_on).tolist() == [7, 22, 37, 52]
        with pytest.raises(RunError, match="every training image is trained on"):
            held_out_rows(store, 0, range(60))


@pytest.mark.parametrize("resident", [True, False])
def test_some_rows_of_a_split_are_read_as_a_split_of_their_own(monkeypatch, resident):
    if not resident:
        monkeypatch.setattr(stage_inputs, "RESIDENT_BYTES", 0)
    split, rows = small_store().train, np.array([3, 17, 40, 59])
    images = RealImages(split, "cpu", rows)
    assert len(images) == 4 and images.labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(images.take(torch.tensor([2, 0, 3])), torch.from_numpy(split.images[[40, 3, 59]]))


def finished(folder, rate, top1, **more):
    folder.mkdir()
    write_json(folder / "done.json", {"settings": {"evaluate.learning_rate": rate}, "result": {"final": {"top1": top1}, **more}})
    return folder


class TestFoundLearningRate:
    def test_the_best_is_taken_and_told(self, tmp_path):
        logs = []
        folders = [finished(tmp_path / "a", 0.1, 20.0), finished(tmp_path / "b", 0.01, 31.25), finished(tmp_path / "c", 0.001, 30.0)]
        assert found_learning_rate(folders, Report(on_log=lambda text, level: logs.append(text))) == 0.01
        assert logs == ["learning rate 0.01 is the best on training images held out (0.001: 30.00 %, 0.01: 31.25 %, 0.1: 20.00 %)"]

    def test_of_equals_the_smaller_one(self, tmp_path):
        folders = [finished(tmp_path / "a", 0.1, 30.0), finished(tmp_path / "b", 0.001, 30.0), finished(tmp_path / "c", 0.01, 30.0)]
        assert found_learning_rate(folders, Report()) == 0.001

    def test_what_diverged_is_never_taken(self, tmp_path):
        folders = [finished(tmp_path / "a", 10.0, 0.0, diverged=True), finished(tmp_path / "b", 0.01, 0.0)]
        assert found_learning_rate(folders, Report()) == 0.01
        with pytest.raises(RunError, match=r"every training diverged \(10\); name smaller ones"):
            found_learning_rate(folders[:1], Report())


@pytest.fixture
def chosen(tmp_path):
    inputs = small_inputs_of(small_store(), images=(tmp_path / "start",))
    settings = {"source": "real", "seed": 0, "ipc": 2, "replacement": "never", "flip": False, "shuffle_patches": 0, "save": None}
    initialise(settings, inputs, tmp_path / "start", Report())
    return inputs


class TestTraining:
    def search(self, inputs, folder, **changes):
        folder.mkdir(exist_ok=True)
        return evaluate(flat_settings(**STUDENT | changes) | {"measured_on": "validation"}, inputs, folder, Report())

    def test_a_search_is_measured_once_on_training_images_that_it_is_not_trained_on(self, chosen, tmp_path, monkeypatch):
        measured = []
        plain = evaluation.training.measure

        def watched(model, images, inputs):
            measured.append(images.take(torch.arange(len(images))))
            return plain(model, images, inputs)

        monkeypatch.setattr(evaluation.training, "measure", watched)
        result = self.search(chosen, tmp_path / "search")
        assert len(measured) == 1 and len(measured[0]) == 8 and [row["epoch"] for row in result["history"]] == [4]
        train = torch.from_numpy(chosen.store.train.images).flatten(1)
        rows = [next(row for row in range(60) if torch.equal(train[row], image)) for image in measured[0].flatten(1)]
        from engine.data.condensed import read_condensed

        used = {row for part in read_condensed(tmp_path / "start").metadata["training_rows"] for row in part}
        assert [row // 15 for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3] and not used & set(rows)
        assert not (tmp_path / "search" / "observer.safetensors").exists() and "learning_rate" not in result

    def test_a_rate_that_is_too_large_does_not_end_the_run(self, chosen, tmp_path):
        result = self.search(chosen, tmp_path / "search", evaluate__learning_rate=1e30, evaluate__optimizer="sgd")
        assert result["diverged"] and result["final"] == {"top1": 0.0}

    def test_interrupted_it_ends_alike(self, chosen, tmp_path):
        whole = self.search(chosen, tmp_path / "whole")
        settings = flat_settings(**STUDENT) | {"measured_on": "validation"}
        result, interruptions = with_interruptions(evaluate, settings, chosen, tmp_path / "parts", lambda: stopping_report(2))
        assert result == whole and interruptions >= 2

    def test_the_rate_found_is_trained_with_and_told(self, chosen, tmp_path):
        (tmp_path / "given").mkdir()
        given = evaluate(flat_settings(**STUDENT | {"evaluate__learning_rate": 0.02}), chosen, tmp_path / "given", Report())
        chosen.folders["search"] = (finished(tmp_path / "a", 0.02, 40.0), finished(tmp_path / "b", 0.002, 30.0))
        (tmp_path / "found").mkdir()
        found = evaluate(flat_settings(**STUDENT | {"evaluate__learning_rate": None}), chosen, tmp_path / "found", Report())
        assert found == given | {"learning_rate": 0.02}
        name = "observer.safetensors"
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "given" / name).read_bytes()
