"""The stages squeeze, statistics, initialise, synthesise, relabel and evaluate, one file each, and the pipeline that runs them.

A stage is one function `(settings, inputs, folder, report) -> result`: it sees only the settings that its fingerprint covers, reads the
folders of earlier steps, writes its own, and knows nothing of the run, the command line or the screen.
"""

import importlib
from collections.abc import Callable
from typing import Any


def stage_function(stage: str) -> Callable[..., dict[str, Any]]:
    """Return a stage's function; its module, and torch with it, is loaded now and not before."""
    return getattr(importlib.import_module(f"engine.stages.{stage}"), stage)
