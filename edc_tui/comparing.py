"""Runs side by side, as the compare screen shows them: read in a thread, laid out as lines of a table and lines of charts."""

import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from edc_tui.curves import CurveFile, Series
from edc_tui.widgets.chart import Line
from edc_tui.widgets.compare_table import Head, TableLine
from edc_tui.words import status_glyph
from engine.commands.compare import METRIC_WORDS, Shown, column_labels, said_spread, sections, table_notes
from engine.errors import RunError, UserError
from engine.project.plan import STAGES
from engine.runs.compare import Comparison, Facts, Group, compare, read_facts
from engine.runs.layout import Run
from engine.runs.matrix import Entry, Matrix, cross_architecture
from engine.runs.text import printable

TEXT_FORMS = {".csv": "csv", ".md": "markdown", ".tex": "latex", ".json": "json"}
PICTURES = (".svg", ".png")
OWN = re.compile(r"condensed(?:-(.+)-seed\d+)?")  # steps of the method's own evaluation
LOOK_SECONDS = 0.3  # how long one look reads on before it shows what it has
PLOT_SECONDS = 180.0  # after which a plot is given up


@dataclass(frozen=True)
class Reading:
    """What one look found: the comparison of the runs that can be read, and what is wrong with the others."""

    comparison: Comparison | None
    problems: tuple[str, ...] = ()


def read_comparison(runs: Sequence[Run], baseline: Run | None) -> Reading:
    """Read and compare runs; those that cannot be read are left out and told."""
    facts: dict[Run, Facts] = {}
    problems = []
    for run in runs:
        try:
            facts[run] = read_facts(run)
        except UserError as error:
            problems.append(f"{printable(run.project)}: {error}")
    if not facts:
        return Reading(None, tuple(problems))
    return Reading(compare(list(facts.values()), baseline=facts.get(baseline) if baseline else None), tuple(problems))


def slots(comparison: Comparison, runs: Sequence[Run]) -> list[int]:
    """Return for each column a number that stays the same whichever column is the baseline: its place in the order of the runs."""
    place = {str(run.folder): index for index, run in enumerate(runs)}
    first = [min(place.get(facts.folder, len(runs)) for facts in group.runs) for group in comparison.groups]
    return [sorted(first).index(index) for index in first]


def heads(comparison: Comparison, runs: Sequence[Run]) -> list[Head]:
    """Return what stands above the columns."""
    labels, found = column_labels(comparison.groups), []
    for index, (group, label, slot) in enumerate(zip(comparison.groups, labels, slots(comparison, runs), strict=True)):
        words = dict.fromkeys(facts.status for facts in group.runs)
        state = ", ".join(f"{status_glyph(word)} {word}" for word in words)
        found.append(Head(label, slot, f"baseline, {state}" if comparison.baseline and index == 0 else state))
    return found


def table_lines(comparison: Comparison, *, every: bool) -> list[TableLine]:
    """Return the same lines as `edc compare` prints, and below them what their signs mean."""
    blocks = sections(comparison, every, spread_lists=True)
    lines: list[TableLine] = []
    if not every and not any(line.key for block in blocks for line in block) and len(comparison.groups) > 1:
        lines.append(TableLine("They differ in no setting; a shows every one, also versions, commit and machine.", "muted"))
    for block in blocks:
        told = [line for line in block if line.head or any(shown.text for shown in line.cells)]
        if all(line.head for line in told):
            continue
        lines += [TableLine()] if lines else []
        for line in told:
            label = f"  {line.label}" if line.part else line.label
            style = "strong" if line.head else "muted" if line.part else ""
            lines.append(TableLine(label, style, tuple(_cell(shown) for shown in line.cells)))
    return [*lines, *_note_lines(table_notes(comparison, column_labels(comparison.groups), blocks, every))]


def _cell(shown: Shown) -> tuple[str, str]:
    """Return a cell and its style; the best of a row ends in a star, under which the others keep a blank."""
    quiet = shown.text in ("-", "absent")
    good = shown.good if re.search("[1-9]", shown.text) else None  # what reads as no difference is neither
    style = "strong" if shown.best else "muted" if quiet else {True: "better", False: "worse", None: ""}[good]
    return shown.text + (" *" if shown.best else "  "), style


def _note_lines(notes: Sequence[tuple[str, str]]) -> list[TableLine]:
    told = [(sign, words) for sign, words in notes if sign != "settings"]
    width = max((len(sign) for sign, _ in told), default=0)
    return [TableLine(), *(TableLine(f"{sign:<{width}}  {words}", "muted", hang=width + 2) for sign, words in told)] if told else []


def measure_words(measure: tuple[str, str]) -> str:
    """Name a measure of the cross-architecture matrix."""
    words = METRIC_WORDS.get(measure[1], printable(measure[1], 40))
    return words if measure == ("condensed", "over_random") else f"{printable(measure[0], 40)} {words}"


def matrix_lines(comparison: Comparison, measure: tuple[str, str]) -> list[TableLine]:
    """Return a line for each student, those that the images were optimised with marked, and their mean where it can be compared."""
    matrix = cross_architecture(comparison, measure)
    signed = measure[1] == "over_random"
    lines = [TableLine(measure_words(measure), "strong")]
    for student, entries in zip(matrix.students, matrix.entries, strict=True):
        lines.append(TableLine(printable(student), "", tuple(_entry(entry, signed) for entry in entries)))
        if any(entry and entry.delta and (entry.delta.mean or entry.delta.std) for entry in entries):
            lines.append(TableLine("  to baseline", "muted", tuple(_delta(entry) for entry in entries)))
    return [*lines, *_mean_lines(matrix, signed), *_matrix_notes(matrix)]


def _entry(entry: Entry | None, signed: bool) -> tuple[str, str]:
    if entry is None:
        return "·  ", "muted"
    marks = ("°" if entry.observer else " ") + ("*" if entry.best else " ")
    return said_spread(entry.value, signed=signed) + marks, "strong" if entry.best else ""


def _delta(entry: Entry | None) -> tuple[str, str]:
    if entry is None or entry.delta is None:
        return "", ""
    style = "" if not entry.delta.mean else "better" if entry.delta.mean > 0 else "worse"
    return said_spread(entry.delta, signed=True) + "  ", style


def _mean_lines(matrix: Matrix, signed: bool) -> list[TableLine]:
    if matrix.shared < 2:
        return []
    texts = [f"{mean:+.2f}  " if signed else f"{mean:.2f}  " for mean in matrix.means if mean is not None]
    return [TableLine(), TableLine(f"mean of {matrix.shared} students", "", tuple((text, "strong") for text in texts))]


def _matrix_notes(matrix: Matrix) -> list[TableLine]:
    notes = []
    entries = [entry for row in matrix.entries for entry in row]
    if any(entry is not None and entry.observer for entry in entries):
        notes.append(("°", "the images were optimised with this network; without it the student is another architecture"))
    if any(entry is not None and entry.best for entry in entries):
        notes.append(("*", "best of its row"))
    if any(entry is None for entry in entries):
        notes.append(("·", "not measured; a mean counts only students that all columns have measured"))
    return _note_lines(notes)


# Curves.

SHOWN_METRICS = {
    "synthesise": {"loss": "loss of the images", "matching": "matching loss", "classification": "classification loss"},
    "evaluate": {"top1": "top-1 of {student}", "loss": "training loss of {student}"},
}


@dataclass(frozen=True)
class ChartOf:
    """A chart of the comparison: a line for each column, in an order that stays the same."""

    title: str
    lines: tuple[Line, ...]
    x_name: str
    unit: str = ""
    top: float | None = None
    note: str = ""
    ended: bool = True


class CurveStore:
    """The curves of runs, read as far as they have grown; `read` belongs in a thread, series may be read under `guard`."""

    def __init__(self) -> None:
        self.guard: AbstractContextManager = threading.Lock()
        self._files: dict[Path, CurveFile] = {}

    def read(self, comparison: Comparison, runs: Sequence[Run]) -> tuple[list[ChartOf], bool]:
        """Read what is new for a moment; return the charts, accuracy student by student, then losses, and whether there is more to read."""
        groups = [group for _, group in sorted(zip(slots(comparison, runs), comparison.groups, strict=True), key=lambda pair: pair[0])]
        labels = dict(zip(map(id, comparison.groups), column_labels(comparison.groups), strict=True))
        steps = {id(group): self._steps(group) for group in groups}
        more = self._read_on([file for found in steps.values() for files in found.values() for file in files])
        students = list(dict.fromkeys(student for found in steps.values() for stage, student in found if stage == "evaluate"))
        wanted = [("evaluate", student, "top1") for student in students]
        wanted += [("synthesise", "", metric) for metric in SHOWN_METRICS["synthesise"]]
        wanted += [("evaluate", student, "loss") for student in students]
        charts = []
        for stage, student, metric in wanted:
            lines, most = [], 0
            for group in groups:
                series, count = self._series(steps[id(group)].get((stage, student), []), metric)
                lines.append(Line(labels[id(group)], series))
                most = max(most, count)
            title = SHOWN_METRICS[stage][metric].format(student=printable(student, 40))
            note = "reading …" if more else f"means of {most} trainings" if most > 1 else ""
            percent = metric == "top1"
            alive = any(facts.status in ("running", "starting", "stalled", "stopping") for group in groups for facts in group.runs)
            x_name = "epochs" if stage == "evaluate" else "iterations"
            charts.append(ChartOf(title, tuple(lines), x_name, "%" if percent else "", 100.0 if percent else None, note, not alive))
        return [chart for chart in charts if any(len(line.series) for line in chart.lines)], more

    @staticmethod
    def _read_on(files: Sequence[CurveFile]) -> bool:
        """Read each file once and then on for a moment; returns whether there is more."""
        until, waiting = time.monotonic() + LOOK_SECONDS, list(files)
        while waiting:
            waiting = [file for file in waiting if file.read()]
            if time.monotonic() > until:
                break
        return bool(waiting)

    def _steps(self, group: Group) -> dict[tuple[str, str], list[CurveFile]]:
        """Return the curves of a column by stage and student, one for each training."""
        found: dict[tuple[str, str], list[CurveFile]] = {}
        for facts in group.runs:
            for stage in SHOWN_METRICS:
                folder = Path(facts.folder) / "stages" / f"{STAGES.index(stage) + 1}-{stage}"
                for path in sorted(folder.glob("condensed*/metrics.jsonl")):
                    step = OWN.fullmatch(path.parent.name)
                    if step is None:  # under another protocol or with other labels: another task
                        continue
                    student = step[1] or ""
                    found.setdefault((stage, student if stage == "evaluate" else ""), []).append(self._file(path))
        return found

    def _file(self, path: Path) -> CurveFile:
        if path not in self._files:
            self._files[path] = CurveFile(path, guard=self.guard)
        return self._files[path]

    def _series(self, files: Sequence[CurveFile], metric: str) -> tuple[Series, int]:
        """Return the mean of a metric over those trainings that have come as far as the farthest, and how many those are."""
        found = [series for file in files if (series := file.series.get(metric)) is not None and len(series)]
        last = max((series.last[-1] for series in found), default=0)
        found = [series for series in found if series.last[-1] == last]
        return mean_series(found), len(found)


def mean_series(found: Sequence[Series]) -> Series:
    """Return the mean of several series, step by step; what is not finite in one of them is not finite in the mean."""
    if len(found) == 1:
        return found[0]
    points: dict[int, list[tuple[float, float]]] = {}
    for series in found:
        for index, step in enumerate(series.last):
            points.setdefault(step, []).append((series.time[index], series.mean(index)))
    result = Series()
    for step in sorted(points):
        times, values = zip(*points[step], strict=True)
        result.append(step, max(times), statistics.fmean(values))
    return result


# Writing out.


def check_target(text: str) -> str | None:
    """Say what is wrong with the name of a file to write, None when nothing is."""
    path = Path(text.strip()).expanduser()
    if not text.strip() or path.suffix.lower() not in (*TEXT_FORMS, *PICTURES):
        return f"the name must end in one of: {' '.join((*TEXT_FORMS, *PICTURES))}"
    if path.is_dir():
        return "that is a folder; give a file in it"
    if not path.absolute().parent.is_dir():
        return f"there is no folder {printable(path.absolute().parent)}"
    return None


def write_out(comparison: Comparison, path: Path, *, every: bool) -> None:
    """Write a comparison as `edc compare` does, in the form that the file's suffix names; raises UserError or RunError in one line."""
    if path.suffix.lower() in PICTURES:
        _plot(comparison, path)
        return
    from engine.commands.compare_text import WRITERS
    from engine.files import write_json, write_text
    from engine.runs.compare import as_json

    form = TEXT_FORMS[path.suffix.lower()]
    if form == "json":
        write_json(path, as_json(comparison, every=every))
    else:
        write_text(path, WRITERS[form](comparison, every))


def _plot(comparison: Comparison, path: Path) -> None:
    """Draw the curves by `edc compare --plot` in a process of its own, so that the app stays small."""
    folders = [facts.folder for group in comparison.groups for facts in group.runs]
    against = ["--baseline", folders[0]] if comparison.baseline else []
    command = [sys.executable, "-m", "engine.cli", "compare", *folders, *against, "--plot", str(path.absolute()), "--format", "csv"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PLOT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"drawing {printable(path)} took more than {PLOT_SECONDS:.0f} s and was given up") from error
    except OSError as error:
        raise RunError(f"cannot draw {printable(path)}: {error.strerror or error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RunError(printable(lines[-1] if lines else f"drawing {path} failed with status {done.returncode}", 300))
