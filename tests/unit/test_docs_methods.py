"""docs/methods.md says what the method and compat files say: every setting in it is read back and compared."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from small_datasets import RESOLUTIONS

from engine.project.checks import has_effect, value_of
from engine.project.resolve import flatten, layer_values, load_method, load_profile, method_names, resolve
from engine.project.schema import keys

TEXT = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
COLUMNS = {  # header of a column of settings -> dataset and working resolution
    "CIFAR-10": ("cifar10", 32),
    "CIFAR-100": ("cifar100", 32),
    "Tiny-ImageNet": ("tiny-imagenet", 64),
    "ImageNet-10": ("imagenet-10", 224),
    "ImageNet-1k": ("imagenet-1k", 224),
    "ImageNet-21k-P": ("imagenet-21k-p", 224),
    "Fashion-MNIST, digits": ("fashion-mnist", 32),
    "other, below 128 px": ("folder", 64),
    "other, 128 px and above": ("folder", 224),
}
IPCS = (1, 10, 50)
NOTHING = "–"
TABULATED = ("sre2l", "cda", "rded", "g-vbsm", "edc")


def section(heading):
    """The text between a heading and the next one of the same or a higher level."""
    level = heading.split()[0]
    return re.split(rf"\n#{{1,{len(level)}}} ", TEXT.split(f"\n{heading}\n", 1)[1])[0]


def tables(text):
    """Every table of a text as a list of rows of cells, header first."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in block.strip().split("\n")]
        found.append([rows[0], *rows[2:]])
    return found


def observer_sets():
    """The named sets of observers: name -> networks."""
    rows = tables(section("### Sets of observers"))[0][1:]
    return {row[0]: re.findall(r"`([^`]+)`", row[1]) for row in rows}


@cache
def project_of(method, dataset, resolution, ipc):
    """The project that says nothing but these."""
    resolved, problems = resolve({"dataset.name": dataset, "condense.method": method, "condense.ipc": ipc}, resolution=resolution)
    assert resolved is not None, problems
    return resolved.project


def shown(value, sets):
    """A value as the document shows it."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        return next(name for name, networks in sets.items() if networks == value)
    if isinstance(value, list):
        return "[" + ", ".join(shown(item, sets) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown_for(method, column, key, sets):
    """What a table's cell must hold: one value, those at 1, 10 and 50 images per class where they differ, or – without effect."""
    projects = [project_of(method, *COLUMNS[column], ipc) for ipc in IPCS]
    texts = [shown(value_of(project, key), sets) if has_effect(project, key) else NOTHING for project in projects]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


@pytest.mark.parametrize("method", TABULATED)
class TestTheSettingsOfAMethod:
    def test_in_the_table_are_those_of_its_file(self, method):
        header, *rows = tables(section(f"### `{method}`"))[0]
        assert header[1:] == list(COLUMNS)
        sets = observer_sets()
        for row in rows:
            key = row[0].strip("`")
            assert row[1:] == [shown_for(method, column, key, sets) for column in COLUMNS], key

    def test_in_the_text_hold_on_all_datasets(self, method):
        sets = observer_sets()
        everywhere = re.search(r"The same wherever they have an effect: (.+?)\.\n", section(f"### `{method}`"), re.DOTALL)[1]
        settings = re.findall(r"`(\S+) = (.+?)`", everywhere)
        assert settings
        for key, value in settings:
            assert {shown_for(method, column, key, sets) for column in COLUMNS} - {NOTHING} == {value}, key

    def test_are_all_told(self, method):
        told = set(re.findall(r"`([a-z]+\.[a-z0-9_]+)(?: = .+?)?`", section(f"### `{method}`")))
        set_by_file = {key for layer in load_method(method).layers for key in flatten(layer.get("set", {}))}
        sets = observer_sets()
        acting = {key for key in set_by_file if any(shown_for(method, column, key, sets) != NOTHING for column in COLUMNS)}
        assert acting <= told


class TestTheDocument:
    def test_has_a_section_for_every_method(self):
        for method in method_names():
            assert f"`{method}`" in TEXT, method

    def test_names_only_keys_that_exist(self):
        named = set(re.findall(r"`([a-z]+\.[a-z0-9_]+)(?: = [^`]+)?`", TEXT))
        assert named - {"section.key"} <= set(keys())


def compat_rows():
    """Rows (id, defect, key, profile, effect) of the table of defects."""
    return tables(section("## What the reference release does otherwise: `compat`"))[0][1:]


class TestTheTableOfDefects:
    def test_says_which_keys_reproduce_a_defect_and_which_profile_sets_them(self):
        for name, _, settings, profiles, _ in compat_rows():
            for key, value in re.findall(r"`([a-z]+\.[a-z0-9_]+) = (.+?)`", settings):
                wanted = tomllib.loads(f"value = {value}")["value"]
                for profile in re.findall(r"`(.+?)`", profiles):
                    found = [
                        layer_values(load_profile(profile).layers, dataset=dataset, ipc=10, resolution=side).get(key)
                        for dataset, side in RESOLUTIONS.items()
                    ]
                    assert wanted in found, (name, key, profile)

    def test_holds_every_key_that_a_profile_sets(self):
        told = {key for row in compat_rows() for key, _ in re.findall(r"`([a-z]+\.[a-z0-9_]+) = (.+?)`", row[2])}
        for profile in ("edc-head", "edc-9836066"):
            assert {key for layer in load_profile(profile).layers for key in flatten(layer.get("set", {}))} <= told

    def test_has_an_effect_or_says_that_it_is_not_measured_yet_wherever_a_key_reproduces_it(self):
        for name, _, settings, _, effect in compat_rows():
            assert effect != "" and (effect == NOTHING) == ("`" not in settings), name
