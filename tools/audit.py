"""Compares the locked versions with a list of versions that are known to be unsafe.

usage: python tools/audit.py [requirements-dev.lock]

The list is that of the package `safety-db`, fetched from the package index into a folder that is
thrown away: no other service is asked. Its last free edition is of July 2021, so what was found
later is not in it; where the network allows, `pip-audit -r requirements-dev.lock` asks PyPI itself.
Ends with status 1 if a version is in the list.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from typing import Any

from packaging.specifiers import SpecifierSet

ROOT = pathlib.Path(__file__).parents[1]


def fetched() -> tuple[str, dict[str, Any]]:
    """The name of the edition, and package -> what is known of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", folder, "safety-db"], check=True)
        wheel = next(pathlib.Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as file:
            return wheel.name.split("-")[1], json.loads(file.read("safety_db/insecure_full.json"))


def locked(path: pathlib.Path) -> dict[str, str]:
    """Package -> version, of a lock file."""
    pairs = (line.split("==") for line in path.read_text().splitlines() if "==" in line)
    return {plain(name): version.strip() for name, version in pairs}


def plain(name: str) -> str:
    """The name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def findings(versions: dict[str, str], known: dict[str, Any]) -> list[str]:
    """A line for each locked version that is in the list."""
    return [
        f"{name} {versions[name]}: {entry.get('cve') or entry['id']}: {entry['advisory'][:120]}"
        for listed, entries in known.items()
        if (name := plain(listed)) in versions and isinstance(entries, list)
        for entry in entries
        if any(SpecifierSet(spec).contains(versions[name], True) for spec in entry["specs"])
    ]


def main() -> int:
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "requirements-dev.lock"
    versions, (edition, known) = locked(path), fetched()
    found = findings(versions, known)
    print(*found, sep="\n", end="\n" if found else "")
    listed = sum(plain(name) in versions for name in known)
    print(
        f"{len(versions)} locked packages, {listed} of them named in safety-db {edition}: "
        f"{len(found)} unsafe versions"
    )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
