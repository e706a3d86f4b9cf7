"""What the app remembers and what its user sets: keys.toml in the configuration folder, tui.json in the state folder, the editor."""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from edc_tui.keys import KEYS, every_key
from engine.errors import RunError
from engine.files import write_json, write_text
from engine.runs.layout import read_object
from engine.runs.text import printable


def configuration_folder() -> Path:
    """Return `$XDG_CONFIG_HOME/edc`, or `~/.config/edc`."""
    return _home("XDG_CONFIG_HOME", ".config")


def state_folder() -> Path:
    """Return `$XDG_STATE_HOME/edc`, or `~/.local/state/edc`."""
    return _home("XDG_STATE_HOME", ".local/state")


def _home(variable: str, otherwise: str) -> Path:
    value = os.environ.get(variable, "")
    return (Path(value) if Path(value).is_absolute() else Path.home() / otherwise) / "edc"


def editor() -> str:
    """Return the command of the user's editor, empty where none is set."""
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""


def read_keymap(path: Path) -> tuple[dict[str, str], list[str]]:
    """Read keys.toml: (keys by id, what is wrong with it in one line each).

    Both `"home.stop" = "X"` and `[home]` with `stop = "X"` are understood, and a list of keys in place of one. A missing file is no
    problem; a line that is wrong is left out and the others hold.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [f"{path.name}: cannot be read: {error.strerror or error}"]
    except (ValueError, RecursionError) as error:
        return {}, [f"{path.name}: not valid TOML: {printable(error, 120)}"]
    known, keymap, problems = every_key(), {}, []
    for name, value in _flat(values).items():
        keys = value if isinstance(value, list) else [value]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"rooms are {', '.join(KEYS)}"
            problems.append(f"{path.name}: {printable(name, 60)}: no such action; {hint}")
        elif not keys or not all(isinstance(key, str) and key.strip() and printable(key) == key for key in keys):
            problems.append(f'{path.name}: {name}: must be a key such as "x", "f5" or "ctrl+x", or a list of them')
        else:
            keymap[name] = ",".join(key.strip().replace(",", "comma") if key.strip() == "," else key.strip() for key in keys)
    return keymap, problems + [f"{path.name}: {clash}" for clash in _clashes(keymap)]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _clashes(keymap: dict[str, str]) -> list[str]:
    """Name keys that now mean two things in one room."""
    found = []
    for table in KEYS.values():
        taken: dict[str, str] = {}
        for key in table:
            for name in keymap.get(key.id, key.key).split(","):
                if name in taken and {key.id, taken[name]} & keymap.keys():
                    found.append(f"{name} is now both {taken[name]} and {key.id}; the first one wins")
                taken.setdefault(name, key.id)
    return found


def read_state() -> dict[str, Any]:
    """Return what was remembered, {} at first or when it cannot be read."""
    return read_object(state_folder() / "tui.json")[0] or {}


def remember(**values: object) -> None:
    """Keep values for the next time, beside those kept before; what cannot be written is not remembered, and nothing else suffers."""
    folder = state_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "tui.json", read_state() | values)
    except (OSError, RunError):
        return


def keep_copied(text: str) -> Path | None:
    """Keep what was copied last in `copied.txt` of the state folder, and return its path; None where it cannot be written."""
    path = state_folder() / "copied.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text + "\n")
    except (OSError, RunError):
        return None
    return path
