"""Builds the wheel twice, each time from a fresh copy; exits 1 if the bytes differ."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
EPOCH = "1700000000"  # of the files in the wheel; any will do, as long as it stays
BUILT_WITH = "setuptools==80.9.0\n"
PARTS = ("qat_round", "pyproject.toml", "README.md", "LICENSE")


def built(folder: pathlib.Path) -> tuple[str, str]:
    """The wheel's name and sha256."""
    for part in PARTS:
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--wheel-dir", "out", "."]
    pins = folder / "pins.txt"
    pins.write_text(BUILT_WITH)
    environment = dict(os.environ, SOURCE_DATE_EPOCH=EPOCH, PIP_CONSTRAINT=str(pins))
    subprocess.run(command, cwd=folder, check=True, env=environment)
    wheel = next((folder / "out").glob("*.whl"))
    return wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest()


def main() -> int:
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            found.append(built(pathlib.Path(folder)))
            print(*found[-1])
    return int(found[0] != found[1])


if __name__ == "__main__":
    sys.exit(main())
