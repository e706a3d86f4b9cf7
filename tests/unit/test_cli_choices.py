"""`edc methods`, `edc datasets` and `edc models`: what can be chosen, and in what methods differ."""

import json

import pytest
from small_datasets import RESOLUTIONS

from engine.commands.methods import COMPARED, LADDER, method_keys, short
from engine.commands.tables import Column, make_console, print_blocks
from engine.data.catalogue import dataset_resolution
from engine.data.sources import list_datasets
from engine.errors import UserError
from engine.project.resolve import METHODS, load_method, method_names
from engine.project.schema import keys


def blocks_of(out):
    """The tables of an output: a list of {key: {method: value}}, one for each block; rows that continue a list are joined to it."""
    blocks, columns, key = [], {}, ""
    for line in out.splitlines():
        if line.startswith("key "):
            names = line.split()
            starts = [line.index(f" {name}") + 1 for name in names[1:]]
            columns = dict(zip(names[1:], zip(starts, [*starts[1:], None], strict=True), strict=True))
            blocks.append({})
        elif columns and line.strip():
            key = line.split()[0] if line[0] != " " else key
            cells = {name: line[first:last].strip() for name, (first, last) in columns.items()}
            before = blocks[-1].get(key)
            blocks[-1][key] = {name: f"{before[name]} {text}".strip() for name, text in cells.items()} if before else cells
    return blocks


class TestMethodsSideBySide:
    def test_all_methods_are_listed_by_name_and_title_before_the_table(self, edc):
        status, out, err = edc("methods")
        assert (status, err) == (0, "")
        listed = out.split("\n\n")[0].splitlines()
        assert [line.split(maxsplit=1) for line in listed] == [[name, load_method(name).title] for name in method_names()]

    def test_six_methods_are_compared_on_cifar10_at_ten_images_unless_asked_otherwise(self, edc):
        out = edc("methods")[1]
        (table,) = blocks_of(out)
        assert "on cifar10 (32 px) at 10 images per class" in out
        assert list(table["synthesise.iterations"]) == list(COMPARED) == ["sre2l", "cda", "rded", "g-vbsm", "edc", "random"]
        assert list(table["synthesise.iterations"].values()) == ["1000", "1000", "-", "4000", "75", "-"]
        assert list(table["match.layers"].values()) == ["bn", "bn", "-", "bn+conv", "bn+conv", "-"]
        assert list(table["flatness.weight"].values()) == ["-", "-", "-", "-", "0.25", "-"]
        assert list(table["synthesise.enabled"].values()) == ["true", "true", "false", "true", "true", "false"]

    def test_only_keys_that_differ_are_rows_in_the_order_of_the_schema(self, edc):
        (table,) = blocks_of(edc("methods", "sre2l", "cda")[1])
        assert {key: list(row.values()) for key, row in table.items()} == {
            "augment.crop_mode": ["none", "curriculum_cosine"],
            "augment.crop_scale": ["-", "0.08 1"],
            "augment.milestone": ["-", "1"],
            "augment.flip": ["false", "true"],
        }
        (table,) = blocks_of(edc("methods")[1])
        assert list(table) == [name for name in keys() if name in table]

    @pytest.mark.parametrize(("dataset", "ipc"), [("cifar10", 10), ("imagenet-1k", 1), ("digits", 50)])
    def test_a_key_that_all_methods_use_has_a_row_exactly_where_its_full_values_differ(self, edc, dataset, ipc):
        words = ["methods", *COMPARED, "--dataset", dataset, "--ipc", str(ipc)]
        (table,) = blocks_of(edc(*words)[1])
        methods = json.loads(edc(*words, "--json")[1])["methods"]
        for name in method_keys():
            if not any(name in method["unused"] for method in methods):
                values = [method["values"][name] for method in methods]
                assert (name in table) == any(value != values[0] for value in values), name

    def test_a_key_that_no_method_file_sets_has_no_row_because_some_do_not_use_it(self, edc):
        (table,) = blocks_of(edc("methods", "rded", "g-vbsm", "edc")[1])
        assert "match.class_source" not in table and "statistics.batch_size" not in table
        assert table["match.class_form"] == {"rded": "-", "g-vbsm": "-", "edc": "batch_mean"}

    def test_a_method_that_optimises_nothing_is_not_compared_in_how_images_are_optimised(self, edc):
        (table,) = blocks_of(edc("methods", "edc", "random")[1])
        assert set(table) == {"initialise.flip", "synthesise.enabled"}

    def test_networks_stand_below_each_other_each_in_its_row(self, edc):
        (table,) = blocks_of(edc("methods", "config-d", "config-e", "--dataset", "imagenet-1k")[1])
        assert table["observers.labels"] == {
            "config-d": "resnet18 mobilenet-v2 efficientnet-b0 shufflenet-v2-0.5",
            "config-e": "resnet18 mobilenet-v2 shufflenet-v2-0.5 alexnet",
        }
        assert "observers.synthesis" in table

    def test_the_ladder_goes_from_a_to_g(self, edc):
        out = edc("methods", "--ladder", "--dataset", "tiny-imagenet")[1]
        (table,) = blocks_of(out)
        assert list(table["evaluate.zeta"]) == list(LADDER)
        assert list(table["evaluate.zeta"].values()) == ["1", "1", "1.5", "1.5", "2", "2", "2"]
        assert list(table["match.w_class"].values()) == ["0"] * 5 + ["0.5"] * 2
        assert "edc " not in out.split("\n\n")[0]

    def test_names_may_precede_the_ladder_and_none_comes_twice(self, edc):
        (table,) = blocks_of(edc("methods", "g-vbsm", "config-a", "g-vbsm", "--ladder")[1])
        assert list(table["evaluate.zeta"]) == ["g-vbsm", *LADDER]

    def test_methods_that_do_the_same_are_said_to(self, edc):
        assert "They do not differ on digits (16 px) at 1 image per class." in edc(
            "methods", "g-vbsm", "config-a", "--dataset", "digits", "--ipc", "1"
        )[1].splitlines()

    @pytest.mark.parametrize("words", [[], ["--ladder", "--dataset", "imagenet-1k"], ["--dataset", "digits"]])
    def test_eighty_columns_are_enough_and_nothing_is_lost_or_cut(self, edc, monkeypatch, words):
        (wide,) = blocks_of(edc("methods", *words)[1])
        monkeypatch.setenv("COLUMNS", "80")
        out = edc("methods", *words)[1]
        assert max(map(len, out.splitlines())) <= 80
        assert "…" not in out
        blocks = blocks_of(out)
        assert len(blocks) > 1
        for key, row in wide.items():
            joined = {name: text for block in blocks for name, text in block.get(key, {}).items()}
            assert joined == row

    def test_a_very_narrow_terminal_has_one_method_a_block_cut_to_its_width(self, edc, monkeypatch):
        monkeypatch.setenv("COLUMNS", "30")
        tables = edc("methods", "cda", "edc")[1].split("\n\n", 2)[2]
        assert max(map(len, tables.splitlines())) <= 30
        assert [line.split()[1] for line in tables.splitlines() if line.startswith("key")] == ["cda", "edc"]


class TestOneMethod:
    @pytest.mark.parametrize("name", method_names())
    def test_it_is_shown_with_its_sentence_its_source_and_every_key_that_it_uses(self, edc, name):
        words = " ".join(edc("methods", name)[1].split())
        (facts,) = json.loads(edc("methods", name, "--json")[1])["methods"]
        assert f"{name} {facts['title']} {facts['summary']} {facts['paper']} What it does on cifar10" in words
        for key, value in facts["values"].items():
            said = f"{key.partition('.')[2]} {short(value)}"
            if key not in facts["unused"] and value is not None:
                assert said in words, key
                assert f" {keys()[key].description}" in words, key

    def test_what_it_does_not_use_is_left_out(self, edc):
        out = edc("methods", "rded")[1]
        assert "[rded]" in out and "[initialise]" in out
        assert "[match]" not in out and "[flatness]" not in out
        assert [line.split()[:2] for line in out.splitlines() if line.startswith("enabled")] == [["enabled", "false"]]

    def test_values_depend_on_dataset_and_images_per_class(self, edc):
        def epochs(*words):
            return [line.split()[1] for line in edc("methods", "edc", *words)[1].splitlines() if line.startswith("epochs")][-1]

        assert epochs("--dataset", "tiny-imagenet") == "300"
        assert epochs("--dataset", "tiny-imagenet", "--ipc", "1") == "1000"

    def test_it_fits_eighty_columns(self, edc, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        lines = edc("methods", "edc")[1].splitlines()
        assert max(len(line) for line in lines if not line.startswith("[")) <= 80


class TestMethodsForPrograms:
    def test_every_method_has_a_sentence_a_source_and_all_its_values_in_full(self, edc):
        facts = json.loads(edc("methods", "--json")[1])
        assert (facts["dataset"], facts["resolution"], facts["ipc"]) == ("cifar10", 32, 10)
        methods = {method["name"]: method for method in facts["methods"]}
        assert list(methods) == method_names()
        assert methods["edc"]["paper"] == load_method("edc").paper
        assert methods["random"]["summary"] == load_method("random").summary
        assert len(methods["edc"]["values"]["observers.synthesis"]) == 8
        assert methods["edc"]["values"]["evaluate.milestones"] == [0.8, 0.9, 0.95]
        assert all(list(method["values"]) == method_keys() for method in methods.values())
        assert "match.weight" in methods["rded"]["unused"] and "match.weight" not in methods["edc"]["unused"]

    def test_only_those_named_on_the_dataset_named(self, edc):
        facts = json.loads(edc("methods", "cda", "edc", "--dataset", "imagenet-21k-p", "--ipc", "20", "--json")[1])
        assert (facts["dataset"], facts["resolution"], facts["ipc"]) == ("imagenet-21k-p", 224, 20)
        assert [method["name"] for method in facts["methods"]] == ["cda", "edc"]
        assert facts["methods"][0]["values"]["match.weight"] == 0.25


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sre2"], "no method is called 'sre2'; did you mean sre2l?"),
        (["edc", "sre2", "--json"], "no method is called 'sre2'; did you mean sre2l?"),
        (["--dataset", "tiny-imagnet"], "--dataset: no dataset is called 'tiny-imagnet'; did you mean tiny-imagenet?"),
        (["edc", "--ipc", "0"], "--ipc: 0 must be at least 1"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(edc, words, says):
    assert edc("methods", *words) == (2, "", f"edc: {says}\n")


class TestResolutions:
    def test_every_dataset_that_a_method_file_knows_has_one(self):
        named = {
            name
            for path in METHODS.glob("*.toml")
            for layer in load_method(path.stem).layers
            for name in layer.get("dataset", [])
        }
        assert {name: dataset_resolution(name) for name in named} == RESOLUTIONS

    def test_every_dataset_that_is_listed_has_one(self):
        assert all(info.resolution == dataset_resolution(info.name) for info in list_datasets())

    def test_a_name_like_no_other_gets_all_of_them(self):
        with pytest.raises(UserError, match="choose one of: digits, .*folder"):
            dataset_resolution("zzz")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (False, "false"), (None, ""), (1e-3, "0.001"), (2.0, "2"), (1024, "1024"), ("bn+conv", "bn+conv"),
        ([0.08, 1.0], "0.08 1"), (["resnet18", "alexnet"], "resnet18 alexnet"), ([], ""),
    ],
)  # fmt: skip
def test_values_are_said_in_few_characters(value, text):
    assert short(value) == text


def test_a_table_goes_on_in_blocks_without_the_rows_that_say_nothing_there(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "14")
    print_blocks(make_console(), [Column("k"), Column("one"), Column("two")], [["a", "11111", "22"], ["", "", "33"], ["b", "1", "222222"]])
    assert capsys.readouterr().out == "k  one\na  11111\nb  1\n\nk  two\na  22\n   33\nb  222222\n"


class TestDatasetsAndModels:
    def test_datasets_say_where_they_lie_or_how_to_obtain_them(self, edc):
        found = {info["name"]: info["found_in"] for info in json.loads(edc("datasets", "--json")[1])}
        assert found["digits"] is not None
        assert found["cifar10"] is None
        assert "edc datasets --fetch cifar10" in edc("datasets")[1]

    def test_fetching_what_cannot_be_fetched(self, edc):
        assert edc("datasets", "--fetch", "digits")[::2] == (2, "edc: digits is not fetched: comes with scikit-learn\n")

    def test_models_fit_eighty_columns(self, edc, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        out = edc("models")[1].splitlines()
        assert any(line.split()[:2] == ["convnet-w32", "8+"] for line in out)
        assert max(map(len, out)) <= 80
