"""Whole runs through `edc run`, as a user starts them; processes are really killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = """schema = 1
[dataset]
name = "digits"
[condense]
method = "edc"
ipc = 2
[observers]
synthesis = ["convnet-d2-w16", "resnet18-w8"]
labels = ["convnet-d2-w16"]
[squeeze]
epochs = 1
[synthesise]
iterations = 40
[batch]
size = 10
[evaluate]
hard_labels = false
controls = ["random"]
students = ["convnet-d2-w16"]
seeds = [0, 1]
epochs = 30
batch_size = 10
every = 15
[compute]
threads = 1
precision = "float32"
checkpoint_seconds = 0
"""
RECIPES = Path(__file__).parents[2] / "projects"


def edc(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "engine.cli", *map(str, arguments)]


def run(*arguments: str | Path, expect: int = 0) -> str:
    done = subprocess.run(edc(*arguments), capture_output=True, text=True, timeout=240)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def latest(projects: Path, name: str) -> Path:
    return max((projects / name / "runs").iterdir())


def first_of(finished: Path) -> Path:
    """Return the run of `a` that computed everything, undisturbed."""
    return min((finished / "a" / "runs").glob("2*"))


def images_of(folder: Path) -> bytes:
    return (folder / "stages/4-synthesise/condensed/images.safetensors").read_bytes()


def results_of(folder: Path) -> list[dict]:
    return json.loads((folder / "summary.json").read_text())["results"]


def reused_of(folder: Path) -> dict[str, bool]:
    return {step: facts["reused"] for step, facts in json.loads((folder / "summary.json").read_text())["steps"].items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A projects folder with one finished run of the small project `a`."""
    projects = tmp_path_factory.mktemp("projects")
    (projects / "a.toml").write_text(PROJECT)
    run("run", projects / "a.toml")
    return projects


class TestAFinishedRun:
    def test_has_results_for_the_condensed_set_and_the_random_control(self, finished: Path) -> None:
        rows = {row["set"]: row for row in results_of(latest(finished, "a"))}
        assert set(rows) == {"condensed", "random"}
        assert all(row["seeds"] == [0, 1] and 0 <= row["top1"]["mean"] <= 100 for row in rows.values())

    def test_has_a_contact_sheet_beside_the_images(self, finished: Path) -> None:
        assert (latest(finished, "a") / "stages/4-synthesise/condensed/contact-sheet.png").read_bytes().startswith(b"\x89PNG")

    def test_run_again_reuses_every_step(self, finished: Path) -> None:
        began = time.monotonic()
        run("run", finished / "a.toml")
        assert all(reused_of(latest(finished, "a")).values())
        assert time.monotonic() - began < 30

    def test_another_zeta_trains_the_students_anew_and_nothing_else(self, finished: Path) -> None:
        run("run", finished / "a.toml", "--set", "evaluate.zeta=1.5")
        reused = reused_of(latest(finished, "a"))
        assert {step.split("/")[0] for step, was in reused.items() if not was} == {"evaluate"}
        assert not any(was for step, was in reused.items() if step.startswith("evaluate"))

    def test_two_projects_of_one_seed_make_the_same_bytes(self, finished: Path, tmp_path: Path) -> None:
        (tmp_path / "b.toml").write_text(PROJECT)
        run("run", tmp_path / "b.toml", "--until", "synthesise")
        assert images_of(first_of(finished)) == images_of(latest(tmp_path, "b"))

    def test_a_copied_run_folder_is_whole_by_itself(self, finished: Path, tmp_path: Path) -> None:
        import shutil

        copy = tmp_path / "elsewhere"
        first = first_of(finished)
        shutil.copytree(first, copy)
        shown = json.loads(run("show", copy, "--json"))
        assert shown["results"] == results_of(first)


class TestAKilledRun:
    def kill_in(self, projects: Path, name: str, stage: str) -> Path:
        """Start the project and kill the worker with SIGKILL once a step of `stage` has two checkpoints; return the run's folder."""
        process = subprocess.Popen(edc("run", projects / f"{name}.toml"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while not list(projects.glob(f"{name}/runs/2*/stages/*-{stage}/*/checkpoint.previous.safetensors")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, f"never saw a checkpoint of {stage}"
            time.sleep(0.01)
        folder = latest(projects, name)
        os.kill(json.loads((folder / "process.json").read_text())["worker"]["pid"], signal.SIGKILL)
        assert process.wait(timeout=30) == 1
        return folder

    @pytest.mark.parametrize("stage", ["synthesise", "evaluate"])
    def test_resumes_to_the_same_bytes_and_accuracies(self, finished: Path, tmp_path: Path, stage: str) -> None:
        (tmp_path / "k.toml").write_text(PROJECT)
        folder = self.kill_in(tmp_path, "k", stage)
        shown = json.loads(run("show", folder, "--json"))
        assert (shown["status"], shown["stages"][stage]["status"]) == ("killed", "running")
        run("run", tmp_path / "k.toml")
        assert latest(tmp_path, "k") == folder, "the interrupted run is taken up, no new one begun"
        assert "goes on from" in (folder / "events.jsonl").read_text()
        assert images_of(folder) == images_of(first_of(finished))
        assert results_of(folder) == results_of(first_of(finished))


def test_the_quickstart_recipe_runs_at_reduced_size(tmp_path: Path) -> None:
    (tmp_path / "quickstart.toml").write_text((RECIPES / "quickstart.toml").read_text())
    small = [
        "squeeze.epochs=1",
        "synthesise.iterations=5",
        "evaluate.epochs=10",
        "evaluate.full_epochs=1",
        "evaluate.seeds=[0]",
        "compute.threads=1",
    ]
    run("run", tmp_path / "quickstart.toml", *(part for item in small for part in ("--set", item)))
    rows = {row["set"]: row["top1"]["mean"] for row in results_of(latest(tmp_path, "quickstart"))}
    assert set(rows) == {"condensed", "random", "full"}


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid(recipe: Path) -> None:
    from engine.project.files import load_project
    from engine.project.sweep import read_sweep

    if "[sweep]" not in recipe.read_text():
        load_project(recipe)
        return
    for point in read_sweep(recipe).points:
        load_project(recipe, swept=point.values)
