"""A project frozen into its run: every value, and what else a number depends on."""

import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tomlkit

from engine.data.catalogue import data_root
from engine.errors import UserError
from engine.project.files import SCHEMA_VERSION
from engine.project.plan import Plan
from engine.project.resolve import Resolved, flatten, validate
from engine.project.schema import SECTIONS, Project

PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors", "edc-tui")


def freeze(resolved: Resolved, plan: Plan, *, until: str, fresh: bool = False) -> str:
    """Return the text of `run.toml`: all sections with every key, and a table [frozen] of versions, device, precision and fingerprints.

    `fresh` makes the run compute every step itself, whatever the cache holds.
    """
    document = tomlkit.document()
    document["schema"] = SCHEMA_VERSION
    document["title"] = resolved.project.title
    for section in SECTIONS:
        values = getattr(resolved.project, section).model_dump()
        document[section] = {name: value for name, value in values.items() if value is not None}
    document["frozen"] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "until": until,
        "fresh": fresh,
        "project_fingerprint": plan.fingerprint,
        "data_root": str(data_root()),
        "data_fingerprint": plan.source.fingerprint,
        "resolution": plan.source.resolution,
        "classes": list(plan.source.classes.names),
        "device": plan.device,
        "precision": plan.precision,
        "host": platform.node(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "commit": commit(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    document["frozen"]["set_by_user"] = sorted(name for name, origin in resolved.origins.items() if origin in ("project", "--set"))
    document["frozen"]["steps"] = {step.id: step.fingerprint for step in plan.steps}  # what it will look for in the cache
    return tomlkit.dumps(document)


def thaw(values: dict[str, Any]) -> tuple[Project, dict[str, Any]]:
    """Return the project of a parsed `run.toml` and its table [frozen].

    Raises UserError when it was written by another version of edc whose keys differ.
    """
    values = dict(values)
    facts = values.pop("frozen", {})
    if values.pop("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise UserError(f"run.toml: written by another version of edc; this one reads schema = {SCHEMA_VERSION}")
    project, problems = validate(flatten(values))
    if project is None:
        raise UserError(f"run.toml: {problems[0].key}: {problems[0].message}")
    return project, facts


def version(package: str) -> str:
    """Return the installed version of a package, or an empty text."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def commit() -> str:
    """Return the commit of the code that runs, with `+` where files differ from it; empty outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
