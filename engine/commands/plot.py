"""`edc compare --plot`: loss and accuracy curves of runs laid over one another, as SVG or PNG."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UserError
from engine.files import replacing
from engine.project.published import table_label
from engine.runs.compare import Comparison
from engine.runs.curves import Curve, curves, reduced
from engine.runs.layout import open_run
from engine.runs.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
EVERY_POINT = 1_000_000  # smoothing wants them all
POINTS = 1000  # of a line, more than a panel is wide
SMOOTH_FROM = 100  # points; longer losses are drawn as running means of a fiftieth of them, over their own faint selves
# Okabe and Ito's colours, which stay apart for colour-blind eyes, on dashes of another number, so that no pair comes twice before 35.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[tuple[int, tuple[float, ...]] | str, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (8, 3)))
PANELS_A_ROW = 3
PANEL_INCHES = (4.6, 3.3)
DECADE = 10.0  # a loss whose largest value is so many times its smallest is drawn on a logarithmic axis
SETTINGS = {
    "svg.hashsalt": "edc",  # else ids in the file are drawn by chance
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are no formulas
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.4,
}


def check_plot(path: Path) -> None:
    """Raise UserError when `path` cannot be a plot: another suffix, no such folder, no matplotlib."""
    from importlib.util import find_spec

    shown = printable(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--plot: {shown} must end in {' or '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"--plot: {shown} is a folder")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot: there is no folder {printable(path.absolute().parent)}")
    if find_spec("matplotlib") is None:
        raise UserError("--plot: needs matplotlib; `pip install matplotlib` brings it")


def draw_plot(comparison: Comparison, path: Path) -> None:
    """Draw the loss of the images, or of the students where no images are optimised, and each student's accuracy, by column.

    A column's seeds are drawn as single lines of loss, and as mean and deviation of accuracy. Raises UserError when no run has curves
    yet, RunError when the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    runs = [[open_run(Path(facts.folder)) for facts in group.runs] for group in comparison.groups]
    drawn = [[curve for run in column for curve in curves(run, limit=EVERY_POINT)] for column in runs]
    students = list(dict.fromkeys(curve.student for column in drawn for curve in column if _is_accuracy(curve)))
    stage = "synthesise" if any(curve.stage == "synthesise" for column in drawn for curve in column) else "evaluate"
    losses = [[curve for curve in column if _is_loss(curve, stage)] for column in drawn]
    if not students and not any(losses):
        raise UserError("--plot: none of these runs has curves yet")
    count = len(students) + any(losses)
    across, down = min(count, PANELS_A_ROW), -(-count // PANELS_A_ROW)
    with matplotlib.rc_context(SETTINGS):
        legend_rows = -(-len(drawn) // across)
        size = (PANEL_INCHES[0] * across, PANEL_INCHES[1] * down + 0.22 * legend_rows + 0.1)
        figure = Figure(figsize=size, layout="constrained")
        axes = [figure.add_subplot(down, across, place + 1) for place in range(count)]
        if any(losses):
            _draw_losses(axes[0], losses, stage)
        for panel, student in zip(axes[any(losses) :], students, strict=True):
            _draw_accuracy(panel, [[curve for curve in column if _is_accuracy(curve) and curve.student == student] for column in drawn])
            _draw_published(panel, comparison, str(student))
            panel.set_title(f"top-1 of {printable(student)}, %", loc="left")
        labels = [f" {printable(group.label)}" for group in comparison.groups]  # the blank keeps a name that begins with `_`
        figure.legend([_sample(index) for index in range(len(labels))], labels, loc="outside lower left", ncols=across, frameon=False)
        suffix = path.suffix.lower()[1:]
        with replacing(path) as temporary:
            figure.savefig(temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else {"Software": None})


def _is_accuracy(curve: Curve) -> bool:
    return curve.metric == "top1" and curve.set == "condensed" and not curve.ending


def _is_loss(curve: Curve, stage: str) -> bool:
    return curve.metric == "loss" and curve.stage == stage and (stage == "synthesise" or (curve.set == "condensed" and not curve.ending))


def _style(index: int) -> dict[str, object]:
    """Return colour and dashes of a column."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}


def _sample(index: int) -> object:
    from matplotlib.lines import Line2D

    return Line2D([], [], **_style(index))


def _draw_losses(panel: "Axes", columns: Sequence[Sequence[Curve]], stage: str) -> None:
    """Draw a line for each curve; what is not finite is a gap with a cross at the foot of the panel."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    values = []
    for index, column in enumerate(columns):
        for curve in column:
            points = list(zip(curve.steps, curve.values, strict=True))
            smooth = smoothed(points, len(points) // 50) if len(points) >= SMOOTH_FROM else points
            if smooth is not points:
                panel.plot(*_drawable(points), color=_style(index)["color"], linewidth=0.6, alpha=0.2)
            panel.plot(*_drawable(smooth), **_style(index))
            lost = [step for step, value in points if not math.isfinite(value)]
            panel.plot(lost, [0.02] * len(lost), "x", color=_style(index)["color"], transform=panel.get_xaxis_transform())
            values += [value for value in curve.values if math.isfinite(value)]
    if values and min(values) > 0 and max(values) >= DECADE * min(values):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_title("loss of the images" if stage == "synthesise" else "loss of the students", loc="left")
    panel.set_xlabel("iteration" if stage == "synthesise" else "epoch")


def _drawable(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Return steps and values of a line, not finite ones as NaN, which matplotlib leaves out."""
    kept = reduced(points, POINTS)
    return [step for step, _ in kept], [value if math.isfinite(value) else math.nan for _, value in kept]


def smoothed(points: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """Return the running mean over `window` points around each; a value that is not finite stays and counts in no mean."""
    sums, counts = [0.0], [0]
    for _, value in points:
        sums.append(sums[-1] + (value if math.isfinite(value) else 0.0))
        counts.append(counts[-1] + math.isfinite(value))
    means = []
    for index, (step, value) in enumerate(points):
        first, last = max(index - window // 2, 0), min(index + window // 2 + 1, len(points))
        means.append((step, (sums[last] - sums[first]) / (counts[last] - counts[first]) if math.isfinite(value) else value))
    return means


def _draw_accuracy(panel: "Axes", columns: Sequence[Sequence[Curve]]) -> None:
    """Draw each column's mean over its seeds, with its deviation as a band where there are several, and its end as a dot."""
    for index, column in enumerate(columns):
        by_step: dict[int, list[float]] = {}
        for curve in column:
            for step, value in zip(curve.steps, curve.values, strict=True):
                by_step.setdefault(step, []).append(value)
        if not by_step:
            continue
        steps = sorted(by_step)
        means = [statistics.fmean(by_step[step]) for step in steps]
        deviations = [statistics.stdev(by_step[step]) if len(by_step[step]) > 1 else 0.0 for step in steps]
        style = _style(index)
        panel.plot(steps, means, **style)
        panel.plot(steps[-1], means[-1], "o", markersize=3.5, color=style["color"])
        if any(deviations):
            bounds = zip(means, deviations, strict=True)
            low, high = zip(*((mean - deviation, mean + deviation) for mean, deviation in bounds), strict=True)
            panel.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
    panel.set_xlabel("epoch")


def _draw_published(panel: "Axes", comparison: Comparison, student: str) -> None:
    """Draw the printed figures of a student as dotted lines across."""
    found = [gap.figure for gap in comparison.gaps if (gap.figure.set, gap.figure.student) == ("condensed", student)]
    for figure in dict.fromkeys(found):
        panel.axhline(figure.top1, color="#666666", linestyle=":", linewidth=1.0)
        text = f"{figure.row}, {table_label(figure.table)}: {figure.top1}"
        panel.annotate(text, (0.01, figure.top1), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points", fontsize=7)
