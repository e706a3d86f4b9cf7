"""A project while it is being edited."""

import tomllib
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.project.draft import TEXT, changed, merged, read_draft
from engine.project.files import load_project, new_project_text

FILE = Path("projects/mine.toml")
TEXT_BY_HAND = """\
# my first project
schema = 1
title = "by hand"

[dataset]
name = "digits"     # small

[condense]
method = "edc"
ipc   =   5         # five, said the boss

[evaluate]
epochs = 1000       # as the method has it
seeds = [
    0,              # the first
    1,
]

[flatness]
weight = 0.5
"""


def test_a_right_text_has_no_problems_and_resolves_as_the_file_would(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT_BY_HAND)
    draft = read_draft(TEXT_BY_HAND, path)
    assert draft.problems == {}
    assert draft.resolved == load_project(path)


def test_each_value_says_where_it_comes_from():
    draft = read_draft(TEXT_BY_HAND, FILE)
    assert draft.origins["condense.ipc"] == "you"
    assert draft.origins["evaluate.epochs"] == "you"
    assert draft.origins["flatness.kind"] == "method"
    assert draft.origins["synthesise.iterations"] == "dataset", "edc has 2000, and 75 for digits"
    assert draft.origins["prior.tv"] == "default"


def test_a_value_of_the_compat_profile_is_told_as_such():
    draft = read_draft('[condense]\ncompat = "edc-head"\n', FILE)
    assert draft.origins["match.ema_start"] == "compat"
    assert draft.origins["match.layers"] == "method"


def test_only_values_that_differ_from_the_methods_deviate_and_data_and_machine_never_do():
    draft = read_draft(TEXT_BY_HAND, FILE)
    assert draft.deviations == ["flatness.weight", "evaluate.seeds"], "epochs are set and the same; ipc and dataset are no method's"


def test_wrong_values_are_told_by_key_and_the_rest_is_resolved_without_them():
    draft = read_draft('[condense]\nipc = -3\nseed = "x"\n[evaluate]\nepochs = 7\nepoch = 8\n', FILE)
    assert set(draft.problems) == {"condense.ipc", "condense.seed", "evaluate.epoch"}
    assert draft.problems["condense.ipc"] == "-3 must be at least 1"
    assert draft.value("condense.ipc") == -3
    assert draft.resolved.project.condense.ipc == 10
    assert draft.resolved.project.evaluate.epochs == 7


def test_combinations_that_make_no_sense_are_problems_of_a_key():
    draft = read_draft('[evaluate]\nschedule = "cosine"\ngamma = 0.5\n', FILE)
    assert "would have no effect" in draft.problems["evaluate.gamma"]


def test_a_method_that_does_not_exist_leaves_a_draft_that_can_be_mended():
    draft = read_draft('[condense]\nmethod = "ecd"\n', FILE)
    assert "did you mean" in draft.problems["condense.method"]
    assert changed(draft, {"condense.method": "edc"}, FILE).problems == {}


@pytest.mark.parametrize("text", ["[dataset\n", "x = \n", 'a = 1\na = 2\n', "schema = 7\n", "dataset = 3\n"])
def test_a_text_that_is_no_project_is_told_and_can_still_be_shown(text):
    draft = read_draft(text, FILE)
    assert draft.problems
    assert draft.resolved.project.condense.method == "edc"


def test_a_text_that_is_not_toml_cannot_be_changed_value_by_value():
    draft = read_draft("[dataset\n", FILE)
    assert draft.problems[TEXT].startswith("line 1: not valid TOML")
    with pytest.raises(UserError, match="not valid TOML"):
        changed(draft, {"condense.ipc": 3}, FILE)


def test_a_change_leaves_every_other_line_as_it_was():
    after = changed(read_draft(TEXT_BY_HAND, FILE), {"condense.ipc": 50}, FILE)
    assert after.text == TEXT_BY_HAND.replace("ipc   =   5 ", "ipc   =   50 ")


def test_setting_a_value_to_what_it_is_rewrites_nothing():
    draft = read_draft(TEXT_BY_HAND, FILE)
    assert changed(draft, {"condense.ipc": 5, "evaluate.seeds": [0, 1], "flatness.beta": None}, FILE).text == TEXT_BY_HAND


def test_one_is_not_true():
    draft = read_draft("[condense]\nipc = 1\n", FILE)
    assert "condense.ipc" in changed(draft, {"condense.ipc": True}, FILE).problems


def test_taking_a_value_out_gives_the_methods_again():
    after = changed(read_draft(TEXT_BY_HAND, FILE), {"flatness.weight": None}, FILE)
    assert after.resolved.project.flatness.weight == 0.25
    assert after.origins["flatness.weight"] == "method"


def test_a_title_that_nobody_chose_goes_with_the_project():
    draft = read_draft(new_project_text("a", dataset="digits", method="edc", ipc=10), FILE)
    after = changed(draft, {"condense.ipc": 1}, FILE)
    assert after.given["title"] == "edc on digits, 1 image per class"


def test_a_title_of_ones_own_stays():
    after = changed(read_draft(TEXT_BY_HAND, FILE), {"condense.ipc": 1}, FILE)
    assert after.given["title"] == "by hand"


def test_a_new_project_shows_the_commented_values_of_the_method_that_is_chosen():
    draft = read_draft(new_project_text("a", dataset="digits", method="edc", ipc=10), FILE)
    draft = changed(draft, {"evaluate.epochs": 5}, FILE, fresh=True)
    after = changed(draft, {"condense.method": "sre2l"}, FILE, fresh=True)
    assert after.given["evaluate.epochs"] == 5
    expected = new_project_text("a", dataset="digits", method="sre2l", ipc=10)
    assert set(expected.splitlines()) < set(after.text.splitlines())


def test_a_saved_project_keeps_its_own_comments_when_the_method_changes():
    text = new_project_text("a", dataset="digits", method="edc", ipc=10)
    after = changed(read_draft(text, FILE), {"condense.method": "sre2l"}, FILE)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert [line for line in after.text.splitlines() if line.startswith("#")] == comments


def test_a_relative_root_is_meant_from_the_files_folder(tmp_path):
    draft = read_draft('[dataset]\nname = "folder"\nroot = "images"\n', tmp_path / "mine.toml")
    assert draft.resolved.project.dataset.root == str(tmp_path / "images")
    assert draft.value("dataset.root") == "images"


def test_merging_puts_my_values_into_the_file_as_it_is_now():
    mine = changed(read_draft(TEXT_BY_HAND, FILE), {"condense.ipc": 50, "flatness.weight": None}, FILE)
    theirs = TEXT_BY_HAND.replace("epochs = 1000", "epochs = 77").replace("# my first project", "# our first project")
    both = merged(mine, TEXT_BY_HAND, theirs, FILE)
    values = tomllib.loads(both.text)
    assert (values["condense"]["ipc"], values["evaluate"]["epochs"]) == (50, 77)
    assert "weight" not in values["flatness"]
    assert both.text.startswith("# our first project")


def test_merging_with_a_broken_file_is_refused():
    mine = read_draft(TEXT_BY_HAND, FILE)
    with pytest.raises(UserError, match="not valid TOML"):
        merged(mine, TEXT_BY_HAND, "[broken", FILE)
