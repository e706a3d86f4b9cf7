"""The figures that the EDC paper prints, and which of them a project or a run is held against."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import UserError

FILE = Path(__file__).with_name("published.toml")
NOTHING = "-"
WORDS = ("row", "method", "dataset", "ipc")  # columns of settings that are no keys of a project
FULL = "full"  # stands for a method: training on the whole dataset

# Keys by which a run may differ from its method and still be the method's: data, seeds, students, controls, machine and files.
NOT_OF_THE_METHOD = ("dataset.", "condense.", "compute.", "save.")
NOT_OF_THE_RECIPE = (
    "initialise.path",
    "observers.accuracy",
    "observers.normalisation",
    "observers.class_order",
    "squeeze.seed",
    "statistics.batch_size",
    "evaluate.students",
    "evaluate.seeds",
    "evaluate.controls",
    "evaluate.full_epochs",
    "evaluate.full_batch_size",
    "evaluate.every",
    "evaluate.protocol",
    "evaluate.common_epochs",
    "evaluate.common_teacher",
    "evaluate.hard_labels",
    "evaluate.without_augmentation",
)


@dataclass(frozen=True)
class Figure:
    """A printed accuracy: top-1 in percent of a student, and its deviation where the table has one."""

    table: str  # table-1 … table-22
    row: str
    dataset: str
    ipc: int
    methods: tuple[str, ...]  # the printed one, then those that become it by the settings
    student: str
    top1: float
    std: float | None
    settings: dict[str, Any] = field(hash=False)  # `section.key` -> value that belongs to the figure

    @property
    def name(self) -> str:
        """Return the name by which a project asks for the row: `table-1/edc`."""
        return f"{self.table}/{self.row}"

    @property
    def method(self) -> str:
        """Return the method that the table prints."""
        return self.methods[0]

    @property
    def printed(self) -> str:
        """Return the figure as it is printed: `79.1 ± 0.3`, or `79.1`."""
        return f"{self.top1:.1f}" if self.std is None else f"{self.top1:.1f} ± {self.std:.1f}"

    @property
    def set(self) -> str:
        """Return what the student was trained on, in the words of results: `condensed` or `full`."""
        return FULL if self.method == FULL else "condensed"


@dataclass(frozen=True)
class Held:
    """A figure that a run is held against: because its project names it, or because all that the figure says agrees."""

    figure: Figure
    named: bool


@cache
def _tables() -> dict[str, Any]:
    """Return the content of the file."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def figures() -> tuple[Figure, ...]:
    """Return every figure of the file in its order."""
    return tuple(figure for name, table in _tables().items() if isinstance(table, dict) for figure in _table_figures(name, table))


def paper() -> str:
    """Return the paper that prints the figures."""
    return _tables()["paper"]


def _table_figures(name: str, table: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield the figures of one table of the file, row by row."""
    width = len(table["settings"]) + len(table["figures"])
    fixed = {word: table[word] for word in WORDS if word in table}
    for cells in table["rows"]:
        if len(cells) != width:
            raise ValueError(f"{FILE.name}: {name}: a row has {len(cells)} cells for {width} columns: {cells}")
        settings = fixed | dict(zip(table["settings"], cells, strict=False))
        for column, cell in zip(table["figures"], cells[len(table["settings"]) :], strict=True):
            if cell == NOTHING:
                continue
            method, _, student = column.rpartition("/")
            methods = method or settings["method"]
            methods = (methods,) if isinstance(methods, str) else tuple(methods)
            top1, std = _measured(cell)
            yield Figure(
                name,
                settings.get("row", methods[0]),
                settings["dataset"],
                settings["ipc"],
                methods,
                student,
                top1,
                std,
                {key: value for key, value in settings.items() if key not in WORDS and value != NOTHING},
            )


def _measured(cell: float | str) -> tuple[float, float | None]:
    """Return mean and deviation of a printed cell: `79.1 ± 0.3`, or a bare number."""
    mean, _, deviation = str(cell).partition("±")
    return float(mean), float(deviation) if deviation else None


def table_label(table: str) -> str:
    """Return a table's name as people say it: `Table 1`."""
    return table.replace("table-", "Table ")


def published_figures(
    *, dataset: str | None = None, ipc: int | None = None, method: str | None = None, student: str | None = None
) -> list[Figure]:
    """Return the figures that agree with everything given; `method` is the printed one."""
    return [
        figure
        for figure in figures()
        if dataset in (None, figure.dataset)
        and ipc in (None, figure.ipc)
        and method in (None, figure.method)
        and student in (None, figure.student)
    ]


def named_figures(name: str) -> list[Figure]:
    """Return the figures of a row: `table-1/edc`, or of one dataset in it: `table-1/edc/cifar100`.

    Raises UserError that says which names come near when there are none.
    """
    table, _, rest = name.partition("/")
    row, _, dataset = rest.partition("/")
    of_table = [figure for figure in figures() if figure.table == table]
    if not of_table:
        tables = dict.fromkeys(figure.table for figure in figures())
        raise UserError(f"no published figures are called {name!r}; a name is TABLE/ROW, as in table-1/edc; tables: {', '.join(tables)}")
    of_row = [figure for figure in of_table if figure.row == row]
    if not of_row:
        wrong = f"{table} has no row {row!r}" if row else f"{name!r} names no row of {table}"
        raise UserError(f"{wrong}; {_nearest(row, [figure.row for figure in of_table])}")
    found = [figure for figure in of_row if dataset in ("", figure.dataset)]
    if not found:
        raise UserError(f"{table}/{row} has no figures for {dataset!r}; {_nearest(dataset, [figure.dataset for figure in of_row])}")
    return found


def _nearest(word: str, choices: list[str]) -> str:
    """Say which of the choices was probably meant, or which there are, each once."""
    from engine.project.resolve import nearest

    return nearest(word, list(dict.fromkeys(choices)))


def check_name(name: str, dataset: str) -> None:
    """Check that a project on `dataset` can be held against `name`; raises UserError in one line.

    Images per class are not checked, so that a project stays valid while they are varied: without a figure, none is shown.
    """
    datasets = list(dict.fromkeys(figure.dataset for figure in named_figures(name)))
    if dataset in datasets or (dataset == "folder" and len(datasets) == 1):
        return
    if dataset == "folder":
        raise UserError(f"{name} has figures for {', '.join(datasets)}; say which your folder holds, as in {name}/{datasets[0]}")
    raise UserError(f"{name} has figures for {', '.join(datasets)}, not for {dataset}")


def held_against(values: Mapping[str, Any]) -> list[Held]:
    """Return the figures for a run by its flat `section.key` values, those of the whole dataset included.

    What `condense.published` names is taken, for the run's students and images per class. Without a name, figures are taken whose
    dataset, images per class, method, student and own settings agree with the run; of equal ones in several tables the first.
    """
    names = values.get("condense.published")
    students = values.get("evaluate.students")
    if not isinstance(students, list):
        return []
    if isinstance(names, list) and names:
        return [Held(figure, named=True) for name in dict.fromkeys(map(str, names)) for figure in _of_run(name, values, students)]
    found: dict[tuple[str, str, float], Held] = {}
    for figure in published_figures(dataset=values.get("dataset.name"), ipc=values.get("condense.ipc")) if "dataset.name" in values else []:
        method_agrees = figure.set == FULL or values.get("condense.method") in figure.methods
        settings_agree = all(values.get(key) == value for key, value in figure.settings.items())
        if method_agrees and settings_agree and figure.student in students:
            found.setdefault((figure.set, figure.student, figure.top1), Held(figure, named=False))
    return list(found.values())


def _of_run(name: str, values: Mapping[str, Any], students: list[str]) -> list[Figure]:
    """Return the figures of a name for a run's dataset, images per class and students; none for a name of another version."""
    try:
        found = named_figures(name)
    except UserError:
        return []
    datasets = {figure.dataset for figure in found}
    dataset = values.get("dataset.name")
    if dataset == "folder" and len(datasets) == 1:
        (dataset,) = datasets
    ipc = values.get("condense.ipc")
    return [figure for figure in found if (figure.dataset, figure.ipc) == (dataset, ipc) and figure.student in students]


def of_the_recipe(name: str) -> bool:
    """Say whether another value of a `section.key` makes another recipe; data, seeds, students, controls, machine and files do not."""
    return not name.startswith(NOT_OF_THE_METHOD) and name not in NOT_OF_THE_RECIPE


def changed_settings(values: Mapping[str, Any], figure: Figure) -> list[str]:
    """Return the keys in which a run, by its flat values, differs from what its method says, without those that belong to the figure.

    Empty for a run of a method, or with keys, that this version does not know.
    """
    from engine.project.checks import in_use
    from engine.project.resolve import flatten, resolve, validate
    from engine.project.schema import keys

    flat = {name: values[name] for name in keys() if name in values}
    run, _ = validate(flat)
    resolution = values.get("frozen.resolution")
    if run is None or not isinstance(resolution, int):
        return []
    given = {name: values[name] for name in ("dataset.name", "condense.method", "condense.ipc", "condense.compat") if name in values}
    usual, _ = resolve(given, resolution=resolution)
    if usual is None:
        return []
    own = flatten(usual.project.model_dump())
    return [
        name
        for name, value in flatten(run.model_dump()).items()
        if name in flat
        and value != own[name]
        and of_the_recipe(name)
        and name not in figure.settings
        and (in_use(run, name) or in_use(usual.project, name))
    ]
