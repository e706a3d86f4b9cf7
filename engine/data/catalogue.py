"""Where a project's images lie: its own root, else the data root; and the working resolution of every dataset."""

import os
from pathlib import Path

from engine.data.sources import Source, list_datasets, locate
from engine.errors import UserError
from engine.project.resolve import nearest
from engine.project.schema import Project


def data_root() -> Path:
    """Return the absolute folder below which datasets are looked for: $EDC_DATA, else `edc/data` in the user's cache folder."""
    if os.environ.get("EDC_DATA"):
        return Path(os.environ["EDC_DATA"]).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "edc" / "data"


def locate_dataset(project: Project, *, cache: Path | None, frozen_root: Path | None = None) -> Source:
    """Find a project's dataset on this machine; raises UserError saying which files go where when it is not here.

    `frozen_root` is the data root that a run began with; it is looked into first, for another shell may have another $EDC_DATA.
    """
    root = Path(project.dataset.root).expanduser() if project.dataset.root else None
    name, resolution, here = project.dataset.name, project.dataset.resolution, data_root()
    try:
        return locate(name, root, frozen_root or here, resolution, cache=cache)
    except UserError:
        if root is not None or frozen_root in (None, here):
            raise
    return locate(name, None, here, resolution, cache=cache)  # a run copied from another machine finds its data where this one has them


def dataset_resolutions() -> dict[str, int]:
    """Return the working resolution in px of every dataset, by name."""
    return {info.name: info.resolution for info in list_datasets()}


def dataset_resolution(name: str) -> int:
    """Return the working resolution in px of a dataset.

    Raises UserError naming the nearest dataset when there is none of this name.
    """
    known = dataset_resolutions()
    if name not in known:
        raise UserError(f"no dataset is called {name!r}; {nearest(name, list(known))}")
    return known[name]
