"""The examples run: each in a process of its own, as `make examples` runs it."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys

import pytest

import qat_round as qr
from qat_round import rounding
from qat_round.pipeline.recipe_file import read_recipe

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"


def test_every_example_is_run_and_documented():
    listed = (EXAMPLES / "run_all.py").read_text()
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    apart = {"run_all.py", "curves.py", "mnist.py", "github_workflow.yml"}
    for path in EXAMPLES.iterdir():
        if path.is_file() and path.name not in apart:
            assert path.name in listed, path.name
            assert path.name in page, path.name


def test_the_curves_of_every_method_are_drawn():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("curves", EXAMPLES / "curves.py")
    curves = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(curves)
    ours = [n for n in qr.names() if type(qr.get(n)).__name__ in rounding.__all__]
    assert sorted(curve.rounder.name for curve in curves.CURVES) == sorted(ours)


def test_the_recipe_is_right():
    recipe = read_recipe(EXAMPLES / "recipe.toml")
    assert recipe.quantize["rounder"] == "sine"
    assert recipe.report.micro


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image_to_c", "recipe", "quickstart"])
def test_an_example_ends_with_status_0(name, tmp_path):
    pytest.importorskip("mlxtend")
    command = [sys.executable, str(EXAMPLES / "run_all.py"), name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
