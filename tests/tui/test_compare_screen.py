"""Comparing runs on the screen: what a user sees, changes and writes out."""

import csv
import json
import math
import subprocess
import sys

import pytest
from app_driver import run_async, screen_svg, screen_text, until
from compared import STUDENTS, compared_run, folder

from edc_tui.app import EdcApp
from edc_tui.comparing import CurveStore, mean_series, read_comparison, write_out
from edc_tui.curves import Series
from edc_tui.keys import KEYS
from edc_tui.screens.compare import CompareScreen
from edc_tui.screens.gallery import GalleryScreen
from edc_tui.screens.run import RunScreen
from edc_tui.widgets.compare_table import CompareTable
from engine.runs.matrix import cross_architecture

SIZE = (120, 40)


@pytest.fixture
def three(projects):
    """Three finished runs that differ in a weight and in what they reached."""
    losses, epochs = [10.0 / step for step in range(1, 41)], range(1, 31)
    return [
        compared_run(
            projects, name, [base, base + 1, base + 2], random=[50.0, 51.0, 52.0], seconds=seconds,
            student_results={"convnet-w128": [base - 10, base - 9, base - 8]}, match__weight=weight,
            losses=losses, accuracies=[[base * epoch / 30 for epoch in epochs] for _ in range(2)],
        )
        for name, base, weight, seconds in (("first", 60.0, 0.1, 60.0), ("second", 64.0, 0.5, 30.0), ("third", 55.0, 1.0, 90.0))
    ]  # fmt: skip


def comparing(projects, runs, story, size=SIZE):
    """Compare runs and live through a story."""

    async def live():
        app = EdcApp(projects)
        async with app.run_test(size=size, notifications=True) as pilot:
            app.open_compare(runs)
            await until(pilot, lambda text: "compare" in text and "reading" not in text)
            await story(pilot)

    run_async(live())


def line_of(text, start):
    """The first line that begins so, without the scroll bar."""
    return next(line.strip(" │┃") for line in text.splitlines() if line.strip().startswith(start))


class TestTheTable:
    def test_it_shows_what_differs_and_what_was_reached_with_differences_to_the_first(self, projects, three):
        async def story(pilot):
            text = await until(pilot, lambda text: "match.weight" in text)
            assert line_of(text, "match.weight").split() == ["match.weight", "0.1", "0.5", "1"]
            assert "condense.ipc" not in text and "evaluate.epochs" not in text
            lines = [line.strip(" │┃") for line in text.splitlines()]
            at = lines.index(next(line for line in lines if "condensed top-1" in line))
            assert lines[at].split("%")[1].split() == ["61.00", "±", "1.00", "65.00", "±", "1.00", "*", "56.00", "±", "1.00"]
            assert lines[at + 1].split() == ["to", "baseline", "+4.00", "±", "0.00", "-5.00", "±", "0.00"]
            assert "baseline, ✓ done" in text

        comparing(projects, three, story)

    def test_the_papers_figure_and_the_gap_to_it_stand_below(self, projects, three):
        async def story(pilot):
            text = await until(pilot, lambda text: "published" in text)
            assert line_of(text, "published").split()[1:4] == ["79.1", "±", "0.3"]
            assert line_of(text, "gap").split() == ["gap", "-18.10", "-14.10", "-23.10"]

        comparing(projects, three, story)

    def test_it_says_the_same_as_the_command_line(self, projects, three):
        printed = subprocess.run(
            [sys.executable, "-m", "engine.cli", "compare", *(str(run.folder) for run in three), "--baseline", str(three[0].folder)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            shown = pilot.app.screen.query_one("#table", CompareTable).lines
            cells = [[line.label.strip(), *(text.strip() for text, _ in line.cells)] for line in shown if line.cells]
            for line in cells:
                assert " ".join(" ".join(line).split()) in [" ".join(row.split()) for row in printed.splitlines()]
            assert len(cells) > 15

        comparing(projects, three, story)

    def test_every_setting_is_there_on_request(self, projects, three):
        async def story(pilot):
            await until(pilot, lambda text: "differences only" in text)
            await pilot.press("a")
            await until(pilot, lambda text: "everything" in text and "dataset.name" in text)
            await pilot.press("a")
            await until(pilot, lambda text: "differences only" in text and "dataset.name" not in text)

        comparing(projects, three, story)

    def test_another_run_becomes_the_baseline_and_then_none(self, projects, three):
        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("right", "b")
            text = await until(pilot, lambda text: line_of(text, "match.weight").split() == ["match.weight", "0.5", "0.1", "1"])
            assert "-4.00 ±" in text and "+4.00 ±" not in text
            await pilot.press("b")
            await until(pilot, lambda text: "to baseline" not in text and "baseline," not in text)
            await pilot.press("right", "right", "b")
            await until(pilot, lambda text: "+9.00 ±" in text)

        comparing(projects, three, story)

    def test_markers_of_runs_stay_when_the_baseline_changes(self, projects, three):
        async def story(pilot):
            text = await until(pilot, lambda text: "● first" in text)
            assert "■ second" in text and "▲ third" in text
            await pilot.press("right", "right", "b")
            await until(pilot, lambda text: "baseline" in text and text.index("▲ third") < text.index("● first"))

        comparing(projects, three, story)

    def test_runs_that_differ_in_their_seed_alone_share_a_column(self, projects, three):
        more = compared_run(projects, "first", [70.0, 71.0, 72.0], match__weight=0.1, condense__seed=1)

        async def story(pilot):
            text = await until(pilot, lambda text: "first +1" in text)
            assert "in 3 columns" in text and "66.00 ± 5.55" in line_of(text, "condensed top-1")

        comparing(projects, [*three, more], story)

    @pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
    def test_it_looks_the_same_every_time_at_every_size(self, projects, three, size):
        pictures = []

        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            for key in ("1", "2", "3"):
                await pilot.press(key)
                await pilot.pause(0.3)
                text = screen_text(pilot.app)
                assert all(len(line) <= size[0] for line in text.splitlines()) and len(text.splitlines()) <= size[1]
            pictures.append(screen_svg(pilot.app))

        for _ in range(2):
            comparing(projects, three, story, size)
        assert pictures[0] == pictures[1]

    def test_where_columns_have_no_room_the_baseline_stays_and_the_others_come_one_after_the_other(self, projects):
        runs = [compared_run(projects, f"run-number-{number}", [60.0 + number] * 3, match__weight=float(number)) for number in range(1, 7)]

        async def story(pilot):
            text = await until(pilot, lambda text: "3 more →" in text)
            assert "● run-number-1" in text and "▲ run-number-3" in text and "◆" not in text
            for _ in range(5):
                await pilot.press("right")
            text = await until(pilot, lambda text: "□ run-number-6" in text)
            assert "● run-number-1" in text and "← 3 more" in text and "■" not in text

        comparing(projects, runs, story, (80, 24))

    def test_it_scrolls_and_takes_columns_out(self, projects, three):
        async def story(pilot):
            text = await until(pilot, lambda text: "match.weight" in text)
            assert "best of its row" not in text
            await pilot.press("end")
            await until(pilot, lambda text: "best of its row" in text and "condensed top-1" not in text)
            await pilot.press("home", "right", "d")
            text = await until(pilot, lambda text: "second" not in text)
            assert "first" in text and "third" in text and "2 runs" in text
            await pilot.press("d")
            await pilot.pause(0.3)
            assert "2 runs" in screen_text(pilot.app), "two are the fewest that can be compared"

        comparing(projects, three, story, (80, 24))

    def test_a_key_goes_from_section_to_section(self, projects, three):
        async def story(pilot):
            def at_top(text):
                return text.splitlines()[4].strip(" │┃")

            await until(pilot, lambda text: at_top(text).startswith("match.weight"))
            seen = []
            for _ in range(3):
                await pilot.press("s")
                await pilot.pause(0.1)
                seen.append(at_top(screen_text(pilot.app)))
            assert seen == ["resnet18", "convnet-w128", "time"]
            await pilot.press("s", "s")  # to the end, then to the beginning
            await until(pilot, lambda text: at_top(text).startswith("match.weight"))

        comparing(projects, three, story, (80, 24))

    def test_from_a_column_one_goes_to_its_run_and_to_its_images(self, projects, three):
        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("right", "enter")
            await until(pilot, lambda text: isinstance(pilot.app.screen, RunScreen))
            assert pilot.app.screen.run == three[1]
            await pilot.press("escape")
            await until(pilot, lambda text: isinstance(pilot.app.screen, CompareScreen))
            await pilot.press("i")
            await until(pilot, lambda text: isinstance(pilot.app.screen, GalleryScreen))
            assert pilot.app.screen.runs == [three[0], three[1]]

        comparing(projects, three, story)

    def test_what_a_run_finds_meanwhile_is_shown(self, projects, three):
        async def story(pilot):
            await until(pilot, lambda text: "61.00" in text)
            await pilot.pause(0.2)
            summary = json.loads(three[0].summary.read_text())
            summary["results"][0]["top1"]["values"] = [90.0, 90.0, 90.0]
            three[0].summary.write_text(json.dumps(summary))
            await until(pilot, lambda text: "90.00 ± 0.00" in text)

        comparing(projects, three, story)


class TestCurves:
    def test_accuracies_and_losses_lie_over_one_another_with_a_line_for_each_run(self, projects, three):
        async def story(pilot):
            await pilot.press("2")
            text = await until(pilot, lambda text: "top-1 of resnet18" in text)
            assert "loss of the images" in text and "means of 2 trainings" in text
            assert "● first" in text and "■ second" in text and "▲ third" in text
            assert "64.00%" in text
            await pilot.press("z")
            text = await until(pilot, lambda text: "loss of the images" not in text)
            await pilot.press("c")
            await until(pilot, lambda text: "loss of the images" in text and "chart 2 of" in text)

        comparing(projects, three, story)

    def test_lines_keep_their_markers_when_the_baseline_changes(self, projects, three):
        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("right", "right", "b", "2")
            text = await until(pilot, lambda text: "top-1 of resnet18" in text)
            assert "● first" in text and "▲ third" in text

        comparing(projects, three, story)

    def test_a_run_at_work_is_followed(self, projects, three, live_run):
        run, _ = live_run("at-work", results=[])
        (run.folder / "run.toml").write_text((three[0].folder / "run.toml").read_text().replace("0.1", "0.2"))

        async def story(pilot):
            await pilot.press("2")
            await until(pilot, lambda text: "loss of the images" in text)
            from app_driver import write_metrics

            write_metrics(folder(run, "synthesise", "condensed"), [(step, {"loss": 77.25}) for step in range(1, 5)])
            await until(pilot, lambda text: "at-work 77.25" in text)

        comparing(projects, [three[0], run], story)

    def test_runs_without_curves_say_so(self, projects):
        runs = [compared_run(projects, name, [60.0] * 3, match__weight=weight) for name, weight in (("a", 0.1), ("b", 0.2))]

        async def story(pilot):
            await pilot.press("2")
            text = await until(pilot, lambda text: "none of these runs has curves yet" in text)
            assert "Smooth" not in text and "Chart" not in text

        comparing(projects, runs, story)

    def test_a_column_is_the_mean_of_the_trainings_that_have_come_farthest(self, projects, three):
        reading = read_comparison(three, three[0])
        file = folder(three[0], "evaluate", "condensed-resnet18-seed2") / "metrics.jsonl"
        file.write_text("\n".join(json.dumps({"t": 0.0, "s": epoch, "k": {"top1": 1.0}}) for epoch in range(1, 6)) + "\n")
        (chart, *_), more = CurveStore().read(reading.comparison, three)
        assert not more
        assert [list(line.series.last)[-1] for line in chart.lines] == [30, 30, 30]
        assert chart.lines[0].series.latest == pytest.approx(60.0)

    def test_long_curves_are_shown_while_they_are_read(self, projects):
        runs = [compared_run(projects, name, [60.0] * 3, match__weight=weight) for name, weight in (("a", 0.1), ("b", 0.2))]
        for run in runs:
            lines = [json.dumps({"t": 0.01 * step, "s": step, "k": {"loss": 100.0 / step}}) for step in range(1, 60_001)]
            (folder(run, "synthesise", "condensed") / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        store, looks = CurveStore(), 0
        comparison, more = read_comparison(runs, runs[0]).comparison, True
        while more:
            (chart, *_), more = store.read(comparison, runs)
            looks += 1
            assert len(chart.lines[0].series) and (chart.note == "reading …") == more
        assert looks > 1 and [line.series.points for line in chart.lines] == [60_000, 60_000]

    def test_a_mean_goes_step_by_step_and_shows_what_is_not_a_number(self):
        one, other = Series(), Series()
        for step, (a, b) in enumerate([(1.0, 3.0), (2.0, math.nan), (5.0, 6.0)], start=1):
            one.append(step, float(step), a)
            other.append(step, float(step), b)
        mean = mean_series([one, other])
        assert list(mean.last) == [1, 2, 3] and [mean.mean(0), mean.mean(2)] == [2.0, 5.5] and mean.diverged == 2


class TestStudents:
    def test_students_by_runs_with_their_observers_marked_and_their_means(self, projects, three):
        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("3")
            text = await until(pilot, lambda text: "mean of 2 students" in text)
            assert line_of(text, "mean of 2 students").split()[-3:] == ["56.00", "60.00", "51.00"]
            assert "65.00 ± 1.00°*" in text and "condensed top-1 %" in text
            await pilot.press("v")
            await until(pilot, lambda text: "+14.00" in text and "over random" in text)

        comparing(projects, three, story)

    def test_the_matrix_is_worked_out_from_the_comparison(self, projects, three):
        lone = compared_run(projects, "lone", [58.0, 59.0, 60.0], match__weight=2.0, synthesise__enabled=False)
        matrix = cross_architecture(read_comparison([*three, lone], three[0]).comparison, ("condensed", "top1"))
        assert matrix.students == STUDENTS and matrix.shared == 1 and matrix.means == (None,) * 4
        assert [entry.value.mean for entry in matrix.entries[0]] == [61.0, 65.0, 56.0, 59.0]
        assert [entry.observer for entry in matrix.entries[0]] == [True, True, True, False], "nothing was optimised in the last"
        assert matrix.entries[1][3] is None

    def test_without_results_it_says_so(self, projects, make_run):
        runs = [make_run("a", status="queued"), make_run("b", status="queued")]

        async def story(pilot):
            await pilot.press("3")
            await until(pilot, lambda text: "no student has been trained yet" in text)

        comparing(projects, runs, story)


class TestWritingOut:
    def test_three_runs_are_compared_and_the_table_is_written(self, projects, three, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("w")
            await until(pilot, lambda text: "Write to" in text and "comparison.md" in text)
            await pilot.press("enter")
            await until(pilot, lambda text: "wrote" in text)

        comparing(projects, three, story)
        table = (tmp_path / "comparison.md").read_text()
        assert "| match.weight | 0.1 | 0.5 | 1 |" in table.replace("`", "") and "65.00 ± 1.00" in table

    @pytest.mark.parametrize("name", ["table.csv", "table.tex", "table.json", "table.md"])
    def test_each_form_is_what_the_command_line_prints(self, projects, three, tmp_path, name):
        comparison = read_comparison(three, three[0]).comparison
        write_out(comparison, tmp_path / name, every=False)
        form = {"csv": "csv", "tex": "latex", "json": "json", "md": "markdown"}[name.partition(".")[2]]
        command = [sys.executable, "-m", "engine.cli", "compare", *(str(run.folder) for run in three)]
        command += ["--baseline", str(three[0].folder), "--format", form]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        written = (tmp_path / name).read_text()
        if form == "json":
            assert json.loads(written) == json.loads(printed)
        else:
            assert written == printed
        if form == "csv":
            assert [row["match.weight"] for row in csv.DictReader(written.splitlines())] == ["0.1", "0.5", "1.0"]

    def test_curves_are_drawn_in_another_process(self, projects, three, tmp_path):
        pytest.importorskip("matplotlib")

        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("2", "w")
            await until(pilot, lambda text: "curves.svg" in text)
            await pilot.press("ctrl+u", *str(tmp_path / "out.svg"), "enter")
            await until(pilot, lambda text: "wrote" in text, 60)

        comparing(projects, three, story)
        assert "<svg" in (tmp_path / "out.svg").read_text()

    def test_a_name_that_cannot_be_written_is_told_before_anything_is_done(self, projects, three, tmp_path):
        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("w", "ctrl+u", *"table.doc", "enter")
            await until(pilot, lambda text: "must end in one of" in text)
            await pilot.press("ctrl+u", *"/nowhere/at/all/t.md", "enter")
            await until(pilot, lambda text: "there is no folder" in text)
            await pilot.press("escape")
            await until(pilot, lambda text: "Write to" not in text)

        comparing(projects, three, story)

    def test_a_file_that_is_there_is_replaced_only_after_asking(self, projects, three, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "comparison.md").write_text("mine")

        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("w", "enter")
            await until(pilot, lambda text: "Replace comparison.md?" in text)
            await pilot.press("n")
            await pilot.pause(0.2)
            assert (tmp_path / "comparison.md").read_text() == "mine"
            await pilot.press("w", "enter")
            await until(pilot, lambda text: "Replace comparison.md?" in text)
            await pilot.press("y")
            await until(pilot, lambda text: "wrote" in text)
            assert "match" in (tmp_path / "comparison.md").read_text()

        comparing(projects, three, story)


class TestBrokenAndOdd:
    def test_a_run_that_cannot_be_read_is_told_and_the_others_are_compared(self, projects, three):
        three[1].run_toml.write_text("not = [toml")

        async def story(pilot):
            text = await until(pilot, lambda text: "run.toml is not valid TOML" in text)
            assert "match.weight" in text and "▲" not in text

        comparing(projects, three, story)

    def test_when_none_can_be_read_that_is_all_there_is(self, projects, make_run):
        runs = [make_run("a"), make_run("b")]
        for run in runs:
            run.run_toml.unlink()

        async def story(pilot):
            await until(pilot, lambda text: "run.toml is missing" in text)
            await pilot.press("a", "b", "w", "2", "3", "1", "enter")
            assert isinstance(pilot.app.screen, CompareScreen)

        comparing(projects, runs, story)

    @pytest.mark.parametrize("summary", ["", "[]", '{"results": 3, "stages": [], "condensed": "x"}', '{"results": [{"set": null}]}'])
    def test_broken_summaries_break_nothing(self, projects, three, summary):
        three[0].summary.write_text(summary)

        async def story(pilot):
            await until(pilot, lambda text: "match.weight" in text)
            await pilot.press("3", "2", "1")

        comparing(projects, three, story)

    def test_names_cannot_steer_the_terminal(self, projects):
        run = compared_run(projects, "[b]日本語[b]", [60.0] * 3, match__weight=0.1)
        other = compared_run(projects, "plain", [61.0] * 3, match__weight=0.2)
        summary = json.loads(run.summary.read_text())
        summary["results"][0]["student"] = "e\x1b[31mv\nil[/]"
        run.summary.write_text(json.dumps(summary))

        async def story(pilot):
            text = await until(pilot, lambda text: "match.weight" in text)
            assert "[b]日本語[b]" in text and "\x1b" not in text
            for key in ("3", "2", "1"):
                await pilot.press(key)
                await pilot.pause(0.2)
                assert "\x1b" not in screen_text(pilot.app)

        comparing(projects, [run, other], story, (80, 24))


def test_every_key_of_comparing_does_something_there():
    for key in KEYS["compare"]:
        assert hasattr(CompareScreen, f"action_{key.action.partition('(')[0]}"), key.id
    for key in KEYS["table"]:
        assert hasattr(CompareTable, f"action_{key.action.partition('(')[0]}"), key.id
