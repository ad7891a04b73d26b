"""Calls the command line, and reads what it prints."""

from __future__ import annotations

import importlib.util
import json

from qat_round.cli.main import main


def told(capsys) -> str:
    """The one line on standard error."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("qat-round: ")
    return error


def without(monkeypatch, *modules: str) -> None:
    """As if packages were not installed."""

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in modules else found(name, *a)
    )


def as_json(capsys, *argv: str, status: int = 0) -> dict:
    capsys.readouterr()
    assert main([*argv, "--json"]) == status
    return json.loads(capsys.readouterr().out)
