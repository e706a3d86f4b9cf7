"""A project frozen into its run comes back as it was, with what its numbers depend on."""

import re
import sys
import tomllib

import pytest

from engine.data.sources import ClassIndex, Source
from engine.errors import UserError
from engine.project import frozen
from engine.project.frozen import freeze, thaw
from engine.project.planner import make_plan
from engine.project.resolve import method_names, resolve

SOURCE = Source("folder", "tree", {}, 32, ClassIndex(("a cat", 'b "dog"')), (60, 70), (5, 5), "f" * 64, True)


def frozen_text(given=None, *, until="evaluate", **options):
    resolved, problems = resolve({"dataset.name": "folder", "condense.ipc": 2} | (given or {}), resolution=32)
    assert problems == []
    plan = make_plan(resolved.project, SOURCE, device="cuda:1", precision="bfloat16", until=until)
    return resolved, plan, freeze(resolved, plan, until=until, **options)


def thawed(text):
    return thaw(tomllib.loads(text))


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("dataset", ["folder", "cifar10", "cifar100", "tiny-imagenet", "fashion-mnist"])
def test_thawing_gives_the_project_back(method, dataset):
    resolved, _, text = frozen_text({"condense.method": method, "dataset.name": dataset})
    assert thawed(text)[0] == resolved.project


@pytest.mark.parametrize(
    "given",
    [
        {"dataset.root": '/data/"odd" \\ name é'},
        {"dataset.root": None, "dataset.mirror": None, "dataset.resolution": None, "match.w_global": None},
        {"dataset.mirror": False, "dataset.resolution": 16, "match.w_global": 0.5},
        {"title": 'a "title"\nof two lines\t# no comment'},
        {"evaluate.milestones": [], "evaluate.controls": [], "evaluate.schedule": "multistep"},
        {"match.weight": 1e-12, "prior.tv": 123456789.125, "synthesise.learning_rate": 1 / 3, "evaluate.learning_rate": 1e16},
        {"condense.seed": 2**62, "evaluate.seeds": [7, 0, 2**40]},
    ],
)
def test_every_value_survives_whatever_it_is(given):
    resolved, _, text = frozen_text(given)
    assert thawed(text)[0] == resolved.project


def test_a_plan_made_of_the_thawed_project_is_the_same_work():
    _, plan, text = frozen_text(until="relabel")
    project, facts = thawed(text)
    again = make_plan(project, SOURCE, device=facts["device"], precision=facts["precision"], until=facts["until"])
    assert [step.fingerprint for step in again.steps] == [step.fingerprint for step in plan.steps]
    assert facts["project_fingerprint"] == again.fingerprint


def test_what_a_number_depends_on_is_written_beside_it():
    _, _, text = frozen_text({"evaluate.zeta": 1.5, "title": "t"}, until="synthesise", fresh=True)
    _, facts = thawed(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["created"])
    assert (facts["until"], facts["fresh"]) == ("synthesise", True)
    assert (facts["device"], facts["precision"]) == ("cuda:1", "bfloat16")
    assert (facts["data_fingerprint"], facts["resolution"], facts["classes"]) == ("f" * 64, 32, ["a cat", 'b "dog"'])
    assert facts["python"] == sys.version.split()[0]
    assert set(facts["versions"]) == {"torch", "torchvision", "timm", "numpy", "safetensors", "edc-tui"}
    assert facts["set_by_user"] == ["condense.ipc", "dataset.name", "evaluate.zeta"]
    assert frozen_text()[2].count("fresh = false") == 1


def test_versions_are_those_installed():
    import numpy

    assert frozen.version("numpy") == numpy.__version__
    assert frozen.version("no-such-package") == ""


def test_the_commit_is_that_of_the_code_or_empty(tmp_path, monkeypatch):
    assert re.fullmatch(r"([0-9a-f]{12}\+?)?", frozen.commit())
    monkeypatch.setattr(frozen, "__file__", str(tmp_path / "engine" / "project" / "frozen.py"))
    assert frozen.commit() == ""
    (tmp_path / ".git").mkdir()  # a damaged checkout is as good as none
    assert frozen.commit() == ""


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ("schema = 1", "schema = 2", "run.toml: written by another version of edc; this one reads schema = 1"),
        ("[prior]\n", "[prior]\nl1 = 0.0\n", "run.toml: prior.l1: no such key; did you mean prior.l2?"),
        ("[prior]\n", "[priors]\n", "run.toml: priors: no such key; did you mean prior?"),
        ("ipc = 2", 'ipc = "2"', "run.toml: condense.ipc: '2' must be a whole number"),
    ],
)
def test_a_run_of_another_version_is_refused_in_one_line(line, replacement, message):
    text = frozen_text()[2]
    assert text.count(line) == 1
    with pytest.raises(UserError) as error:
        thawed(text.replace(line, replacement))
    assert str(error.value) == message


def test_what_is_no_table_is_refused():
    with pytest.raises(UserError, match=r"run.toml: match: 3 must be a table \[match\]"):
        thaw({"schema": 1, "match": 3})


def test_a_text_that_is_thawed_is_not_changed_by_it():
    values = tomllib.loads(frozen_text()[2])
    copy = tomllib.loads(frozen_text()[2])
    thaw(values)
    assert set(values) == set(copy)
