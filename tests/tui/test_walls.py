"""What the app must not load, and how soon it is there: checked in fresh interpreters."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def loaded(code):
    """Run code in a fresh interpreter and return the modules it has loaded."""
    program = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.splitlines()[-1].split())


def every_module():
    names = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "edc_tui").rglob("*.py"))]
    return [".".join(name.parts).removesuffix(".__init__") for name in names]


def test_no_module_of_the_app_loads_torch():
    assert not loaded(f"import importlib\nfor name in {every_module()!r}: importlib.import_module(name)") & {"torch", "torchvision", "timm"}


def test_the_first_picture_needs_neither_numpy_nor_pydantic_nor_a_screen_that_is_not_open():
    modules = loaded("import edc_tui.app, edc_tui.screens.home")
    assert not modules & {"torch", "numpy", "pydantic", "PIL", "typer", "textual.widgets._markdown"}
    screens = {name for name in modules if name.startswith("edc_tui.screens.")}
    assert screens == {"edc_tui.screens.home", "edc_tui.screens.home_rows"}


def test_a_wrong_command_line_is_refused_before_textual_is_loaded():
    code = "from edc_tui.cli import run\ntry: run(['--nope'])\nexcept Exception: pass"
    assert "textual" not in loaded(code)


@pytest.mark.parametrize("package", ["engine.project", "engine.runs", "engine.commands"])
def test_the_engine_does_not_load_the_screen(package):
    code = f"import importlib, pkgutil, {package}\nfor found in pkgutil.iter_modules({package}.__path__, '{package}.'): "
    modules = loaded(code + "importlib.import_module(found.name)")
    assert not modules & {"textual", "edc_tui", "torch"}


def test_starting_a_project_loads_no_torch(tmp_path):
    code = f"""
from pathlib import Path
from engine.commands.request import make_request
from edc_tui.questions import ask_start
path = Path({str(tmp_path)!r}) / "a.toml"
path.write_text('schema = 1\\n[dataset]\\nname = "digits"\\n[condense]\\nmethod = "edc"\\nipc = 1\\n')
print(ask_start(make_request(path)).title)
"""
    assert "torch" not in loaded(code)
