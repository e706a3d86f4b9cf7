"""`edc evaluate` from end to end: images of another tool become a run like any other, and give what they give inside the tool."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from small_project import edc, make_projects

from engine import CondensedDataset
from engine.data.condensed import write_condensed
from engine.data.header import read_header
from engine.data.sources import ClassIndex
from engine.project.files import load_project
from engine.runs.store import find_run


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """The project `small` and one run of it."""
    folder = make_projects(tmp_path_factory.mktemp("evaluate") / "projects")
    edc(folder, "run", "small")
    return folder


@pytest.fixture(scope="module")
def exported(projects):
    """The images of that run as PNG files."""
    condensed = CondensedDataset.open(find_run(projects, "small").folder)
    condensed.as_png(projects.parent / "exported")
    return projects.parent / "exported"


def summary_of(projects, name):
    return json.loads(find_run(projects, name).summary.read_text())


def without_folders(summary):
    return [{key: row[key] for key in ("set", "student", "seeds", "top1", "top5", "updates")} for row in summary["results"]]


def test_exported_images_give_the_accuracy_that_they_had_inside(projects, exported):
    told = json.loads(edc(projects, "evaluate", exported, "--like", "small", "--json").stdout)
    assert told["status"] == "done"
    outside, inside = summary_of(projects, "external-exported"), summary_of(projects, "small")
    assert without_folders(outside) == without_folders(inside) != []
    assert outside["method"] == "external" and outside["condensed"]["images"] == 10 and "synthesise" not in outside["stages"]
    reused = {step_id for step_id, step in outside["steps"].items() if step["reused"]}
    assert {"squeeze/convnet-d1-w8", "initialise/random-seed0", "evaluate/random-convnet-d1-w8-seed0"} <= reused


def test_classes_in_another_order_give_the_same_accuracy(projects, exported):
    given = CondensedDataset.open(find_run(projects, "small").folder)
    turned = np.arange(10)[::-1].copy()  # the class 9 first
    about = {"classes": ClassIndex(tuple(given.classes.names[label] for label in turned)), "mean": given.mean, "std": given.std}
    order = np.argsort(turned[given.labels.numpy()], kind="stable")
    write_condensed(projects.parent / "turned", given.images[order], torch.from_numpy(turned)[given.labels[order]], **about, metadata={})
    told = edc(projects, "evaluate", projects.parent / "turned", "--like", "small").stdout
    assert "its classes were brought into the order of digits" in told
    assert without_folders(summary_of(projects, "external-turned")) == without_folders(summary_of(projects, "small"))


def test_the_project_says_only_what_differs_from_edcs_evaluation_and_runs_as_any_other(projects, exported):
    edc(projects, "evaluate", exported, "--like", "small")
    text = (projects / "external-exported.toml").read_text()
    assert '[observers]\nlabels = ["convnet-d1-w8"]' in text and "synthesis" not in text and "temperature" not in text
    project = load_project(projects / "external-exported.toml").project
    small = load_project(projects / "small.toml").project
    for section in ("evaluate", "labels", "squeeze", "compute"):
        assert getattr(project, section) == getattr(small, section)
    assert edc(projects, "run", "external-exported").stdout.count("reused") > 3
    assert "external-exported" in edc(projects, "list").stdout


def test_a_repetition_replaces_its_own_files_and_no_others(projects, exported):
    edc(projects, "evaluate", exported, "--like", "small", "--name", "again")
    file = projects / "again.toml"
    before = file.read_bytes(), (projects / "again" / "images.safetensors").read_bytes()
    edc(projects, "evaluate", exported, "--like", "small", "--name", "again")
    assert (file.read_bytes(), (projects / "again" / "images.safetensors").read_bytes()) == before
    assert sorted(path.name for path in (projects / "again").iterdir()) == ["images.safetensors", "runs"]
    file.write_text(file.read_text().replace("epochs = 400", "epochs = 300"))
    refused = edc(projects, "evaluate", exported, "--like", "small", "--name", "again", expect=2)
    assert "again.toml is another project or was edited" in refused.stderr and "epochs = 300" in file.read_text()
    assert "small.toml is another project" in edc(projects, "evaluate", exported, "--dataset", "digits", "--name", "small", expect=2).stderr


def soft_files(folder, exported):
    """The exported images as another tool's tensors with soft labels."""
    condensed = CondensedDataset.open(find_run(folder, "small").folder)
    soft = torch.eye(10) * 6
    torch.save({"images": condensed.images.float() / 255, "labels": condensed.labels}, exported.parent / "mine.pt")
    torch.save(soft, exported.parent / "soft.pt")
    return exported.parent / "mine.pt", exported.parent / "soft.pt"


def test_soft_labels_come_into_the_project_when_asked_for(projects, exported):
    images, soft = soft_files(projects, exported)
    asked = ["evaluate", images, "--like", "small", "--name", "soft", "--soft-labels", soft]
    refused = edc(projects, *asked, "--set", "evaluate.loss=ce", expect=2)
    assert "labels.mode" in refused.stderr and not (projects / "soft.toml").exists() and not (projects / "soft").exists()
    told = edc(projects, *asked, "--set", "evaluate.controls=[]", "--set", "evaluate.epochs=4", "--set", "evaluate.every=4").stdout
    assert "1 image for each of 10 classes of digits, with soft labels" in told and "values from 0 to 1" in told
    assert "warning: labels.mode" not in told  # there are no controls that other labels would be unfair to
    assert "warning: labels.mode the labels that came along" in edc(projects, "check", "soft", "--set", "evaluate.controls=random").stdout
    assert load_project(projects / "soft.toml").project.labels.mode == "given"
    assert read_header(projects / "soft" / "images.safetensors").soft_labels
    kept = safetensors.torch.load_file(find_run(projects, "soft").folder / "stages/3-initialise/condensed/images.safetensors")
    assert np.array_equal(kept["soft_labels"].numpy(), np.eye(10, dtype=np.float32) * 6)
    summary = summary_of(projects, "soft")
    assert summary["results"][0]["labels"] == "fixed-soft"
    assert summary["condensed"]["label_bytes"] == summary["bytes"]["labels"] == summary["bytes"]["estimate"]["labels"] == 10 * 10 * 4


BAD = [
    (["missing"], "there is no"),
    (["exported", "--dataset", "digit"], "did you mean digits?"),
    (["exported", "--dataset", "fashion-mnist", "--root", "nowhere"], "fashion-mnist: there is no folder"),
    (["exported", "--dataset", "digits", "--like", "smal"], "did you mean"),
    (["exported", "--like", "small", "--set", "evaluate.zeta=0"], "--set evaluate.zeta: 0 must be at least 1"),
    (["exported", "--like", "small", "--set", "condense.ipc=2"], "it has 1 images per class"),
    (["exported", "--like", "small", "--set", "evaluate.students=resnet19"], "there is no model 'resnet19'"),
    (["exported", "--like", "small", "--set", "labels.mode=given"], "no soft labels of its own"),
    (["exported", "--like", "small", "--name", "a/b"], "--name 'a/b'"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_bad_input_is_one_line_and_writes_nothing(words, said, projects, exported):
    before = sorted(path for path in projects.rglob("*") if ".cache" not in path.parts)
    words = [str(exported.parent / word) if word in ("exported", "missing") else word for word in words]
    refused = edc(projects, "evaluate", *words, *([] if "--like" in words or "--dataset" in words else ["--dataset", "digits"]), expect=2)
    assert said in refused.stderr and refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(path for path in projects.rglob("*") if ".cache" not in path.parts) == before


def test_a_dataset_must_be_named(projects, exported):
    assert "--dataset: missing" in edc(projects, "evaluate", exported, expect=2).stderr


def test_a_new_name_that_failed_leaves_no_folder_behind(projects, exported):
    asked = ["evaluate", exported, "--like", "small", "--name", "fresh", "--set", "compute.device=cuda:7"]
    edc(projects, *asked, expect=2)
    assert not (projects / "fresh").exists() and not (projects / "fresh.toml").exists()
