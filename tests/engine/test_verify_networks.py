"""What a verification measures with networks: by hand, and on small real runs on the digits, whole, tampered with and unfinished."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.compute.checkpoint import load_tensors, save_tensors
from engine.data.catalogue import locate_dataset
from engine.data.condensed import read_condensed, write_condensed
from engine.files import digest_file, write_json
from engine.project.frozen import freeze
from engine.project.planner import make_plan
from engine.project.resolve import resolve
from engine.project.warnings import highest_ema
from engine.runs.compare import read_facts
from engine.runs.events import EventLog
from engine.runs.layout import Run
from engine.runs.store import create_run, read_run_toml
from engine.runs.verify import findings
from engine.runs.weights import weight_count
from engine.stages.averaging import capped_momentum
from engine.stages.cache import cache_folder
from engine.stages.pipeline import Pipeline
from engine.stages.verify import answers_of, batch_norm_problem, best_order, confusion, duplicates, extreme_share, measure_run, spread_rows

TEACHER = "convnet-d2-w16-bn"
SETTINGS = {
    "dataset.name": "digits",
    "condense.ipc": 5,
    "condense.method": "edc",
    "observers.synthesis": [TEACHER],
    "observers.labels": [TEACHER],
    "squeeze.epochs": 6,
    "synthesise.iterations": 10,
    "evaluate.students": ["convnet-d1-w8"],
    "evaluate.seeds": [0],
    "evaluate.epochs": 20,
    "evaluate.batch_size": 10,
    "evaluate.every": 20,
    "evaluate.hard_labels": False,
    "evaluate.controls": ["noise"],
    "compute.threads": 1,
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    return tmp_path_factory.mktemp("projects")


@pytest.fixture(scope="module")
def made(projects):
    """Return a function that runs the project with other values to a stage, each once."""
    runs: dict[str, Run] = {}

    def run(until: str = "evaluate", **values) -> Run:
        given = SETTINGS | {name.replace("__", "."): value for name, value in values.items()}
        name = f"run-{len(runs)}"
        if (key := json.dumps([given, until])) not in runs:
            resolved, problems = resolve(given, resolution=16)
            assert problems == []
            plan = make_plan(resolved.project, locate_dataset(resolved.project, cache=None), device="cpu", precision="float32", until=until)
            runs[key] = create_run(projects, name, freeze(resolved, plan, until=until))
            with EventLog(runs[key].events) as events:
                pipeline = Pipeline(
                    plan, runs[key], cache_folder(projects), events, stop_wanted=lambda: False, on_progress=lambda *told: None
                )
                pipeline.execute()
        return runs[key]

    return run


def found(run: Run) -> dict[str, list]:
    """Return the findings about a run by their checks."""
    listed = findings(run, read_facts(run), measure_run(run, read_run_toml(run)))
    return {check: [one for one in listed if one.check == check] for check in dict.fromkeys(one.check for one in listed)}


def verdicts(run: Run, check: str) -> list[str]:
    return [one.verdict for one in found(run)[check]]


def copied(run: Run, folder: Path) -> Run:
    """A copy of a run, to be tampered with, beside the others so that it finds their cache."""
    target = run.folder.parents[2] / folder.name / "runs" / run.id
    shutil.copytree(run.folder, target)
    return Run(target, run.id, folder.name)


class TestAnswers:
    def test_a_network_that_knows_its_classes_by_other_names_is_seen_through(self):
        labels = np.repeat(np.arange(4), 10)
        answers = answers_of((labels + 1) % 4, labels, "abcd")
        assert (answers.top1, answers.best, answers.permuted) == (0, 100, True)
        assert answers.moved == (("a", "b"), ("b", "c"), ("c", "d"), ("d", "a"))

    def test_two_exchanged_classes_among_many_are_found(self):
        labels = np.repeat(np.arange(30), 10)
        swapped = labels.copy()
        swapped[labels == 3], swapped[labels == 17] = 17, 3
        answers = answers_of(swapped, labels, [f"class {number}" for number in range(30)])
        assert (round(answers.top1, 1), answers.best, answers.permuted) == (93.3, 100, True)
        assert answers.moved == (("class 3", "class 17"), ("class 17", "class 3"))

    def test_answers_without_knowledge_fit_no_order_better_than_chance(self):
        labels = np.repeat(np.arange(10), 20)
        for seed in range(20):
            predicted = np.random.default_rng(seed).integers(0, 10, len(labels))
            assert not answers_of(predicted, labels, "abcdefghij").permuted

    def test_one_answer_for_everything_is_no_order(self):
        labels = np.repeat(np.arange(10), 20)
        assert not answers_of(np.full_like(labels, 7), labels, "abcdefghij").permuted

    def test_a_few_mistakes_are_no_order(self):
        labels = np.repeat(np.arange(5), 8)
        predicted = labels.copy()
        predicted[::7] = (predicted[::7] + 1) % 5
        answers = answers_of(predicted, labels, "abcde")
        assert answers.best == answers.top1 and not answers.permuted

    def test_the_best_order_is_that_of_a_search_through_all(self):
        from itertools import permutations

        table = np.random.default_rng(0).integers(0, 9, (5, 5))
        best = max(sum(table[row, column] for row, column in enumerate(order)) for order in permutations(range(5)))
        assert table[np.arange(5), best_order(table)].sum() == best

    def test_a_confusion_counts_each_image_once(self):
        assert confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 1]), 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


class TestPixels:
    def test_an_image_under_two_classes_and_one_twice_in_its_own(self):
        images = np.zeros((5, 3, 2, 2), np.uint8)
        for index, value in enumerate((1, 1, 2, 3, 3)):
            images[index] = value
        assert duplicates(images, np.array([0, 1, 1, 2, 2])) == (2, 1)
        assert duplicates(images[[0, 2, 3]], np.array([0, 1, 2])) == (0, 0)

    def test_extreme_pixels_are_the_blackest_and_the_whitest(self):
        assert extreme_share(np.array([0, 255, 1, 254], np.uint8)) == 0.5


def test_rows_are_spread_over_the_classes():
    assert spread_rows(4, 10).tolist() == [0, 1, 2, 3]
    rows = spread_rows(10_000, 2000)
    assert (len(rows), rows[0], rows[-1]) == (2000, 0, 9999)
    assert np.bincount(rows // 1000).tolist() == [200] * 10


class TestBatchNorm:
    def network(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        model(torch.randn(5, 3, 2, 2))
        return model

    def test_one_that_was_trained_is_fine(self):
        assert batch_norm_problem(self.network()) == ""

    def test_statistics_that_were_never_taken(self):
        assert "never taken" in batch_norm_problem(nn.Sequential(nn.BatchNorm2d(4)))

    def test_statistics_that_are_no_numbers(self):
        model = self.network()
        model[1].running_mean[2] = torch.nan
        assert "1: " in batch_norm_problem(model) and "no numbers" in batch_norm_problem(model)

    def test_a_negative_variance(self):
        model = self.network()
        model[1].running_var[0] = -1.0
        assert "negative" in batch_norm_problem(model)


class TestRuns:
    def test_a_sound_run_has_nothing_wrong(self, made):
        run = made()
        checks = found(run)
        assert {one.check: one.measured for several in checks.values() for one in several if one.verdict == "wrong"} == {}
        recorded = json.loads((run.stages / f"1-squeeze/{TEACHER}/done.json").read_text())["result"]["top1"]
        assert f"{TEACHER}: {recorded:.1f} % of 599 test images, {recorded:.1f} % when it was squeezed" in checks["observer"][0].measured
        assert [one.verdict for one in checks["class order"]] == ["fine"]
        assert checks["loss terms"] and checks["losses"][0].verdict == "fine"

    def test_noise_teaches_nothing_where_observers_label_with_their_own_statistics(self, made):
        run = made()
        (row,) = [row for row in json.loads(run.summary.read_text())["results"] if row["set"] == "noise"]
        assert abs(row["top1"]["mean"] - 10) < 5
        assert verdicts(run, "label floor") == ["fine"]

    def test_a_teacher_in_train_mode_leaves_its_own_statistics_untouched(self, made):
        run = made(labels__teacher_batchnorm="train")
        folder = run.stages / f"1-squeeze/{TEACHER}"
        done = json.loads((folder / "done.json").read_text())
        assert digest_file(folder / "observer.safetensors") == done["files"]["observer.safetensors"]["sha256"]
        measured = measure_run(run, read_run_toml(run)).observers[0]
        assert measured.answers.top1 == pytest.approx(done["result"]["top1"]) == pytest.approx(measured.recorded)

    def test_condensed_images_under_permuted_labels_are_found(self, made, tmp_path):
        run = copied(made(), tmp_path)
        folder = run.stages / "4-synthesise/condensed"
        given = read_condensed(folder)
        (folder / "images.safetensors").unlink()  # it is shared with the cache
        about = {"classes": given.classes, "mean": given.mean, "std": given.std, "metadata": given.metadata}
        write_condensed(folder, given.images, (given.labels + 1) % 10, **about)
        (finding,) = found(run)["classes of the images"]
        assert finding.verdict == "wrong" and "0 is called 9" in finding.measured

    def test_an_observer_whose_classes_are_permuted_is_found(self, made, tmp_path):
        run = copied(made(), tmp_path)
        path = run.stages / f"1-squeeze/{TEACHER}/observer.safetensors"
        tensors, values = load_tensors(path)
        names = [name for name, value in tensors.items() if value.shape[:1] == (10,)]
        path.unlink()
        save_tensors(path, {name: value.roll(1, 0) if name in names else value for name, value in tensors.items()}, values)
        checks = found(run)
        assert checks["observer"][0].verdict == checks["class order"][0].verdict == "wrong"
        assert "0 is called 1" in checks["class order"][0].measured

    def test_an_observer_of_other_classes_is_wrong(self, made, tmp_path):
        run = copied(made(), tmp_path)
        path = run.stages / f"1-squeeze/{TEACHER}/observer.safetensors"
        tensors, values = load_tensors(path)
        path.unlink()
        save_tensors(path, tensors, values | {"classes": values["classes"][::-1]})
        (finding,) = found(run)["observer"]
        assert finding.verdict == "wrong" and "in another order" in finding.measured

    def test_a_damaged_observer_is_a_finding_and_no_traceback(self, made, tmp_path):
        run = copied(made(), tmp_path)
        path = run.stages / f"1-squeeze/{TEACHER}/observer.safetensors"
        path.unlink()
        path.write_bytes(b"torn")
        assert verdicts(run, "observer") == ["wrong"]

    def test_a_run_that_is_not_finished_is_verified_as_far_as_it_goes(self, made):
        checks = found(made(until="squeeze"))
        assert checks["observer"][0].verdict == "fine"
        assert "classes of the images" not in checks and "over random" not in checks

    def test_data_that_are_not_here_leave_the_files_to_be_read(self, made, tmp_path):
        run = copied(made(), tmp_path)
        text = run.run_toml.read_text()
        fingerprint = read_run_toml(run)["frozen"]["data_fingerprint"]
        run.run_toml.write_text(text.replace(fingerprint, "0" * len(fingerprint)))
        checks = found(run)
        assert checks["observers"][0].verdict == "look" and "not those" in checks["observers"][0].measured
        assert checks["losses"] and "observer" not in checks


def test_the_cap_that_is_warned_of_is_the_one_that_is_applied():
    assert all(capped_momentum(0.9999, updates) == min(0.9999, highest_ema(updates)) for updates in (5, 10, 200, 12_345, 10**6))


class TestBytes:
    @pytest.mark.parametrize("mode", ["online", "stored", "fixed"])
    def test_the_estimate_is_within_two_percent_of_the_truth(self, made, mode):
        run = made(labels__mode=mode)
        told = json.loads(run.summary.read_text())["bytes"]
        estimate = told.pop("estimate")
        truth = {"images": read_condensed(run.stages / "4-synthesise/condensed").images.nbytes, "labels": 0, "teachers": 0}
        if mode == "online":
            tensors = load_file(run.stages / f"1-squeeze/{TEACHER}/observer.safetensors")
            truth["teachers"] = 4 * sum(
                value.numel() for name, value in tensors.items() if "running" not in name and "num_batches" not in name
            )
        else:
            truth["labels"] = np.load(run.stages / "5-relabel/condensed/logits.npy", mmap_mode="r").nbytes
        assert told == truth
        assert all(abs(estimate[name] - truth[name]) <= 0.02 * truth[name] for name in truth)
        assert (truth["labels"] > 0, truth["teachers"] > 0) == (mode != "online", mode == "online")

    def test_what_is_not_made_yet_is_none(self, made):
        told = json.loads(made(until="squeeze").summary.read_text())["bytes"]
        assert told["images"] is None and told["estimate"]["images"] == 5 * 10 * 3 * 16 * 16

    def test_a_file_that_is_no_network_has_no_weights(self, tmp_path):
        assert weight_count(tmp_path / "missing") is None
        (tmp_path / "torn").write_bytes(b"\0" * 5)
        assert weight_count(tmp_path / "torn") is None
        write_json(tmp_path / "other", {})
        assert weight_count(tmp_path / "other") is None
        save_file({"a": torch.zeros(2, 3), "running_mean": torch.zeros(7), "index": torch.zeros(4, dtype=torch.int64)}, tmp_path / "whole")
        assert weight_count(tmp_path / "whole") == 6


def test_scores_stand_in_the_summary(made):
    (told,) = json.loads(made().summary.read_text())["scores"]
    assert told["student"] == "convnet-d1-w8" and told["lrs"]["ior"] is None and len(told["lrs"]["missing"]) == 3
