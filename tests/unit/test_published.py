"""The figures that the paper prints, typed again by hand, and which of them a project or a run is held against."""

import re
from pathlib import Path

import pytest

from engine.data.catalogue import dataset_resolutions
from engine.errors import UserError
from engine.models.registry import check_model
from engine.project.files import load_project
from engine.project.published import changed_settings, figures, held_against, named_figures, paper, published_figures, table_label
from engine.project.resolve import flatten, method_names, resolve, validate
from engine.project.schema import keys

R18, R50, R101 = "resnet18", "resnet50", "resnet101"


def figure(table, row, student, dataset="imagenet-1k", ipc=10):
    """The one figure of a cell."""
    found = [
        each for each in figures() if (each.table, each.row, each.student, each.dataset, each.ipc) == (table, row, student, dataset, ipc)
    ]
    (only,) = found
    return only


class TestTheNumbersAreThoseOfTheTables:
    @pytest.mark.parametrize(
        ("dataset", "ipc", "row", "student", "top1", "std"),
        [
            ("cifar10", 1, "rded", R18, 22.9, 0.4),
            ("cifar10", 1, "edc", "mobilenet-v2", 20.2, 0.4),
            ("cifar10", 10, "sre2l", R18, 27.2, 0.4),
            ("cifar10", 10, "g-vbsm", R18, 53.5, 0.6),
            ("cifar10", 10, "edc", R18, 79.1, 0.3),
            ("cifar10", 50, "edc", R50, 86.9, 0.0),
            ("cifar10", 50, "edc", R101, 85.8, 0.1),
            ("cifar100", 1, "sre2l", R18, 2.0, 0.2),
            ("cifar100", 10, "g-vbsm", R18, 59.5, 0.4),
            ("cifar100", 50, "edc", R50, 69.4, 0.3),
            ("tiny-imagenet", 10, "rded", R101, 22.9, 3.3),
            ("tiny-imagenet", 50, "g-vbsm", R50, 48.7, 0.2),
            ("tiny-imagenet", 50, "rded", R18, 58.2, 0.1),
            ("imagenet-10", 1, "rded", R101, 21.7, 1.3),
            ("imagenet-10", 50, "edc", "mobilenet-v2", 80.2, 0.2),
            ("imagenet-1k", 1, "edc", R50, 13.3, 0.3),
            ("imagenet-1k", 10, "g-vbsm", R50, 35.4, 0.8),
            ("imagenet-1k", 50, "edc", R101, 64.9, 0.2),
        ],
    )
    def test_of_table_1(self, dataset, ipc, row, student, top1, std):
        found = figure("table-1", row, student, dataset, ipc)
        assert (found.top1, found.std) == (top1, std)

    def test_table_1_has_every_cell_that_is_printed(self):
        of_table = [each for each in figures() if each.table == "table-1"]
        counts = {
            dataset: sum(each.dataset == dataset for each in of_table) for dataset in dict.fromkeys(each.dataset for each in of_table)
        }
        # 9 columns and 3 rows a dataset, without the dashes
        assert counts == {"cifar10": 19, "cifar100": 21, "tiny-imagenet": 21, "imagenet-10": 18, "imagenet-1k": 24}
        assert all(each.std is not None and not each.settings for each in of_table)

    # The printed rows "+ delta" of Table 2, which the file does not hold: each is EDC's figure minus RDED's.
    DELTAS = {
        10: [6.6, 8.1, 3.4, 10.6, 8.3, 4.4, 9.1, 6.1, 10.4],
        20: [6.4, 0.6, 2.0, 7.3, 7.5, 1.9, 5.0, 7.4, 12.3],
        30: [5.1, 2.1, 2.2, 8.9, 4.3, 16.0, 11.4, 1.8, 17.6],
        40: [2.5, 0.4, 2.2, 4.4, 3.4, 8.2, 3.0, 1.5, 17.0],
        50: [1.5, 0.6, 3.7, 3.9, 3.3, 10.5, 6.4, 1.2, 14.8],
    }

    @pytest.mark.parametrize("ipc", DELTAS)
    def test_of_table_2_whose_differences_are_printed_too(self, ipc):
        rded, edc = (
            [each for each in figures() if (each.table, each.row, each.ipc) == ("table-2", method, ipc)] for method in ("rded", "edc")
        )
        assert [each.student for each in rded] == [each.student for each in edc]
        assert [round(more.top1 - less.top1, 1) for more, less in zip(edc, rded, strict=True)] == self.DELTAS[ipc]

    def test_tables_1_and_2_agree_where_they_overlap(self):
        second = {(each.method, each.ipc, each.student): each.top1 for each in figures() if each.table == "table-2"}
        first = {
            (each.method, each.ipc, each.student): each.top1 for each in published_figures(dataset="imagenet-1k") if each.table == "table-1"
        }
        shared = second.keys() & first.keys()
        assert len(shared) == 12
        assert {key: first[key] for key in shared} == {key: second[key] for key in shared}

    @pytest.mark.parametrize(
        ("row", "values"),
        [
            ("config-c-zeta-1.0", [34.4, 36.8, 42.0]),
            ("config-c-zeta-1.5", [38.7, 42.0, 46.3]),
            ("config-c-zeta-2.0", [38.8, 45.8, 47.9]),
            ("config-c-zeta-2.5", [39.0, 44.6, 46.0]),
            ("config-c-zeta-3.0", [38.8, 45.6, 46.2]),
            ("rded", [25.8, 32.7, 34.8]),
            ("rded+zeta+batch", [42.3, 48.4, 47.0]),
            ("g-vbsm+real", [34.4, 36.8, 42.0]),
            ("g-vbsm+real+zeta", [38.8, 45.8, 47.9]),
            ("g-vbsm+real+zeta+batch", [45.0, 51.6, 48.1]),
        ],
    )
    def test_of_table_3(self, row, values):
        assert [figure("table-3", row, student).top1 for student in (R18, R50, R101)] == values
        assert figure("table-3", "config-c-zeta-2.5", R50).settings == {"evaluate.zeta": 2.5}

    @pytest.mark.parametrize(
        ("row", "settings", "values"),
        [
            ("config-c", {"flatness.kind": "off"}, [38.7, 42.0, 40.6]),
            ("stat-ema-0.025", {"flatness.kind": "stat_ema", "flatness.weight": 0.025, "flatness.beta": 0.999}, [38.8, 43.2, 40.3]),
            ("stat-ema-0.25", {"flatness.kind": "stat_ema", "flatness.weight": 0.25, "flatness.beta": 0.999}, [37.9, 43.5, 40.3]),
            ("stat-ema-2.5", {"flatness.kind": "stat_ema", "flatness.weight": 2.5, "flatness.beta": 0.999}, [31.7, 37.0, 32.9]),
            ("stat-ema-0.25-beta-0.99", {"flatness.kind": "stat_ema", "flatness.weight": 0.25, "flatness.beta": 0.99}, [39.0, 43.3, 40.2]),
            (
                "logit-ema-tau-4",
                {"flatness.kind": "logit_ema", "flatness.weight": 0.25, "flatness.beta": 0.99, "flatness.tau": 4.0},
                [39.5, 44.1, 41.9],
            ),
            (
                "logit-ema-tau-1",
                {"flatness.kind": "logit_ema", "flatness.weight": 0.25, "flatness.beta": 0.99, "flatness.tau": 1.0},
                [38.9, 43.5, 40.7],
            ),
            ("sam", {"flatness.kind": "sam"}, [38.8, 44.0, 41.2]),
        ],
    )
    def test_of_table_4(self, row, settings, values):
        assert [figure("table-4", row, student).top1 for student in (R18, R50, "densenet121")] == values
        assert figure("table-4", row, R18).settings == settings | {"evaluate.zeta": 1.5}

    # alpha, weak augmentation, EMA-based evaluation: ResNet-18, -50 and -101
    TABLE_5 = [
        (0.00, False, False, [46.2, 53.2, 49.5]),
        (0.00, True, False, [46.7, 53.7, 49.4]),
        (0.00, True, True, [46.9, 53.8, 48.5]),
        (0.25, False, False, [46.7, 53.4, 50.6]),
        (0.25, True, False, [46.8, 53.6, 50.8]),
        (0.25, True, True, [47.1, 53.7, 48.2]),
        (0.50, False, False, [48.1, 53.9, 50.4]),
        (0.50, True, False, [48.4, 53.9, 52.7]),
        (0.50, True, True, [48.6, 54.1, 51.7]),
        (0.75, False, False, [46.1, 52.7, 51.0]),
        (0.75, True, False, [46.9, 52.8, 51.6]),
        (0.75, True, True, [47.0, 53.2, 49.3]),
    ]

    @pytest.mark.parametrize(("alpha", "weak", "averaged", "values"), TABLE_5)
    def test_of_table_5(self, alpha, weak, averaged, values):
        row = f"alpha-{alpha:.2f}{'+crop' * weak}{'+ema' * averaged}"
        assert [figure("table-5", row, student).top1 for student in (R18, R50, R101)] == values
        scale = [0.5, 1.0] if weak else [0.08, 1.0]
        assert figure("table-5", row, R18).settings == {
            "match.w_class": alpha,
            "evaluate.zeta": 2.0,
            "augment.crop_scale": scale,
            "labels.crop_scale": scale,
            "evaluate.ema": 0.99 if averaged else 0.0,
        }

    def test_of_table_22(self):
        printed = {each.method: each.top1 for each in figures() if each.table == "table-22"}
        assert printed == {"sre2l": 18.5, "cda": 22.6, "rded": 25.6, "edc": 26.8, "full": 38.5}
        assert figure("table-22", "full", R18, "imagenet-21k-p").set == "full"

    def test_tables_2_to_5_and_22_have_every_cell(self):
        sizes = {table: sum(each.table == table for each in figures()) for table in dict.fromkeys(each.table for each in figures())}
        assert sizes == {"table-1": 103, "table-2": 90, "table-3": 30, "table-4": 24, "table-5": 36, "table-22": 5}


class TestTheFileSpeaksTheWordsOfTheProject:
    def test_methods_datasets_students_and_keys_exist(self):
        for each in figures():
            assert set(each.methods) <= {*method_names(), "full"}
            assert each.dataset in dataset_resolutions()
            check_model(each.student, dataset_resolutions()[each.dataset])
            assert set(each.settings) <= set(keys())
            assert validate(each.settings)[0] is not None
            assert 0 < each.top1 < 100

    def test_a_row_and_a_student_name_one_figure_of_a_dataset_and_ipc(self):
        names = [(each.name, each.student, each.dataset, each.ipc) for each in figures()]
        assert len(set(names)) == len(names)

    def test_the_settings_of_a_row_make_its_methods_one(self):
        """A row that names several methods gives every key in which these differ, or one that follows from it."""
        for each in {each.name: each for each in figures()}.values():
            made = []
            for method in each.methods if each.method != "full" else ():
                given = {"dataset.name": each.dataset, "condense.method": method, "condense.ipc": each.ipc} | each.settings
                resolved, problems = resolve(given, resolution=dataset_resolutions()[each.dataset])
                assert problems == []
                made.append(flatten(resolved.project.model_dump()) | {"condense.method": ""})
            for other in made[1:]:
                differing = {key for key in other if other[key] != made[0][key]}
                idle = {"flatness.weight", "flatness.beta", "flatness.tau", "flatness.kind"}
                assert differing <= idle, each.name

    def test_figures_say_where_they_come_from(self):
        assert "arXiv 2404.13733" in paper()
        assert table_label("table-22") == "Table 22"
        assert figure("table-1", "edc", R18).printed == "48.6 ± 0.3"
        assert figure("table-2", "edc", R18).printed == "48.6"


class TestLookingFiguresUp:
    def test_by_dataset_ipc_method_and_student(self):
        (found,) = published_figures(dataset="cifar10", ipc=10, method="edc", student=R18)
        assert (found.name, found.top1, found.std) == ("table-1/edc", 79.1, 0.3)
        assert published_figures(dataset="cifar10", ipc=7) == []

    def test_by_a_name_of_a_row_or_of_a_dataset_in_it(self):
        assert {each.dataset for each in named_figures("table-1/edc")} == {
            "cifar10",
            "cifar100",
            "tiny-imagenet",
            "imagenet-10",
            "imagenet-1k",
        }
        assert {each.dataset for each in named_figures("table-1/edc/cifar100")} == {"cifar100"}

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("table-1/ecd", "table-1 has no row 'ecd'; did you mean edc?"),
            ("table-1/edc/cifar", "table-1/edc has no figures for 'cifar'; did you mean cifar10?"),
            ("table-7/edc", "no published figures are called 'table-7/edc'; a name is TABLE/ROW, as in table-1/edc; tables: table-1,"),
            ("table-22", "'table-22' names no row of table-22; choose one of: sre2l, cda, rded, edc, full"),
            ("", "no published figures are called ''"),
        ],
    )
    def test_a_name_that_does_not_exist_is_refused_in_one_line_that_tells_what_does(self, name, says):
        with pytest.raises(UserError, match=re.escape(says)) as refused:
            named_figures(name)
        assert "\n" not in str(refused.value)


def run_values(**changed):
    """Flat values of a run of EDC on CIFAR-10, 10 images per class, as its run.toml has them."""
    given = {"dataset.name": "cifar10", "condense.method": "edc", "condense.ipc": 10, "evaluate.students": [R18, "convnet-w128"]}
    given |= {name.replace("__", "."): value for name, value in changed.items()}
    side = dataset_resolutions().get(given["dataset.name"], 32)
    resolved, problems = resolve(given, resolution=side)
    assert problems == []
    return {name: value for name, value in flatten(resolved.project.model_dump()).items() if value is not None} | {
        "frozen.resolution": side
    }


class TestWhatARunIsHeldAgainst:
    def held(self, **changed):
        return [(each.figure.name, each.figure.student, each.figure.top1, each.named) for each in held_against(run_values(**changed))]

    def test_the_figures_of_its_dataset_ipc_method_and_students(self):
        assert self.held() == [("table-1/edc", R18, 79.1, False)]

    @pytest.mark.parametrize(
        "changed",
        [{"condense__ipc": 11}, {"condense__method": "random"}, {"dataset__name": "digits"}, {"evaluate__students": ["convnet-w32"]}],
    )
    def test_nothing_where_one_of_them_has_none(self, changed):
        assert self.held(**changed) == []

    def test_one_figure_where_several_tables_print_the_same(self):
        assert self.held(dataset__name="imagenet-1k") == [("table-1/edc", R18, 48.6, False)]

    def test_a_figure_with_settings_only_if_the_run_has_them(self):
        steps = {"dataset__name": "imagenet-1k", "condense__method": "config-c"}
        assert self.held(**steps) == [("table-3/config-c-zeta-1.5", R18, 38.7, False)]
        assert self.held(**steps, evaluate__zeta=3.0) == [("table-3/config-c-zeta-3.0", R18, 38.8, False)]
        assert self.held(**steps, evaluate__zeta=1.7) == []

    def test_a_step_of_the_ladder_finds_the_figure_that_its_settings_are(self):
        assert self.held(dataset__name="imagenet-1k", condense__method="config-g") == [("table-5/alpha-0.50+crop+ema", R18, 48.6, False)]
        assert self.held(dataset__name="imagenet-1k", condense__method="config-b") == [("table-3/config-c-zeta-1.0", R18, 34.4, False)]
        assert self.held(dataset__name="imagenet-1k", condense__method="config-d") == [("table-4/logit-ema-tau-4", R18, 39.5, False)]

    def test_what_its_project_names_instead(self):
        assert self.held(condense__published=["table-1/rded", "table-1/sre2l", "table-1/rded"]) == [
            ("table-1/rded", R18, 37.1, True),
            ("table-1/sre2l", R18, 27.2, True),
        ]

    def test_a_folder_of_images_by_the_dataset_in_the_name(self):
        assert self.held(dataset__name="folder", condense__published=["table-1/edc/cifar100"]) == [("table-1/edc", R18, 63.7, True)]

    def test_nothing_for_images_per_class_that_the_named_row_lacks(self):
        assert self.held(condense__ipc=20, condense__published=["table-1/edc"]) == []

    def test_the_whole_dataset_against_its_own_figure(self):
        held = held_against(run_values(dataset__name="imagenet-21k-p"))
        assert {(each.figure.set, each.figure.top1) for each in held} == {("condensed", 26.8), ("full", 38.5)}

    @pytest.mark.parametrize(
        "values", [{}, {"evaluate.students": "resnet18"}, {"evaluate.students": [R18], "condense.published": ["gone/row"]}]
    )
    def test_nothing_for_a_run_whose_file_says_something_else(self, values):
        assert held_against(values) == []


class TestWhatARunChangesOfItsMethod:
    def test_nothing_for_the_method_as_it_is_whatever_its_seeds_students_and_controls(self):
        values = run_values(condense__seed=3, evaluate__seeds=[7], evaluate__controls=[], compute__threads=1)
        assert changed_settings(values, figure("table-1", "edc", R18, "cifar10")) == []

    def test_the_keys_that_say_otherwise(self):
        values = run_values(synthesise__iterations=10, evaluate__epochs=3)
        assert changed_settings(values, figure("table-1", "edc", R18, "cifar10")) == ["synthesise.iterations", "evaluate.epochs"]

    def test_not_those_that_belong_to_the_figure(self):
        values = run_values(dataset__name="imagenet-1k", condense__method="config-c", evaluate__zeta=3.0, evaluate__epochs=3)
        assert changed_settings(values, figure("table-3", "config-c-zeta-3.0", R18)) == ["evaluate.epochs"]

    def test_not_those_without_effect(self):
        values = run_values(evaluate__zeta=3.0)  # CIFAR-10 has the schedule `multistep`
        assert changed_settings(values, figure("table-1", "edc", R18, "cifar10")) == []

    def test_nothing_is_said_of_a_run_of_another_version(self):
        assert changed_settings({"condense.method": "edc"}, figure("table-1", "edc", R18)) == []
        assert changed_settings(run_values() | {"condense.ipc": "ten"}, figure("table-1", "edc", R18)) == []


class TestAProjectThatNamesFigures:
    def refusal(self, tmp_path, named, dataset="cifar10", overrides=()):
        path = tmp_path / "p.toml"
        path.write_text(f'schema = 1\n[dataset]\nname = "{dataset}"\n[condense]\nipc = 10\npublished = {named}\n')
        try:
            load_project(path, list(overrides))
        except UserError as error:
            return str(error).replace(str(Path(tmp_path)) + "/", "")
        return None

    @pytest.mark.parametrize("named", ["[]", '["table-1/edc"]', '["table-1/edc", "table-1/rded/cifar10"]'])
    def test_that_exist_is_valid(self, tmp_path, named):
        assert self.refusal(tmp_path, named) is None

    def test_that_do_not_exist_is_refused_with_the_line(self, tmp_path):
        assert self.refusal(tmp_path, '["table-1/ecd"]') == "p.toml:6: condense.published: table-1 has no row 'ecd'; did you mean edc?"

    def test_of_another_dataset_is_refused(self, tmp_path):
        assert (
            self.refusal(tmp_path, '["table-2/edc"]')
            == "p.toml:6: condense.published: table-2/edc has figures for imagenet-1k, not for cifar10"
        )

    def test_of_another_dataset_by_an_override_is_not(self, tmp_path):
        assert self.refusal(tmp_path, '["table-1/edc"]', overrides=["dataset.name=digits"]) is None
        both = ["dataset.name=digits", "condense.published=table-1/edc"]
        assert self.refusal(tmp_path, '["table-1/edc"]', overrides=both).startswith("--set condense.published: table-1/edc has figures for")

    def test_of_several_datasets_for_a_folder_must_say_which(self, tmp_path):
        assert "say which your folder holds, as in table-1/edc/cifar10" in self.refusal(tmp_path, '["table-1/edc"]', dataset="folder")
        assert self.refusal(tmp_path, '["table-1/edc/imagenet-1k"]', dataset="folder") is None
        assert self.refusal(tmp_path, '["table-2/edc"]', dataset="folder") is None

    def test_keeps_them_while_images_per_class_are_varied(self, tmp_path):
        assert self.refusal(tmp_path, '["table-1/edc"]', overrides=["condense.ipc=20"]) is None
