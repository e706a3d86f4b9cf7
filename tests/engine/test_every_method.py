"""Every method and compat profile on digits from start to summary, much reduced, with one cache for all of them."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from engine.data.catalogue import locate_dataset
from engine.data.condensed import CondensedDataset, read_condensed
from engine.project.checks import combination_problems
from engine.project.frozen import freeze
from engine.project.plan import Plan
from engine.project.planner import make_plan
from engine.project.resolve import method_names, resolve
from engine.runs.events import EventLog, read_all
from engine.runs.layout import Run
from engine.runs.store import create_run
from engine.stages.cache import cache_folder
from engine.stages.pipeline import Pipeline

METHODS = ["random", "sre2l", "cda", "rded", "g-vbsm", "edc", *(f"config-{letter}" for letter in "abcdefg")]
PROFILES = ["edc-head", "edc-9836066"]
SETTINGS = {
    "dataset.name": "digits",
    "condense.ipc": 2,
    "squeeze.epochs": 1,
    "synthesise.iterations": 10,
    "evaluate.students": ["convnet-d1-w8"],
    "evaluate.seeds": [0],
    "evaluate.epochs": 4,
    "evaluate.batch_size": 10,
    "evaluate.every": 4,
    "evaluate.controls": ["random"],
    "evaluate.hard_labels": False,
    "compute.threads": 1,
}
TWO = ["resnet18-w8", "convnet-d1-w8"]
ONE_OBSERVER = ("sre2l", "cda", "rded")  # whose papers have one, and it must have batch norm


@dataclass
class Finished:
    """A finished run with its plan, its summary, and the steps that the cache held before it."""

    run: Run
    plan: Plan
    summary: dict
    held: set[str]

    def folder(self, step_id: str) -> Path:
        """Return a step's folder in the run."""
        return self.run.stages / self.plan.step(step_id).folder

    @property
    def condensed(self) -> CondensedDataset:
        """Return the condensed set."""
        return read_condensed(self.run.folder / self.summary["condensed"]["folder"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a function that runs a method or a compat profile, once, in a projects folder that all share."""
    projects, runs = tmp_path_factory.mktemp("projects"), {}
    cache = cache_folder(projects)

    def run(name: str) -> Finished:
        if name in runs:
            return runs[name]
        observers = TWO[:1] if name in ONE_OBSERVER else TWO
        named = {"condense.method": "edc", "condense.compat": name} if name in PROFILES else {"condense.method": name}
        given = SETTINGS | named | {"observers.synthesis": observers, "observers.labels": observers}
        resolved, problems = resolve(given | ({"rded.candidates": 20} if name == "rded" else {}), resolution=16)
        assert problems == [] and combination_problems(resolved) == []
        source = locate_dataset(resolved.project, cache=cache)
        plan = make_plan(resolved.project, source, device="cpu", precision="float32")
        created = create_run(projects, name, freeze(resolved, plan, until="evaluate"))
        held = {path.name for path in cache.glob("*/*") if path.is_dir()}
        with EventLog(created.events) as events:
            Pipeline(plan, created, cache, events, stop_wanted=lambda: False, on_progress=lambda *told: None).execute()
        runs[name] = Finished(created, plan, json.loads(created.summary.read_text()), held)
        return runs[name]

    return run


def test_none_is_forgotten():
    assert sorted(METHODS) == method_names()


every_run = pytest.mark.parametrize("name", METHODS + PROFILES)


@every_run
def test_the_run_ends_with_a_condensed_set_of_the_right_size(finished, name):
    condensed = finished(name).condensed
    assert condensed.images.dtype == torch.uint8
    assert condensed.images.shape == (20, 3, 16, 16)
    assert condensed.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert condensed.images.flatten(1).float().std(1).min() > 1


@every_run
def test_the_summary_says_what_was_found(finished, name):
    done = finished(name)
    summary, method = done.summary, "edc" if name in PROFILES else name
    assert (summary["schema"], summary["status"], summary["run"], summary["project"]) == (1, "done", done.run.id, name)
    assert (summary["dataset"], summary["method"], summary["ipc"], summary["device"]) == ("digits", method, 2, "cpu")
    stages = [stage for stage in ("squeeze", "statistics", "initialise", "synthesise", "relabel", "evaluate") if stage in summary["stages"]]
    assert list(summary["stages"]) == stages == list(dict.fromkeys(step.stage for step in done.plan.steps))
    assert all(stage["status"] == "done" and stage["steps_done"] == stage["steps"] for stage in summary["stages"].values())
    assert summary["condensed"]["images"] == 20 and summary["condensed"]["image_bytes"] == 20 * 3 * 16 * 16
    # float16 logits of 10 classes for 20 views in each of 4 epochs
    assert summary["condensed"]["label_bytes"] == (1600 if "relabel" in stages else 0)
    assert [(row["set"], row["student"], row["seeds"]) for row in summary["results"]] == [
        ("condensed", "convnet-d1-w8", [0]),
        ("random", "convnet-d1-w8", [0]),
    ]
    for row in summary["results"]:
        assert 0 < row["top1"]["mean"] <= row["top5"]["mean"] <= 100 and row["top1"]["values"] == [row["top1"]["mean"]]
        assert row["top1"]["std"] is None and row["updates"] == 8
    condensed, random = summary["results"]
    assert condensed["over_random"]["mean"] == pytest.approx(condensed["top1"]["mean"] - random["top1"]["mean"], abs=2e-3)
    assert 10 < summary["observers"]["resnet18-w8"] <= 100


@every_run
def test_every_number_on_the_way_is_finite(finished, name):
    done = finished(name)
    training = [step.id for step in done.plan.steps if step.stage in ("squeeze", "synthesise", "evaluate")]
    told = [read_all(done.folder(step_id) / "metrics.jsonl") for step_id in training]
    assert all(told)
    for lines in told:
        assert all(isinstance(value, float | int) and math.isfinite(value) for line in lines for value in line["k"].values())


@every_run
def test_a_run_reuses_what_runs_before_it_made_and_nothing_else(finished, name):
    done = finished(name)
    reused = {step.id for step in done.plan.steps if done.summary["steps"][step.id]["reused"]}
    assert reused == {step.id for step in done.plan.steps if step.fingerprint in done.held}


def test_each_observer_was_squeezed_and_passed_over_once_for_all(finished):
    made = Counter()
    for name in METHODS + PROFILES:
        computed = [step_id for step_id, facts in finished(name).summary["steps"].items() if not facts["reused"]]
        made.update(step_id for step_id in computed if step_id.startswith(("squeeze/", "statistics/")))
    assert made == {f"{stage}/{observer}": 1 for stage in ("squeeze", "statistics") for observer in TWO}


def test_methods_have_images_of_their_own_but_for_steps_of_the_ladder_that_change_labels_and_students_only(finished):
    alike = {}
    for name in METHODS + PROFILES:
        alike.setdefault(finished(name).condensed.images.numpy().tobytes(), []).append(name)
    expected = [["g-vbsm", "config-a"], ["config-b", "config-c"], ["config-d", "config-e"]]
    assert [names for names in alike.values() if len(names) > 1] == expected
    assert len(alike) == len(METHODS + PROFILES) - 3


@pytest.mark.parametrize("name", ["random", "rded"])
def test_what_is_not_optimised_stays_real(finished, name):
    done = finished(name)
    assert "synthesise" not in done.summary["stages"]
    images = done.condensed.images
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])  # grey, as digits are


@pytest.mark.parametrize("name", [name for name in METHODS + PROFILES if name not in ("random", "rded")])
def test_every_image_was_optimised(finished, name):
    done = finished(name)
    start = read_condensed(done.folder("initialise/condensed"))
    moved = (done.condensed.images.int() - start.images.int()).abs().flatten(1).float().mean(1)
    assert (moved > 1).all()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_leaves_jpeg_files_and_the_best_on_the_test_set_as_the_release_does(finished, name):
    done = finished(name)
    assert len(list((done.run.folder / done.summary["condensed"]["folder"]).glob("jpeg/*/*.jpg"))) == 20
    assert done.summary["select"] == "best_on_test"
    assert finished("edc").summary["select"] == "last"
