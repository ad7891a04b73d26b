"""Runs the tests in an environment of its own for each supported set of versions.

usage: python tools/versions.py [--only 3.10-oldest] [--tests "tests -m 'not slow'"]

Each environment is made with the interpreter named in SETS, which has to be on the path (pyenv's
are found too); one that is missing is reported as not tried. Prints a table for CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
LOWEST = ("click==8.1.0", "numpy==1.26.0", "rich==13.0.0")
SETS = {  # name: (python, what is pinned)
    "3.10-oldest": (
        "3.10",
        ("tensorflow==2.17.0", "tf-keras==2.17.0", "tensorflow-model-optimization==0.8.0", *LOWEST),
    ),
    "3.11": ("3.11", ("tensorflow==2.21.*", "tf-keras==2.21.*")),
    "3.12-oldest": ("3.12", ("tensorflow==2.19.*", "tf-keras==2.19.*")),
    "3.13-newest": ("3.13", ()),
}
SHOWN = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "numpy")


def interpreter(version: str) -> str | None:
    """The path of a Python of a version, or None."""
    found = shutil.which(f"python{version}")
    pyenv = pathlib.Path.home() / ".pyenv" / "versions"
    others = sorted(pyenv.glob(f"{version}.*/bin/python")) if pyenv.exists() else []
    works = found and subprocess.run([found, "--version"], capture_output=True).returncode == 0
    return found if works else (str(others[-1]) if others else None)


def run(name: str, folder: pathlib.Path, tests: str) -> str:
    """One row: what was installed, and what the tests said."""
    version, pins = SETS[name]
    python = interpreter(version)
    if python is None:
        return f"| {name} | | no python{version} here: not tried |"
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = str(folder / "bin" / "python")
    install = [inside, "-m", "pip", "install", "--quiet", *pins, "-e", f"{ROOT}[dev]"]
    if subprocess.run(install).returncode:
        return f"| {name} | | could not be installed |"
    command = [inside, "-m", "pytest", "-q"]  # pyproject.toml makes our own deprecations errors
    done = subprocess.run(
        [*command, *shlex.split(tests)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
    )
    lines = re.findall(r"^.*(?:passed|failed|error).*$", done.stdout, re.MULTILINE)
    print(*re.findall(r"^FAILED.*$", done.stdout, re.MULTILINE), sep="\n", file=sys.stderr)
    return f"| {name} | {installed(inside)} | {lines[-1] if lines else 'no result'} |"


def installed(python: str) -> str:
    told = f"from importlib.metadata import version as v; print(*[v(n) for n in {SHOWN!r}])"
    return subprocess.run([python, "-c", told], capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=list(SETS))
    parser.add_argument("--tests", default="tests -m 'not slow'")
    asked = parser.parse_args()
    print("| set | TensorFlow, tf-keras, TFMOT, NumPy | tests |\n|---|---|---|")
    for name in [asked.only] if asked.only else SETS:
        with tempfile.TemporaryDirectory() as folder:
            print(run(name, pathlib.Path(folder) / "env", asked.tests), flush=True)


if __name__ == "__main__":
    sys.exit(main())
