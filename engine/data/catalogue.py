"""Where a project's images lie: its own root, else the data root."""

import os
from pathlib import Path

from engine.data.sources import Source, locate
from engine.project.schema import Project


def data_root() -> Path:
    """Return the folder below which datasets are looked for: $EDC_DATA, else `edc/data` in the user's cache folder."""
    if os.environ.get("EDC_DATA"):
        return Path(os.environ["EDC_DATA"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edc" / "data"


def locate_dataset(project: Project, *, cache: Path | None) -> Source:
    """Find a project's dataset on this machine; raises UserError saying which files go where when it is not here."""
    root = Path(project.dataset.root).expanduser() if project.dataset.root else None
    return locate(project.dataset.name, root, data_root(), project.dataset.resolution, cache=cache)
