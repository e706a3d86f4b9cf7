"""Stages that are stopped or killed in the middle and taken up again: nothing of it can be seen in what they make."""

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import flat_settings, small_inputs_of, small_store, stopping_report
from torch import nn

from engine.compute.seeding import seed_for
from engine.data.label_rows import packed, row_type
from engine.data.views import ViewSettings, draw_epoch
from engine.errors import RunError, Stopped
from engine.files import read_json, write_json
from engine.stages import evaluate as evaluation
from engine.stages import relabel as relabelling
from engine.stages import training
from engine.stages.evaluate import evaluate
from engine.stages.initialise import initialise
from engine.stages.relabel import relabel
from engine.stages.report import Report
from engine.stages.squeeze import squeeze
from engine.stages.statistics import statistics
from engine.stages.synthesise import synthesise


class Killed(Exception):
    """Stands for the end of the process."""


def killing_report(checkpoints: int) -> Report:
    """A report under which a checkpoint follows every step, and the process ends right after some of them."""
    left = [checkpoints]

    def count():
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return Report(checkpoint_seconds=0.0, on_checkpoint=count)


def with_interruptions(stage, settings, inputs, folder: Path, report_of) -> tuple[dict, int]:
    """Run a stage again and again until it ends; its result and how often it was interrupted."""
    folder.mkdir(exist_ok=True)
    for interruptions in range(200):
        try:
            return stage(settings, inputs, folder, report_of()), interruptions
        except (Stopped, Killed):
            pass
    raise AssertionError("it makes no headway")


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder that a stage leaves, without checkpoints."""
    files = {path.name: path for path in folder.iterdir() if path.is_file() and not path.name.startswith("checkpoint")}
    return {name: path.read_bytes() for name, path in files.items()}


def assert_the_same(stage, settings, inputs, folder: Path, report_of, at_least: int) -> None:
    """A stage makes the same bytes and results with interruptions as without."""
    (folder / "whole").mkdir()
    whole = stage(settings, inputs, folder / "whole", Report())
    result, interruptions = with_interruptions(stage, settings, inputs, folder / "parts", report_of)
    assert interruptions >= at_least
    assert result == whole
    made, expected = content(folder / "parts"), content(folder / "whole")
    assert sorted(made) == sorted(expected) and len(expected) >= 1
    assert [name for name in expected if made[name] != expected[name]] == []


@pytest.fixture
def condensed(squeezed, tmp_path):
    """Inputs with eight starting images, two of each class, two observers and their tables."""
    inputs = small_inputs_of(small_store())
    initialise(
        {"source": "real", "seed": 0, "ipc": 2, "replacement": "never", "flip": False, "shuffle_patches": 0, "save": None},
        inputs, tmp_path / "start", Report(),
    )  # fmt: skip
    folders = tuple(squeezed(name) for name in ("wrn-10-1", "convnet-d2-w16-bn"))
    inputs.folders |= {"images": (tmp_path / "start",), "observers": folders, "tables": folders}
    return inputs


class TestSqueeze:
    SETTINGS = {"squeeze__epochs": 3, "squeeze__batch_size": 20, "squeeze__weight_decay": 0.01, "squeeze__schedule": "one_cycle"}

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    @pytest.mark.parametrize("every", [1, 4])
    def test_stopped_every_few_steps(self, tmp_path, optimizer, every):
        settings = flat_settings(**self.SETTINGS, observer="resnet18-w8", squeeze__optimizer=optimizer)
        assert_the_same(squeeze, settings, small_inputs_of(small_store()), tmp_path, lambda: stopping_report(every), 9 // (every + 1))

    def test_killed_after_every_checkpoint(self, tmp_path):
        settings = flat_settings(**self.SETTINGS, observer="wrn-10-1")
        assert_the_same(squeeze, settings, small_inputs_of(small_store()), tmp_path, lambda: killing_report(2), 3)

    def test_dropout_draws_the_same_masks(self, tmp_path, monkeypatch):
        def with_dropout(name, classes, resolution):
            return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 49, classes))

        monkeypatch.setattr(training, "create_model", with_dropout)
        settings = flat_settings(**self.SETTINGS, observer="with dropout")
        assert_the_same(squeeze, settings, small_inputs_of(small_store()), tmp_path, lambda: stopping_report(1), 4)

    def test_only_epochs_that_count_are_trained_where_every_tenth_is_kept(self, tmp_path):
        logs = []
        settings = flat_settings(observer="wrn-10-1", squeeze__epochs=9, squeeze__batch_size=60, squeeze__checkpoint="every10")
        squeeze(settings, small_inputs_of(small_store()), tmp_path, Report(on_log=lambda text, level: logs.append(text)))
        assert "after 1 epochs" in logs[-1]

    def test_a_loss_that_is_no_number_fails_the_run_even_before_a_checkpoint(self, tmp_path):
        settings = flat_settings(observer="wrn-10-1", squeeze__epochs=3, squeeze__batch_size=20, squeeze__learning_rate=1e30)
        with pytest.raises(RunError, match="not a number.*lower the learning rate"):
            squeeze(settings, small_inputs_of(small_store()), tmp_path, Report())
        assert not (tmp_path / "observer.safetensors").exists()


class TestInitialise:
    @staticmethod
    def settings(source):
        rded = {"rded.factor": 2, "rded.candidates": 8, "rded.crops": 2, "rded.crop_scale": [0.1, 1.0], "rded.tile_order": "stratified"}
        given = {"source": source, "seed": 0, "ipc": 2, "replacement": "never", "flip": True, "shuffle_patches": 0, "save": None}
        return given | {"rded": rded}

    @pytest.mark.parametrize("source", ["noise", "real", "rded"])
    @pytest.mark.parametrize("report_of", [lambda: stopping_report(1), lambda: killing_report(1)], ids=["stopped", "killed"])
    def test_interrupted_every_class_or_two(self, squeezed, tmp_path, source, report_of):
        inputs = small_inputs_of(small_store(), scorer=(squeezed("convnet-d2-w16"),))
        assert_the_same(initialise, self.settings(source), inputs, tmp_path, report_of, 2)

    def test_goes_on_before_the_first_damaged_checkpoint_and_says_so(self, tmp_path):
        inputs, logs = small_inputs_of(small_store()), []
        for name in ("whole", "parts"):
            (tmp_path / name).mkdir()
        initialise(self.settings("real"), inputs, tmp_path / "whole", Report())
        with pytest.raises(Killed):
            initialise(self.settings("real"), inputs, tmp_path / "parts", killing_report(2))
        damaged = tmp_path / "parts" / "checkpoint-000001.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
        initialise(self.settings("real"), inputs, tmp_path / "parts", Report(on_log=lambda text, level: logs.append((level, text))))
        assert [level for level, _ in logs] == ["warning", "info"]
        assert "checkpoint-000001.safetensors" in logs[0][1] and logs[1][1] == "goes on after class 1"
        assert content(tmp_path / "parts") == content(tmp_path / "whole")


class TestStatistics:
    @pytest.mark.parametrize("name", ["wrn-10-1", "convnet-d2-w16"])
    def test_stopped_every_few_batches(self, squeezed, tmp_path, name):
        inputs = small_inputs_of(small_store(), observer=(squeezed(name),))
        settings = flat_settings(observer=name, statistics__batch_size=16)
        assert_the_same(statistics, settings, inputs, tmp_path, lambda: stopping_report(1), 2)

    def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(self, squeezed, tmp_path):
        inputs = small_inputs_of(small_store(), observer=(squeezed("wrn-10-1"),))
        settings = flat_settings(observer="wrn-10-1", statistics__batch_size=16)
        for folder in ("whole", "parts"):
            (tmp_path / folder).mkdir()
        statistics(settings, inputs, tmp_path / "whole", Report())
        with pytest.raises(Killed):
            statistics(settings, inputs, tmp_path / "parts", killing_report(2))
        (tmp_path / "parts" / "checkpoint.safetensors").write_bytes(b"")
        logs = []
        assert statistics(settings, inputs, tmp_path / "parts", Report(on_log=lambda text, level: logs.append(text))) == {"images": 60}
        assert "cannot be read" in logs[0] and logs[1] == "goes on after 2 batches"
        assert content(tmp_path / "parts") == content(tmp_path / "whole")


class TestSynthesise:
    SETTINGS = {"condense__ipc": 2, "synthesise__iterations": 5, "batch__size": 6, "batch__statistics": 3}

    @pytest.mark.parametrize("every", [0, 1, 2, 6])
    def test_stopped_every_few_iterations(self, condensed, tmp_path, every):
        settings = flat_settings(**self.SETTINGS)
        assert_the_same(synthesise, settings, condensed, tmp_path, lambda: stopping_report(every), 10 // (every + 1) - 1)

    @pytest.mark.parametrize(
        "changes",
        [
            {"flatness__kind": "stat_ema", "match__class_form": "per_class_sum"},
            {"flatness__kind": "sam"},
            {"match__ema_reset": False, "match__ema_start": "zero"},
            {"match__ema_reset": False, "batch__size": 4, "batch__statistics": 4},
            {"match__conv_drop": 0.5, "match__ema_start": "first"},
            {"match__class_source": "sampled_real"},
            {"observers__rotation": "random", "augment__crop_mode": "curriculum_linear"},
            {"observers__rotation": "all", "match__ema_momentum": 0.0, "flatness__kind": "two_crop"},
        ],
        ids=str,
    )
    def test_whatever_it_does_in_an_iteration(self, condensed, tmp_path, changes):
        assert_the_same(synthesise, flat_settings(**self.SETTINGS | changes), condensed, tmp_path, lambda: stopping_report(2), 2)

    def test_killed_after_every_third_checkpoint(self, condensed, tmp_path):
        assert_the_same(synthesise, flat_settings(**self.SETTINGS), condensed, tmp_path, lambda: killing_report(2), 3)

    def interrupted(self, condensed, tmp_path):
        """Two folders: one finished, one stopped in the second batch with two checkpoints."""
        settings = flat_settings(**self.SETTINGS)
        synthesise(settings, condensed, tmp_path / "whole", Report())
        (tmp_path / "parts").mkdir()
        with pytest.raises(Killed):
            synthesise(settings, condensed, tmp_path / "parts", killing_report(6))
        return settings, tmp_path / "parts" / "checkpoint.safetensors", tmp_path / "parts" / "checkpoint.previous.safetensors"

    def damage(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def resumed(self, settings, condensed, tmp_path) -> list[str]:
        logs: list[str] = []
        synthesise(settings, condensed, tmp_path / "parts", Report(on_log=lambda text, level: logs.append(f"{level}: {text}")))
        assert content(tmp_path / "parts") == content(tmp_path / "whole")
        return logs

    def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(self, condensed, tmp_path):
        settings, newest, previous = self.interrupted(condensed, tmp_path)
        assert newest.exists() and previous.exists()
        self.damage(newest)
        logs = self.resumed(settings, condensed, tmp_path)
        assert logs[0].startswith("warning:") and str(newest) in logs[0] and "checksum" in logs[0]
        assert logs[1] == "info: goes on from iteration 1 of batch 2 of 2"

    def test_a_checkpoint_cut_short_is_no_checkpoint(self, condensed, tmp_path):
        settings, newest, _ = self.interrupted(condensed, tmp_path)
        newest.write_bytes(newest.read_bytes()[:1000])
        assert "cannot be read" in self.resumed(settings, condensed, tmp_path)[0]

    def test_without_any_undamaged_checkpoint_it_starts_anew(self, condensed, tmp_path):
        settings, newest, previous = self.interrupted(condensed, tmp_path)
        self.damage(newest)
        self.damage(previous)
        logs = self.resumed(settings, condensed, tmp_path)
        assert len(logs) == 2 and all(line.startswith("warning:") for line in logs)

    def test_a_process_killed_between_the_renames_of_a_checkpoint_goes_on_from_the_one_before(self, condensed, tmp_path):
        settings, newest, _ = self.interrupted(condensed, tmp_path)
        newest.rename(newest.with_name("checkpoint.next.safetensors"))
        assert self.resumed(settings, condensed, tmp_path) == ["info: goes on from iteration 1 of batch 2 of 2"]


VIEWS = {"evaluate__epochs": 5, "evaluate__batch_size": 3, "evaluate__students": ["wrn-10-1"]}


class TestRelabel:
    @pytest.mark.parametrize("every", [0, 1])
    @pytest.mark.parametrize("limit", [5, 16])
    def test_stopped_every_few_chunks(self, condensed, tmp_path, monkeypatch, every, limit):
        monkeypatch.setattr(relabelling, "chunk_limit", lambda side: limit)
        settings = flat_settings(**VIEWS, labels__dtype="float16", seed=3)
        assert_the_same(relabel, settings, condensed, tmp_path, lambda: stopping_report(every), 1)
        assert not (tmp_path / "parts" / "progress.json").exists()

    @pytest.mark.parametrize(("damaged", "place"), [("logits.npy", 140), ("progress.json", 5), ("progress.json", 13)])
    def test_damaged_labels_of_an_earlier_attempt_are_told_and_made_anew(self, condensed, tmp_path, monkeypatch, damaged, place):
        monkeypatch.setattr(relabelling, "chunk_limit", lambda side: 5)
        settings, parts = flat_settings(**VIEWS, seed=3), tmp_path / "parts"
        for folder in ("whole", "parts"):
            (tmp_path / folder).mkdir()
        relabel(settings, condensed, tmp_path / "whole", Report())
        with pytest.raises(Stopped):
            relabel(settings, condensed, parts, stopping_report(1))
        data = bytearray((parts / damaged).read_bytes())
        data[place] ^= 1  # a label, the name of a number, the number of chunks
        (parts / damaged).write_bytes(data)
        logs = []
        relabel(settings, condensed, parts, Report(on_log=lambda text, level: logs.append(f"{level}: {text}")))
        assert len(logs) == 1 and logs[0].startswith("warning: ") and "logits.npy" in logs[0]
        assert content(parts) == content(tmp_path / "whole")

    def test_a_disk_without_room_for_the_labels_is_told_before_the_work(self, condensed, tmp_path):
        settings = flat_settings(**VIEWS, seed=3)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            with pytest.raises(RunError, match=r"cannot write .*logits.npy: File too large"):
                relabel(settings, condensed, tmp_path, Report())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not (tmp_path / "logits.npy").exists()

    def test_a_finished_file_that_is_shared_is_not_written_into(self, condensed, tmp_path):
        settings = flat_settings(**VIEWS, seed=3)
        (tmp_path / "run").mkdir()
        relabel(settings, condensed, tmp_path / "run", Report())
        kept = (tmp_path / "run" / "logits.npy").read_bytes()
        (tmp_path / "shared.npy").hardlink_to(tmp_path / "run" / "logits.npy")
        relabel(settings | {"seed": 4}, condensed, tmp_path / "run", Report())
        assert (tmp_path / "shared.npy").read_bytes() == kept != (tmp_path / "run" / "logits.npy").read_bytes()


class TestEvaluate:
    def settings(self, **changes):
        own = {"set": "condensed", "student": "wrn-10-1", "seed": 1, "condense__ipc": 2, "evaluate__every": 2}
        return flat_settings(**VIEWS | own | changes)

    @pytest.fixture(autouse=True)
    def small_pieces(self, monkeypatch):
        monkeypatch.setattr(evaluation, "chunk_limit", lambda side: 16)
        monkeypatch.setattr(evaluation, "RECALIBRATION_VIEWS", 20)

    @pytest.mark.parametrize("every", [0, 1, 4])
    def test_stopped_every_few_steps(self, condensed, tmp_path, every):
        assert_the_same(evaluate, self.settings(), condensed, tmp_path, lambda: stopping_report(every), 15 // (every + 1) - 1)

    @pytest.mark.parametrize(
        "changes",
        [
            {"evaluate__ema": 0.0},
            {"evaluate__ema_batchnorm": "online"},
            {"evaluate__ema_batchnorm": "ema", "evaluate__optimizer": "sgd"},
            {"evaluate__loss": "kl", "labels__mix": "mixup", "labels__ensemble": "norm_mean"},
            {"evaluate__loss": "dist", "labels__teacher_batchnorm": "train"},
            {"student": "convnet-d2-w16"},
        ],
        ids=str,
    )
    def test_whatever_it_trains_with(self, condensed, tmp_path, changes):
        assert_the_same(evaluate, self.settings(**changes), condensed, tmp_path, lambda: stopping_report(5), 2)

    def test_a_rate_that_follows_the_losses(self, condensed, tmp_path, monkeypatch):
        monkeypatch.setattr(evaluation.schedules, "alrs_factor", lambda previous, current, gamma: 0.5 if previous else 0.9)
        settings = self.settings(evaluate__schedule="alrs")
        assert_the_same(evaluate, settings, condensed, tmp_path, lambda: stopping_report(5), 2)

    def test_killed_after_every_fourth_checkpoint(self, condensed, tmp_path):
        assert_the_same(evaluate, self.settings(), condensed, tmp_path, lambda: killing_report(3), 3)

    def test_hard_labels_need_no_observer(self, condensed, tmp_path):
        del condensed.folders["observers"]
        assert_the_same(evaluate, self.settings(evaluate__loss="ce"), condensed, tmp_path, lambda: stopping_report(5), 2)

    def test_the_control_on_the_whole_dataset(self, tmp_path):
        settings = self.settings(set="full", evaluate__full_epochs=3, evaluate__full_batch_size=20)
        assert_the_full_control_is_the_same(settings, tmp_path)

    def test_dropout_draws_the_same_masks(self, condensed, tmp_path, monkeypatch):
        def with_dropout(name, classes, resolution):
            return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 49, classes))

        monkeypatch.setattr(training, "create_model", with_dropout)
        assert_the_same(evaluate, self.settings(), condensed, tmp_path, lambda: stopping_report(5), 2)

    def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(self, condensed, tmp_path):
        (tmp_path / "whole").mkdir()
        whole = evaluate(self.settings(), condensed, tmp_path / "whole", Report())
        (tmp_path / "parts").mkdir()
        with pytest.raises(Killed):
            evaluate(self.settings(), condensed, tmp_path / "parts", killing_report(7))
        newest = tmp_path / "parts" / "checkpoint.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1] + b"x")
        logs = []
        report = Report(on_log=lambda text, level: logs.append(f"{level}: {text}"))
        result = evaluate(self.settings(), condensed, tmp_path / "parts", report)
        assert result == whole and content(tmp_path / "parts") == content(tmp_path / "whole")
        assert [line for line in logs if line.startswith("warning:") and "checksum" in line]
        assert "info: goes on from epoch 3 of 5" in logs

    @pytest.mark.parametrize("student", ["mobilenet-v2", "resnet18-w8"])
    def test_a_view_left_over_by_the_batches_is_trained_with_the_others(self, condensed, tmp_path, student):
        settings = self.settings(student=student, evaluate__batch_size=7, evaluate__epochs=2, labels__teacher_batchnorm="train")
        assert evaluate(settings, condensed, tmp_path, Report())["updates"] == 2  # alone it would have maps of one pixel

    def test_a_loss_that_is_no_number_fails_the_run(self, condensed, tmp_path):
        with pytest.raises(RunError, match=r"not a number after epoch \d; lower evaluate.learning_rate"):
            evaluate(self.settings(evaluate__learning_rate=1e30, evaluate__optimizer="sgd"), condensed, tmp_path, Report())


def test_every_view_is_trained_with_its_own_and_its_partners_class(condensed, tmp_path, monkeypatch):
    seen = []
    plain = evaluation.student_loss

    def watched(settings, student, teacher, labels, partners, share):
        seen.append((labels.tolist(), partners.tolist(), share.tolist()))
        return plain(settings, student, teacher, labels, partners, share)

    monkeypatch.setattr(evaluation, "student_loss", watched)
    monkeypatch.setattr(evaluation, "chunk_limit", lambda side: 17)
    own = {"set": "condensed", "student": "convnet-d2-w16", "seed": 1, "condense__ipc": 2}
    settings = flat_settings(**VIEWS | own)
    evaluate(settings, condensed, tmp_path, Report())
    labels, expected = torch.arange(8) // 2, []
    for epoch in range(5):
        views = draw_epoch(8, 16, epoch, ViewSettings.of(settings, seed_for("labels", 1)))
        for first, last in ((0, 3), (3, 6), (6, 8)):
            classes = labels[views.index]
            part = slice(first, last)
            expected.append((classes[part].tolist(), classes[views.partner][part].tolist(), views.share[part].tolist()))
    assert seen == expected


class TestHalfPrecision:
    """What `auto` means on a recent CPU."""

    def test_synthesis(self, condensed, tmp_path):
        inputs = replace(condensed, precision="bfloat16")
        assert_the_same(synthesise, flat_settings(**TestSynthesise.SETTINGS), inputs, tmp_path, lambda: stopping_report(2), 2)

    def test_training_of_an_observer(self, tmp_path):
        inputs = replace(small_inputs_of(small_store()), precision="bfloat16")
        settings = flat_settings(**TestSqueeze.SETTINGS, observer="resnet18-w8")
        assert_the_same(squeeze, settings, inputs, tmp_path, lambda: stopping_report(3), 2)

    def test_training_of_a_student(self, condensed, tmp_path, monkeypatch):
        monkeypatch.setattr(evaluation, "RECALIBRATION_VIEWS", 20)
        own = {"set": "condensed", "student": "wrn-10-1", "seed": 1, "condense__ipc": 2, "evaluate__every": 2}
        inputs = replace(condensed, precision="bfloat16")
        assert_the_same(evaluate, flat_settings(**VIEWS | own), inputs, tmp_path, lambda: stopping_report(5), 2)


def assert_the_full_control_is_the_same(settings, folder: Path) -> None:
    """The control writes no file of its own, so its accuracies and its last checkpoint's weights are compared."""
    inputs = small_inputs_of(small_store())
    (folder / "whole").mkdir()
    whole = evaluate(settings, inputs, folder / "whole", Report())
    result, interruptions = with_interruptions(evaluate, settings, inputs, folder / "parts", lambda: stopping_report(3))
    assert result == whole and interruptions == 2


class TestStoredLabels:
    def test_a_student_sees_the_views_that_were_labelled(self, condensed, tmp_path, monkeypatch):
        """With logits of float32, reading labels and asking the observers for the views of the same seed is the same training."""
        own = {"set": "condensed", "student": "wrn-10-1", "seed": 1, "condense__ipc": 2, "labels__dtype": "float32"}
        settings = flat_settings(**VIEWS | own)
        monkeypatch.setattr(relabelling, "chunk_limit", lambda side: 7)
        monkeypatch.setattr(evaluation, "RECALIBRATION_VIEWS", 20)
        (tmp_path / "labels").mkdir()
        relabel(settings | {"seed": 5}, condensed, tmp_path / "labels", Report())
        write_json(tmp_path / "labels" / "done.json", {"settings": {"seed": 5}})
        assert read_json(tmp_path / "labels" / "done.json")["settings"]["seed"] == 5

        losses = {"stored": [], "online": []}
        stored = small_inputs_of(condensed.store, images=condensed.folders["images"], labels=(tmp_path / "labels",))
        monkeypatch.setattr(evaluation, "seed_for", lambda *items: 5 if items[0] == "labels" else 0)
        for name, inputs in (("stored", stored), ("online", condensed)):
            (tmp_path / name).mkdir()
            told = losses[name]
            report = Report(on_metrics=lambda step, values, told=told: told.append(values["loss"]) if "loss" in values else None)
            evaluate(settings, inputs, tmp_path / name, report)
        assert len(losses["stored"]) == 5
        assert losses["stored"] == pytest.approx(losses["online"], rel=1e-3)

    @pytest.mark.parametrize("storage", ["top-k", "8-bit"])
    def test_packed_labels_are_packed_logits_also_after_interruptions(self, condensed, tmp_path, monkeypatch, storage):
        monkeypatch.setattr(relabelling, "chunk_limit", lambda side: 16)
        settings = flat_settings(**VIEWS, labels__storage=storage, labels__top_k=2, seed=3)
        assert_the_same(relabel, settings, condensed, tmp_path, lambda: stopping_report(1), 1)
        (tmp_path / "full").mkdir()
        relabel(settings | {"labels.storage": "full", "labels.dtype": "float32"}, condensed, tmp_path / "full", Report())
        rows, logits = (np.load(tmp_path / name / "logits.npy") for name in ("whole", "full"))
        assert (rows == packed(logits, row_type(storage, "float16", 4, 2))).all()

    def test_labels_of_float16_are_those_of_float32_rounded(self, condensed, tmp_path):
        logits = {}
        for kind in ("float16", "float32"):
            (tmp_path / kind).mkdir()
            result = relabel(flat_settings(**VIEWS, labels__dtype=kind, seed=5), condensed, tmp_path / kind, Report())
            logits[kind] = np.load(tmp_path / kind / "logits.npy")
            assert logits[kind].shape == (40, 4) and logits[kind].dtype == kind
            assert result == {"label_bytes": 40 * 4 * int(kind[5:]) // 8, "views": 40}
        assert (logits["float32"].astype("float16") == logits["float16"]).all()
        assert torch.isfinite(torch.from_numpy(logits["float32"])).all()
