"""Writes table1.toml and table2.toml, a recipe for every cell of Tables 1 and 2 of the EDC paper: `make recipes`.

The cells, and what the paper prints in each, are those of engine/project/published.toml. A recipe is one point of a sweep: a dataset,
images per class and a method, with all students that the table has for them.
"""

import textwrap
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from engine.project.published import Figure, figures

HERE = Path(__file__).parent
STUDENTS = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "mobilenet-v2": "MobileNet-V2",
    "efficientnet-b0": "EfficientNet-B0",
    "deit-tiny": "DeiT-Tiny",
    "swin-tiny": "Swin-Tiny",
    "convnext-tiny": "ConvNeXt-Tiny",
    "shufflenet-v2-0.5": "ShuffleNet-V2",
}

TABLE_1 = """\
# Table 1 of the EDC paper: every method that it prints, on five datasets, at 1, 10 and 50 images per class. Made by projects/make_tables.py
# (`make recipes`) from engine/project/published.toml; each point says what the paper prints for it.
#   edc sweep projects/table1.toml --dry-run
#   edc sweep projects/table1.toml --only "cifar10-*" --detach
#   edc sweep projects/table1.toml
# Meant for a GPU: the whole table takes weeks of one. Points share observers, tables and starting images; those that are done are kept.
# Data: `edc datasets` says which files go where.
schema = 1
title = "EDC Table 1: comparison with the state of the art"

[condense]
seed = 0

[evaluate]
seeds = [0, 1, 2]                # the table has deviations
controls = ["random"]
hard_labels = false              # the table has soft labels alone

[sweep]
"""

TABLE_2 = """\
# Table 2 of the EDC paper: students of nine architectures on ImageNet-1k, at 10 to 50 images per class. Made by projects/make_tables.py
# (`make recipes`) from engine/project/published.toml; each point says what the paper prints for it.
#   edc sweep projects/table2.toml --dry-run
#   edc sweep projects/table2.toml --only "ipc10-*" --detach
#   edc sweep projects/table2.toml
# Meant for a GPU. Points share observers and tables; those that are done are kept. Data: `edc datasets` says which files go where.
schema = 1
title = "EDC Table 2: other students on ImageNet-1k"

[dataset]
name = "imagenet-1k"

[condense]
seed = 0

[evaluate]
seeds = [0]                      # the table gives no deviations; more seeds do
controls = ["random"]
hard_labels = false              # the table has soft labels alone

[sweep]
"""


def texts() -> dict[str, str]:
    """Return the text of each file by its name."""
    return {"table1.toml": _text("table-1", TABLE_1), "table2.toml": _text("table-2", TABLE_2)}


def _text(table: str, head: str) -> str:
    """Return a file's text: its head, then a point for each dataset, images per class and method, in the table's order."""
    cells = [figure for figure in figures() if figure.table == table]
    order = list(dict.fromkeys(map(_recipe, cells)))
    recipes = [list(group) for _, group in groupby(sorted(cells, key=lambda figure: order.index(_recipe(figure))), key=_recipe)]
    datasets = {figure.dataset for figure in cells}
    students = {tuple(figure.student for figure in recipe) for recipe in recipes}
    if len(students) == 1:
        head = head.replace("[evaluate]\n", f"[evaluate]\nstudents = {_list(students.pop())}\n")
        students = set()
    return head + "\n".join(_point(recipe, by_dataset=len(datasets) > 1, own_students=bool(students)) for recipe in recipes)


def _recipe(figure: Figure) -> tuple[str, int, str]:
    return figure.dataset, figure.ipc, figure.method


def _list(names: Iterable[str]) -> str:
    names = [f'"{name}"' for name in names]
    line = f"[{', '.join(names)}]"
    if len(line) < 100:
        return line
    return "[\n" + textwrap.indent(textwrap.fill(f"{', '.join(names)},", 130), "    ") + "\n]"


def _point(cells: list[Figure], *, by_dataset: bool, own_students: bool) -> str:
    """Return the entry of one recipe: what the paper prints in its cells, then its values."""
    dataset, ipc, method = _recipe(cells[0])
    published = "Published: " + ", ".join(f"{STUDENTS[figure.student]} {figure.printed}" for figure in cells)
    lines = [
        textwrap.fill(published, 138, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False),
        "[[sweep.points]]",
        f'name = "{dataset}-ipc{ipc}-{method}"' if by_dataset else f'name = "ipc{ipc}-{method}"',
        *([f'dataset.name = "{dataset}"'] if by_dataset else []),
        f'condense.method = "{method}"',
        f"condense.ipc = {ipc}",
        f'condense.published = ["{cells[0].name}"]',
        *([f"evaluate.students = {_list(figure.student for figure in cells)}"] if own_students else []),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, text in texts().items():
        (HERE / name).write_text(text, encoding="utf-8")
