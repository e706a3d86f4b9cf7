"""`edc datasets` and `edc models`: what can be chosen beside a method."""

import dataclasses

from engine.commands.progress import task
from engine.commands.tables import Column, make_console, print_json, print_table, shortest
from engine.runs.text import printable


def datasets_command(*, as_json: bool) -> None:
    """Print every dataset, its size, and how to obtain it."""
    from engine.data.catalogue import data_root
    from engine.data.sources import found_in, list_datasets

    datasets = {info: found_in(info.name, data_root()) for info in list_datasets()}
    if as_json:
        print_json([{**dataclasses.asdict(info), "found_in": str(folder) if folder else None} for info, folder in datasets.items()])
        return
    from rich.text import Text

    console = make_console()
    rows = [
        [
            info.name,
            "" if info.class_count is None else f"{info.class_count:,}",
            *(["", ""] if info.image_counts is None else [f"{number:,}" for number in info.image_counts]),
            f"{info.resolution} px",
            info.title,
        ]
        for info in datasets
    ]
    numbers = [Column(name, "right") for name in ("classes", "train", "test", "side")]
    print_table(console, [Column("dataset"), *numbers, Column("images", drop=1)], rows)
    console.print()
    for info, folder in datasets.items():
        place = f"here, in {shortest(folder)}" if folder else info.where
        console.print(Text.assemble((f"{info.name:<15}", "bold"), printable(place)), soft_wrap=True)
    console.print()
    console.print(
        f"They are looked for below {printable(data_root())} ($EDC_DATA), or in a project's dataset.root.", style="dim", soft_wrap=True
    )


def fetch_command(name: str) -> None:
    """Download a dataset into the data root and say where it lies."""
    from engine.data.catalogue import data_root
    from engine.data.sources import fetch

    with task(f"fetching {name}", unit="bytes") as progress:
        folder = fetch(name, data_root(), progress)
    make_console().print(f"{name} lies in {printable(folder)}", soft_wrap=True)


def models_command(*, as_json: bool) -> None:
    """Print every network and name pattern."""
    from engine.models.registry import list_models

    models = list_models()
    if as_json:
        print_json([dataclasses.asdict(info) for info in models])
        return
    from rich.text import Text

    console = make_console()
    rows = [
        [
            info.name,
            f"{info.resolutions[0]}+" if info.resolutions[1] is None else f"{info.resolutions[0]}-{info.resolutions[1]}",
            "" if info.parameters is None else f"{info.parameters / 1e6:.2f} M",
            info.normalisation or "",
            info.family,
            Text(info.help, "dim"),
        ]
        for info in models
    ]
    columns = [
        Column("model"),
        Column("side, px", "right"),
        Column("weights", "right"),
        Column("norm"),
        Column("family", drop=1),
        Column("", drop=2),
    ]
    print_table(console, columns, rows)
