"""What a project would do, stage by stage."""

import platform

import pytest
import tomlkit

from engine.commands.outline import outline
from engine.commands.request import Misfit
from engine.files import write_json
from engine.project.draft import read_draft
from engine.runs.store import create_run

TEXT = """
[dataset]
name = "digits"
[condense]
ipc = 1
[observers]
synthesis = ["convnet-d1-w8-bn"]
labels = ["convnet-d1-w8-bn"]
[squeeze]
epochs = 2
[synthesise]
iterations = 10
[evaluate]
students = ["convnet-d1-w8"]
seeds = [0, 1]
epochs = 4
controls = []
[compute]
device = "cpu"
precision = "float32"
"""


def outlined(projects, text=TEXT):
    draft = read_draft(text, projects / "p.toml")
    assert draft.problems == {}
    return outline(draft.resolved, projects=projects, name="p")


def test_a_first_run_reuses_nothing_and_has_no_past_to_go_by(tmp_path):
    plan = outlined(tmp_path)
    assert [stage.stage for stage in plan.stages] == ["squeeze", "statistics", "initialise", "synthesise", "evaluate"]
    assert (plan.classes, plan.train_images, plan.device) == (10, 1198, "cpu")
    assert (plan.steps, plan.reused, plan.unknown, plan.seconds) == (8, 0, 8, 0)
    assert plan.resumes is None
    synthesise = plan.stages[3]
    assert (synthesise.images, synthesise.iterations, synthesise.bytes) == (10, 10, 10 * 3 * 16 * 16)


def test_a_past_run_tells_the_time(tmp_path):
    seen = read_draft(TEXT, tmp_path / "p.toml").resolved.project.model_dump(exclude_none=True)
    frozen = {"host": platform.node(), "resolution": 16, "device": "cpu", "precision": "float32", "classes": list("0123456789")}
    run = create_run(tmp_path, "p", tomlkit.dumps({**seen, "frozen": frozen}))
    told = {"set": "condensed", "student": "convnet-d1-w8", "protocol": "published"}
    steps = {
        "evaluate/condensed-convnet-d1-w8-seed0": {"seconds": 3.0, "labels": "online", **told},
        "evaluate/condensed-convnet-d1-w8-seed0-hard": {"seconds": 1.0, "labels": "hard", **told},
    }
    write_json(run.summary, {"steps": steps})
    plan = outlined(tmp_path, TEXT.replace("epochs = 4", "epochs = 8"))
    assert plan.stages[-1].seconds == pytest.approx(2 * 6.0 + 2 * 2.0), "two seeds of twice the epochs"
    assert plan.stages[-1].unknown == 0
    assert plan.unknown == plan.steps - 4


def test_a_value_that_does_not_fit_this_machine_is_told_with_its_key(tmp_path, monkeypatch):
    monkeypatch.setenv("EDC_DATA", str(tmp_path / "nothing"))
    with pytest.raises(Misfit) as found:
        outlined(tmp_path, TEXT.replace('"digits"', '"cifar10"'))
    assert found.value.problem.key == "dataset.name"
    with pytest.raises(Misfit) as found:
        outlined(tmp_path, TEXT.replace("ipc = 1", "ipc = 500"))
    assert found.value.problem.key == "condense.ipc"
    with pytest.raises(Misfit) as found:
        outlined(tmp_path, TEXT.replace('device = "cpu"', 'device = "cuda:7"'))
    assert found.value.problem.key == "compute.device"
