"""`edc compare` and the published figures of `edc show`: what a user reads, and that every format is what it says."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time

import pytest
import tomlkit

from engine.commands.compare_text import escape_latex
from engine.commands.plot import smoothed
from engine.project.resolve import resolve
from engine.runs.store import create_run

FORMATS = ("table", "csv", "markdown", "latex", "json")


def spread(values):
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
    return {"mean": mean, "std": std, "n": len(values), "values": values}


def make_run(tmp_path, project, values, random=(70.0, 72.0), student="resnet18", curve=None, **changed):
    """Write a finished run of EDC on CIFAR-10, 10 images per class, with these accuracies of seeds 0, 1, …"""
    seeds = list(range(len(values)))
    given = {
        "dataset.name": "cifar10",
        "condense.method": "edc",
        "condense.ipc": 10,
        "evaluate.students": [student],
        "evaluate.seeds": seeds,
    }
    given |= {name.replace("__", "."): value for name, value in changed.items()}
    resolved, problems = resolve(given, resolution=32)
    assert problems == []
    frozen = resolved.project.model_dump(exclude_none=True)
    frozen["frozen"] = {"resolution": 32, "device": "cpu", "precision": "float32", "data_fingerprint": "0" * 64, "host": "here"}
    run = create_run(tmp_path / "projects", project, tomlkit.dumps(frozen))
    results = [
        {"set": name, "student": student, "seeds": seeds, "top1": spread(list(percents))}
        for name, percents in (("condensed", values), ("random", random[: len(values)]))
    ]
    summary = {
        "schema": 1,
        "run": run.id,
        "project": project,
        "dataset": given["dataset.name"],
        "method": given["condense.method"],
        "ipc": given["condense.ipc"],
        "stages": {"synthesise": {"status": "done", "seconds": 60.0 + len(values), "peak_memory_bytes": 1 << 20}},
        "condensed": {"images": 100, "image_bytes": 307200, "label_bytes": 0},
        "results": results,
    }
    run.summary.write_text(json.dumps(summary))
    run.exit.write_text(json.dumps({"t": time.time(), "returncode": 0, "pid": 1}))
    for number, stage, step, metric, points in curve or ():
        folder = run.stage_folder(number, stage, step)
        folder.mkdir(parents=True)
        lines = [json.dumps({"t": 0.0, "s": at, "k": {metric: value}}) for at, value in enumerate(points, start=1)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run


LOSS = (4, "synthesise", "condensed", "loss", [100.0 / step for step in range(1, 300)])
ACCURACY = [(6, "evaluate", f"condensed-resnet18-seed{seed}", "top1", [10.0, 40.0, 70.0 + seed]) for seed in (0, 1)]


@pytest.fixture
def runs(tmp_path):
    """Two projects that differ in zeta and what follows from it."""
    make_run(tmp_path, "slow", [80.0, 82.0], evaluate__schedule="cosine", curve=[LOSS, *ACCURACY])
    make_run(tmp_path, "fast", [79.0, 84.0], evaluate__schedule="cosine", evaluate__zeta=1.0, curve=[LOSS, *ACCURACY])


class TestTheTable:
    def test_shows_what_differs_results_differences_and_costs(self, edc, runs):
        status, output, errors = edc("compare", "slow", "fast", "--baseline", "slow")
        assert (status, errors) == (0, "")
        lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
        assert ["evaluate.zeta", "2", "1"] in lines
        assert not any(line[0] == "evaluate.schedule" for line in lines)
        assert ["condensed top-1 %", "81.00 ± 1.41", "81.50 ± 3.54 *"] in lines
        assert ["to baseline", "+0.50 ± 2.12"] in lines
        assert ["over random", "+10.00 ± 0.00", "+10.50 ± 2.12 *"] in lines
        assert ["synthesise", "1 min 02 s", "1 min 02 s"] in lines
        assert ["images", "300.0 KiB", "300.0 KiB"] in lines
        assert lines[1][0] == "slow" and lines[1][-1] == "baseline"

    def test_a_difference_over_other_seeds_than_the_result_says_over_how_many(self, edc, tmp_path):
        make_run(tmp_path, "short", [80.0, 82.0])
        make_run(tmp_path, "long", [79.0, 84.0, 86.0], evaluate__zeta=1.0)
        _, output, _ = edc("compare", "short", "long", "--baseline", "short")
        lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
        assert ["to baseline", "+0.50 ± 2.12 (n 2)"] in lines  # -1 and 2, of three seeds
        assert ["trainings", "2", "3"] in lines

    def test_a_column_without_the_first_result_has_its_own_number_of_trainings(self, edc, tmp_path):
        for name, labels in (("asked", "online"), ("kept", "epoch-soft")):
            run = make_run(tmp_path, name, [80.0, 82.0], evaluate__zeta=1.0 if labels == "online" else 2.0)
            summary = json.loads(run.summary.read_text())
            summary["results"] = [row | {"labels": labels, "protocol": "published", "augmentation": True} for row in summary["results"]]
            run.summary.write_text(json.dumps(summary))
        _, output, _ = edc("compare", "asked", "kept")
        assert "(n 2)" not in output and re.search(r"trainings +2 +2\n", output)
        assert "where no others are named" not in output
        assert re.search(r"labels +online, where no others are named", edc("compare", "asked")[1])

    def test_a_difference_without_a_common_seed_says_so(self, edc, tmp_path):
        make_run(tmp_path, "one", [80.0, 82.0])
        make_run(tmp_path, "other", [84.0, 86.0], condense__seed=1, evaluate__zeta=1.0)
        _, output, _ = edc("compare", "one", "other", "--baseline", "one")
        assert re.search(r"to baseline +\+4.00 \(unpaired\)", output)
        assert "difference of the means, since no seed was trained in both" in output

    def test_shows_the_gap_to_the_paper_and_how_the_figure_was_found(self, edc, runs):
        _, output, _ = edc("compare", "slow", "fast")
        lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
        assert ["published", "79.1 ± 0.3", "79.1 ± 0.3"] in lines
        assert ["gap", "+1.90", "+2.40"] in lines
        assert ["from", "table-1/edc", "table-1/edc"] in lines
        words = " ".join(output.split())
        assert "Table 1 of Elucidating the Design Space of Dataset Condensation" in words
        assert "found by dataset, images per class, method and student: slow, fast" in words
        assert "slow departs from its method in evaluate.schedule" in words

    def test_says_when_the_project_named_the_figure(self, edc, tmp_path):
        make_run(tmp_path, "named", [80.0], condense__published=["table-1/g-vbsm"])
        _, output, _ = edc("compare", "named")
        assert "table-1/g-vbsm" in output and "+26.50" in output
        assert "named by the project" in output and "found by" not in output

    @pytest.mark.parametrize("width", [60, 80, 120])
    def test_fits_the_terminal_with_the_rest_below_and_the_baseline_in_each_block(self, edc, tmp_path, monkeypatch, width):
        for number in range(7):
            make_run(tmp_path, f"a-project-with-a-rather-long-name-{number}", [80.0 + number], evaluate__epochs=number + 1)
        monkeypatch.setenv("COLUMNS", str(width))
        names = [f"a-project-with-a-rather-long-name-{number}" for number in range(7)]
        _, output, _ = edc("compare", *names, "--baseline", names[0])
        assert max(map(len, output.splitlines())) <= width
        blocks = output.count("evaluate.epochs  ")
        rows = [line for line in output.splitlines() if line.startswith("condensed top-1")]
        assert len(rows) == blocks > 1
        assert all("80.00" in line for line in rows)
        shown = " ".join(rows)
        assert all(f"{80 + number}.00" in shown for number in range(7))

    def test_tells_a_run_alone_and_runs_of_several_seeds_in_one_column(self, edc, tmp_path):
        make_run(tmp_path, "one", [80.0, 82.0])
        make_run(tmp_path, "two", [84.0, 86.0], condense__seed=1)
        _, output, _ = edc("compare", "one", "two")
        assert "one +1" in output
        assert re.search(r"condensed top-1 % +83.00 ± 2.58\n", output)
        assert re.search(r"trainings +4\n", output)

    def test_says_that_nothing_differs(self, edc, tmp_path):
        make_run(tmp_path, "one", [80.0])
        make_run(tmp_path, "two", [81.0])
        _, output, _ = edc("compare", "one", "two")
        assert "they differ in none; --all shows every one" in output
        _, output, _ = edc("compare", "one", "two", "--all")
        assert re.search(r"frozen.host +here +here\n", output)

    def test_gives_each_network_of_a_list_its_line(self, edc, tmp_path):
        make_run(tmp_path, "one", [80.0], observers__labels=["resnet18", "wrn-16-2"])
        make_run(tmp_path, "two", [81.0], observers__labels=["resnet18", "convnet-d1"])
        _, output, _ = edc("compare", "one", "two")
        lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
        place = lines.index(["observers.labels", "resnet18", "resnet18"])
        assert lines[place + 1 : place + 3] == [["wrn-16-2"], ["convnet-d1"]]

    def test_gives_each_entry_of_a_table_its_line(self, edc, tmp_path):
        make_run(tmp_path, "one", [80.0], evaluate__student_learning_rates={"resnet18": 0.002})
        make_run(tmp_path, "two", [81.0], evaluate__student_learning_rates={"resnet18": 0.004})
        _, output, _ = edc("compare", "one", "two")
        assert re.search(r"evaluate.student_learning_rates +resnet18=0.002 *\n +resnet18=0.004 *\n", output)

    def test_a_name_cannot_steer_the_terminal(self, edc, tmp_path):
        run = make_run(tmp_path, "evil", [80.0])
        run.run_toml.write_text(run.run_toml.read_text().replace('title = ""', 'title = "\\u001b[31mred\\u0007"'))
        for form in FORMATS:
            _, output, _ = edc("compare", "evil", "--all", "--format", form)
            assert "\x1b" not in output and "\x07" not in output, form


class TestFormats:
    def test_json_is_json(self, edc, runs):
        _, output, _ = edc("compare", "slow", "fast", "--format", "json")
        first, second = json.loads(output)["columns"]
        assert first["settings"] == {"evaluate.zeta": 2.0} and second["settings"] == {"evaluate.zeta": 1.0}
        assert first["published"][0]["gap"] == 1.9
        assert edc("compare", "slow", "fast", "--json")[1] == output

    def test_csv_has_a_row_for_each_column_and_numbers_that_can_be_read(self, edc, runs):
        _, output, _ = edc("compare", "slow", "fast", "--baseline", "slow", "--format", "csv")
        first, second = csv.DictReader(io.StringIO(output))
        assert (first["column"], first["evaluate.zeta"], second["evaluate.zeta"]) == ("slow", "2.0", "1.0")
        assert float(second["condensed.resnet18.top1"]) == 81.5
        assert float(second["condensed.resnet18.top1.delta"]) == 0.5
        assert first["condensed.resnet18.top1.delta"] == ""
        assert float(first["condensed.resnet18.published.table-1/edc.gap"]) == 1.9

    def test_csv_tells_a_missing_value_from_an_empty_one(self, edc, tmp_path):
        make_run(tmp_path, "one", [80.0], evaluate__controls=[])
        run = make_run(tmp_path, "two", [81.0])
        run.run_toml.write_text(re.sub(r"controls = .*\n", "", run.run_toml.read_text()))
        _, output, _ = edc("compare", "one", "two", "--format", "csv")
        assert [record["evaluate.controls"] for record in csv.DictReader(io.StringIO(output))] == ["[]", ""]

    def test_markdown_is_one_table_with_the_best_in_bold(self, edc, runs):
        _, output, _ = edc("compare", "slow", "fast", "--format", "markdown")
        lines = output.splitlines()
        assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
        assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {5}
        assert lines[1] == "| --- | ---: | ---: |"
        assert "| `evaluate.zeta` | 2 | 1 |" in lines
        assert "| condensed top-1 % | 81.00 ± 1.41 | **81.50 ± 3.54** |" in lines

    def test_latex_is_one_tabular_with_as_many_cells_in_every_row(self, edc, tmp_path, runs):
        make_run(tmp_path, "odd_name&50%", [80.0], evaluate__schedule="cosine", evaluate__zeta=3.0)
        _, output, _ = edc("compare", "slow", "fast", "odd_name&50%", "--format", "latex")
        lines = output.splitlines()
        assert lines[1] == r"\begin{tabular}{lrrr}" and lines[-1] == r"\end{tabular}"
        assert [line for line in lines if line in (r"\toprule", r"\bottomrule")] == [r"\toprule", r"\bottomrule"]
        rows = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {3}
        assert lines[3] == r"& slow & fast & odd\_name\&50\% \\"
        assert r"\texttt{evaluate.zeta} & 2 & 1 & 3 \\" in lines
        assert r"condensed top-1 \% & 81.00 $\pm$ 1.41 & \textbf{81.50 $\pm$ 3.54} & 80.00 \\" in lines
        unescaped = re.sub(r"\\[a-z]+|\\.", "", output)
        assert unescaped.count("{") == unescaped.count("}")

    @pytest.mark.parametrize(
        ("text", "escaped"),
        [
            ("a_b & 50 % of #1", r"a\_b \& 50 \% of \#1"),
            ("$x^2$ ~ {y}", r"\$x\textasciicircum{}2\$ \textasciitilde{} \{y\}"),
            ("back\\slash", r"back\textbackslash{}slash"),
            ("-1.50 ± 0.2", r"$-$1.50 $\pm$ 0.2"),
            ("-", "-"),
            ("sweep-zeta--1 | a---b", r"sweep-zeta-{}-1 \textbar{} a-{}-{}-b"),
        ],
    )
    def test_latex_prints_texts_as_they_are(self, text, escaped):
        assert escape_latex(text) == escaped

    @pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
    def test_a_list_of_hundreds_is_cut_in_tables_for_people_alone(self, edc, tmp_path, form):
        for project, names in (("one", ["a"]), ("two", [f"net{number}" for number in range(400)])):
            make_run(tmp_path, project, [80.0], observers__synthesis=names)
        output = edc("compare", "one", "two", "--format", form)[1]
        assert "net0" in output and ("net399" in output) == (form == "csv")
        assert form == "csv" or max(map(len, output.splitlines())) < 260

    @pytest.mark.parametrize("form", FORMATS[1:])
    def test_nothing_else_is_printed_also_when_a_plot_is_drawn(self, edc, runs, form):
        _, plain, _ = edc("compare", "slow", "fast", "--format", form)
        status, output, errors = edc("compare", "slow", "fast", "--format", form, "--plot", "x.svg")
        assert (status, output) == (0, plain)
        assert errors == "wrote x.svg\n"


class TestMatrix:
    """`--matrix`: students by runs, each set and evaluation by itself."""

    @pytest.fixture
    def students(self, tmp_path):
        make_run(tmp_path, "one", [80.0, 82.0])
        run = make_run(tmp_path, "two", [70.0, 72.0])
        summary = json.loads(run.summary.read_text())
        summary["results"] += [
            {"set": "condensed", "student": "vit-tiny", "seeds": [0, 1], "top1": spread([40.0, 44.0])},
            {"set": "condensed", "student": "resnet18", "labels": "hard", "seeds": [0, 1], "top1": spread([60.0, 62.0])},
        ]
        run.summary.write_text(json.dumps(summary))

    def test_has_a_line_for_each_student_and_a_block_for_each_evaluation(self, edc, students):
        _, output, _ = edc("compare", "one", "two", "--matrix", "--format", "markdown")
        assert output.splitlines()[2:] == [
            "| **condensed, top-1 %** |  |  |",
            "| resnet18 | **81.00 ± 1.41** | 71.00 ± 1.41 |",
            "| vit-tiny |  | 42.00 ± 2.83 |",
            "| **random, top-1 %** |  |  |",
            "| resnet18 | 71.00 ± 1.41 | 71.00 ± 1.41 |",
            "| **condensed, hard labels, top-1 %** |  |  |",
            "| resnet18 |  | 61.00 ± 1.41 |",
        ]

    def test_is_a_csv_with_a_row_for_each_student(self, edc, students):
        _, output, _ = edc("compare", "one", "two", "--matrix", "--format", "csv")
        records = list(csv.DictReader(io.StringIO(output)))
        assert [(record["trained on"], record["student"], record["one"], record["two"]) for record in records] == [
            ("condensed", "resnet18", "81.0", "71.0"),
            ("condensed", "vit-tiny", "", "42.0"),
            ("random", "resnet18", "71.0", "71.0"),
            ("condensed, hard labels", "resnet18", "", "61.0"),
        ]


class TestPlots:
    def test_an_svg_is_the_same_bytes_every_time_and_holds_labels_and_figures(self, edc, runs, tmp_path):
        edc("compare", "slow", "fast", "--plot", "one.svg")
        edc("compare", "slow", "fast", "--plot", "two.svg")
        first = (tmp_path / "one.svg").read_bytes()
        assert first == (tmp_path / "two.svg").read_bytes()
        text = first.decode()
        for words in ("slow", "fast", "loss of the images", "top-1 of resnet18, %", "edc, Table 1: 79.1"):
            assert words in text, words
        assert ">100<" in text  # a logarithmic axis with plain numbers, for the loss falls over two decades

    def test_a_png_is_an_image(self, edc, runs, tmp_path):
        from PIL import Image

        edc("compare", "slow", "fast", "--plot", "out.png")
        with Image.open(tmp_path / "out.png") as image:
            assert image.width > 800

    def test_without_images_that_are_optimised_the_loss_is_the_students(self, edc, tmp_path):
        make_run(tmp_path, "drawn", [80.0], curve=[(6, "evaluate", "condensed-resnet18-seed0", "loss", [3.0, "NaN", 1.0])])
        status, _, _ = edc("compare", "drawn", "--plot", "x.svg")
        assert status == 0
        assert "loss of the students" in (tmp_path / "x.svg").read_text()

    def test_names_are_no_formulas_and_no_markup(self, edc, tmp_path):
        make_run(tmp_path, "_$x$<b>", [80.0], curve=[LOSS])
        status, _, errors = edc("compare", "_$x$<b>", "--plot", "x.svg")
        assert (status, errors) == (0, "wrote x.svg\n")
        assert "_$x$&lt;b&gt;" in (tmp_path / "x.svg").read_text()

    @pytest.mark.parametrize(
        ("name", "says"), [("x.pdf", "x.pdf must end in .svg or .png"), ("no/x.svg", "there is no folder"), ("d.svg", "d.svg is a folder")]
    )
    def test_a_file_that_cannot_be_is_refused_before_anything_is_read(self, edc, tmp_path, name, says):
        make_run(tmp_path, "one", [80.0])
        (tmp_path / "d.svg").mkdir()
        status, output, errors = edc("compare", "one", "--plot", name)
        assert (status, output, errors.count("\n")) == (2, "", 1)
        assert errors.startswith("edc: --plot: ") and says in errors

    def test_runs_without_curves_are_refused(self, edc, tmp_path):
        make_run(tmp_path, "one", [80.0])
        status, _, errors = edc("compare", "one", "--plot", "x.svg")
        assert (status, errors) == (2, "edc: --plot: none of these runs has curves yet\n")
        assert not (tmp_path / "x.svg").exists()

    def test_a_running_mean_keeps_gaps_and_counts_no_value_twice(self):
        points = [(1, 1.0), (2, 2.0), (3, float("nan")), (4, 4.0), (5, 9.0)]
        smooth = smoothed(points, 2)
        assert [step for step, _ in smooth] == [1, 2, 3, 4, 5]
        assert [value for index, (_, value) in enumerate(smooth) if index != 2] == [1.5, 1.5, 6.5, 6.5]
        assert smooth[2][1] != smooth[2][1]


class TestWrongUse:
    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["none"], "no run or project none"),
            (["one", "--baseline", "none"], "no run or project none"),
            (["one", "--format", "tex"], "--format: 'tex' is not a format; choose one of: table, csv, markdown, latex, json"),
            ([], "Missing argument 'RUN'"),
        ],
    )
    def test_is_one_line_and_status_2(self, edc, tmp_path, words, says):
        make_run(tmp_path, "one", [80.0])
        status, output, errors = edc("compare", *words)
        assert (status, output, errors.count("\n")) == (2, "", 1)
        assert says in errors

    def test_a_run_that_cannot_be_read_is_named(self, edc, tmp_path):
        run = make_run(tmp_path, "one", [80.0])
        run.run_toml.write_text("")
        assert edc("compare", "one") == (2, "", f"edc: run {run.id}: run.toml is empty\n")

    def test_nothing_heavy_is_imported(self, tmp_path, runs):
        heavy = "[name for name in ('torch', 'textual', 'matplotlib') if name in sys.modules]"
        code = f"import sys; from engine.cli import main\ntry: main()\nfinally: print({heavy})"
        environment = {**os.environ, "EDC_PROJECTS": str(tmp_path / "projects")}
        done = subprocess.run(
            [sys.executable, "-c", code, "compare", "slow", "fast"], capture_output=True, text=True, env=environment, check=True
        )
        assert done.stdout.endswith("[]\n")


class TestShow:
    def test_has_the_published_figure_and_the_gap_beside_the_condensed_set(self, edc, runs):
        _, output, _ = edc("show", "slow")
        lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
        assert ["condensed", "81.00 ± 1.41", "79.1 ± 0.3", "+1.90", "2"] in lines
        assert "found by dataset, images per class, method and student" in output
        assert "the run departs from its method in evaluate.schedule" in output

    def test_has_no_such_columns_for_a_run_that_nothing_is_published_of(self, edc, tmp_path):
        make_run(tmp_path, "one", [80.0], condense__ipc=3)
        _, output, _ = edc("show", "one")
        assert "published" not in output and "gap" not in output

    def test_tells_programs_too(self, edc, runs):
        _, output, _ = edc("show", "slow", "--json")
        (held,) = json.loads(output)["published"]
        assert (held["name"], held["top1"], held["std"], held["gap"], held["named"]) == ("table-1/edc", 79.1, 0.3, 1.9, False)


def test_the_command_explains_itself_with_examples(edc):
    status, output, _ = edc("compare", "--help")
    assert status == 0
    assert "\n    edc compare small large --baseline small --plot curves.svg" in output
