"""`edc evaluate`: images from elsewhere become a project whose images are given, and run as any other."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit

from engine.commands.plan import project_name
from engine.commands.request import make_request, project_path
from engine.commands.run import run_projects
from engine.commands.tables import count, make_console, shortest
from engine.errors import RunError, UserError
from engine.files import write_text
from engine.project.checks import has_effect
from engine.project.files import load_project, parse_override, with_absolute_paths, working_resolution
from engine.project.resolve import EXTERNAL, Resolved, flatten, nearest, resolve
from engine.project.schema import SECTIONS, keys
from engine.runs.text import printable
from engine.stages.cache import cache_folder

if TYPE_CHECKING:
    from engine.data.imported import Imported
    from engine.data.sources import Source
    from engine.data.store import ImageStore

# What an evaluation takes over from another project: all that does not make images.
TAKEN_SECTIONS = ("squeeze", "labels", "evaluate", "compute")
TAKEN_KEYS = ("observers.labels", "condense.seed")
OF_DATA = ("dataset.name", "dataset.root", "dataset.resolution", "dataset.mirror")
MARK = "# Unedited: "  # and the digest of all lines above


def evaluate_command(
    path: Path,
    projects: Path,
    *,
    name: str | None,
    dataset: str | None,
    root: Path | None,
    soft_labels: Path | None,
    like: str | None,
    overrides: Sequence[str],
    detach: bool,
    now: bool,
    as_json: bool,
) -> int:
    """Evaluate the condensed set at `path` on a dataset and return the exit status, as `edc run` does.

    Writes `<projects>/<name>/images.safetensors` and `<projects>/<name>.toml`, whose evaluation is that of the project `like`, else EDC's.
    `soft_labels` is a file of labels that came with the images. Raises UserError in one line, with nothing written, when something does
    not fit.
    """
    path = path.expanduser()
    name = project_name(name, "--name") if name is not None else _usual_name(path)
    file = projects / f"{name}.toml"
    begins = f"# Images from {printable(str(path.absolute()))}, by `edc evaluate`, which writes this file anew unless it was edited."
    _refuse_other(file, begins, name)
    taken = _taken_from(load_project(project_path(projects, like))) if like is not None else {}
    given = taken | _data(dataset, root, taken)
    source, imported, store = _read(path, soft_labels, given, overrides, projects, as_json=as_json)
    given |= {"condense.ipc": imported.ipc} | ({"labels.mode": "given"} if soft_labels is not None else {})
    images = projects / name / "images.safetensors"
    with _undone_on_error(file, images):
        _write_images(images, imported, source, store)
        write_text(file, _text(begins, name, source.name, images, given))
        labels = make_request(file, overrides).resolved.project.labels.mode
    console = make_console(stderr=as_json)
    soft = ", with soft labels" if imported.soft_labels is not None else ""
    about = f"{count(imported.ipc, 'image')} for each of {count(len(source.classes), 'class')} of {source.name}{soft}"
    console.print(f"{printable(shortest(path))}: {about}", soft_wrap=True)
    unused = imported.soft_labels is not None and labels != "given"
    for note in (*imported.notes, *(["its soft labels are kept; --set labels.mode=given trains with them"] if unused else [])):
        console.print(f"  {printable(note)}", soft_wrap=True)
    console.print(f"wrote {printable(shortest(file))}", soft_wrap=True)
    return run_projects([file], overrides, until="evaluate", fresh=False, detach=detach, now=now, as_json=as_json)


def _usual_name(path: Path) -> str:
    """Return the project name of images at a path, from the last of its parts that says something."""
    last = path.absolute()
    own = last.parent.name if last.name == "images.safetensors" else last.name if last.is_dir() else last.stem
    return project_name(f"{EXTERNAL}-{re.sub(r'[^A-Za-z0-9._-]+', '-', own).strip('-.') or 'images'}", "--name")


def _refuse_other(file: Path, begins: str, name: str) -> None:
    """Refuse to replace a project that this command has not written for the same images, or that was edited since."""
    if not file.exists():
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    body, mark, digest = text.rpartition(MARK)
    if not mark or digest.strip() != _digest(body) or body.partition("\n")[0] != begins:
        right = f"choose another --name, or `edc run {printable(name)}` runs it as it is"
        raise UserError(f"{printable(shortest(file))} is another project or was edited: {right}")


def _taken_from(like: Resolved) -> dict[str, Any]:
    """Return the values of another project, flat, that say on what and how images are evaluated."""
    flat = flatten(like.project.model_dump(exclude={"title"}))
    wanted = [key for key in flat if key in (*OF_DATA, *TAKEN_KEYS) or key.partition(".")[0] in TAKEN_SECTIONS]
    return {key: flat[key] for key in wanted if flat[key] is not None and has_effect(like.project, key)}


def _data(dataset: str | None, root: Path | None, taken: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that say which dataset is meant, checked as far as they come from options."""
    from engine.data.sources import list_datasets

    if dataset is None and "dataset.name" not in taken:
        raise UserError("--dataset: missing; it names the dataset that the images are condensed from, unless --like PROJECT does")
    known = [info.name for info in list_datasets()]
    if dataset is not None and dataset not in known:
        raise UserError(f"--dataset: no dataset is called {dataset!r}; {nearest(dataset, known)}")
    values: dict[str, Any] = {}
    if dataset is not None and dataset != taken.get("dataset.name"):
        values = dict.fromkeys(OF_DATA) | {"dataset.name": dataset}
    if root is not None:
        values["dataset.root"] = str(root.expanduser().absolute())
    return values


def _read(
    path: Path, soft_labels: Path | None, given: dict[str, Any], overrides: Sequence[str], projects: Path, *, as_json: bool
) -> "tuple[Source, Imported, ImageStore]":
    """Return the dataset, the images at `path` read for it, and its decoded images."""
    from engine.data.catalogue import locate_dataset
    from engine.data.imported import Target, read_imported

    forced = {key: value for key, value in map(parse_override, overrides) if key in OF_DATA}
    wanted = {key: value for key, value in given.items() if key in OF_DATA and value is not None} | with_absolute_paths(forced, Path())
    resolved, problems = resolve({**wanted, "condense.method": EXTERNAL, "condense.ipc": 1}, resolution=working_resolution(wanted))
    if resolved is None:
        told = (f"{'--set ' if problem.key in forced else ''}{problem.key}: {problem.message}" for problem in problems)
        raise UserError("\n".join(told))
    cache = cache_folder(projects)
    source = locate_dataset(resolved.project, cache=cache if cache.is_dir() else None)
    opened: list[ImageStore] = []

    def store() -> "ImageStore":
        if not opened:
            opened.append(_open_store(source, cache, resolved.project.dataset.store, as_json=as_json))
        return opened[0]

    def statistics() -> tuple[Sequence[float], Sequence[float]]:
        return store().mean, store().std

    target = Target(source.name, source.classes, source.resolution, source.layout == "idx", statistics)
    imported = read_imported(path, target, soft_labels.expanduser() if soft_labels is not None else None)
    return source, imported, store()


def _open_store(source: "Source", cache: Path, kind: str, *, as_json: bool) -> "ImageStore":
    """Decode a dataset, unless it is, and open it; `kind` is `dataset.store`."""
    from engine.commands.progress import task
    from engine.data.decode import prepare
    from engine.data.store import open_store

    with task(f"decoding {source.name}", unit="images", stderr=as_json) as progress:
        return open_store(prepare(source, cache, progress, kind))


def _write_images(file: Path, imported: "Imported", source: "Source", store: "ImageStore") -> None:
    from engine.data.condensed import write_condensed

    about = {"classes": source.classes, "mean": store.mean, "std": store.std}
    facts = {"source": "elsewhere", "notes": list(imported.notes)}
    tensors = {"images": imported.images, "labels": imported.labels, "soft_labels": imported.soft_labels}
    write_condensed(file.parent, **tensors, **about, metadata=facts, name=file.name)


def _text(begins: str, name: str, dataset: str, images: Path, given: dict[str, Any]) -> str:
    """Return the text of the project: what it takes from elsewhere, as far as that differs from EDC's own evaluation."""
    own = {"condense.method": EXTERNAL, "initialise.path": f"{images.parent.name}/{images.name}"}
    known = {key: value for key, value in given.items() if value is not None} | own
    always = {*own, "dataset.name", "condense.ipc"}
    side = working_resolution(known)
    usual, _ = resolve({key: value for key, value in known.items() if key in always}, resolution=side)
    resolved, problems = resolve(known, resolution=side)
    if resolved is None or usual is None:
        raise UserError("\n".join(f"{problem.key}: {problem.message}" for problem in problems))
    differing = {key for key, value in known.items() if value != usual.method_values[key] and has_effect(resolved.project, key)}
    values = {key: known[key] for key in keys() if key in always | differing}
    sections: dict[str, list[str]] = {}
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        sections.setdefault(section, []).append(f"{leaf} = {_toml(value)}")
    title = f"{name} on {dataset}, {count(values['condense.ipc'], 'image')} per class"
    lines = [begins, "schema = 1", f"title = {_toml(title)}"]
    for section in (section for section in SECTIONS if section in sections):
        lines += ["", f"[{section}]", *sections[section]]
    body = "\n".join([*lines, "", ""])
    return f"{body}{MARK}{_digest(body)}\n"


def _toml(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return table.as_string()
    return tomlkit.item(value).as_string()


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _undone_on_error(*paths: Path) -> Iterator[None]:
    """Put files and the folders above them back as they were when the block fails."""
    backups: dict[Path, Path] = {}
    missing = [folder for path in paths for folder in (path.parent, path.parent.parent) if not folder.exists()]
    try:
        for path in paths:
            if path.exists():
                backups[path] = path.with_name(f".{path.name}.{os.getpid()}.before")
                _link(path, backups[path])
        yield
    except BaseException:
        for path in paths:
            if path in backups:
                backups[path].replace(path)
            else:
                path.unlink(missing_ok=True)
        for folder in sorted(missing, reverse=True):
            with contextlib.suppress(OSError):  # the cache of decoded images may lie there now
                folder.rmdir()
        raise
    finally:
        for backup in backups.values():
            backup.unlink(missing_ok=True)


def _link(path: Path, backup: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such thing."""
    try:
        backup.unlink(missing_ok=True)
        os.link(path, backup)
    except OSError:
        try:
            shutil.copy2(path, backup)
        except OSError as error:
            raise RunError(f"cannot write {backup}: {error.strerror or error}") from error
