"""Fixtures of the tests that need no torch."""

import sys

import pytest

from engine import cli


@pytest.fixture
def edc(tmp_path, monkeypatch, capsys):
    """Call `edc` in an empty working folder; gives (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    for name in ("EDC_PROJECTS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDC_DATA", str(tmp_path / "data"))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["edc", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return ended.value.code or 0, output.out, output.err

    return call
