"""The licence of every package that the package needs, from its own metadata.

usage: python tools/licences.py [--all] [--page FILE]

Printed, or written as a page of the documentation. --all: with the extras for development.
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import pathlib
import re


def requirements(name: str, extras: tuple[str, ...] = ()) -> list[str]:
    """Names of the installed packages that a package requires."""
    found = []
    for line in metadata.requires(name) or []:
        need, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([^'\"]+)", marker)
        if extra is None or extra.group(1) in extras:
            found.append(re.split(r"[\s\[<>=!~(]", need.strip())[0])
    return found


def closure(extras: tuple[str, ...]) -> list[str]:
    """All that is installed because of the package, by name."""
    seen: dict[str, str] = {}
    waiting = requirements("qat_round", extras)
    while waiting:
        name = waiting.pop()
        key = name.lower().replace("_", "-")
        if key in seen or key == "qat-round":
            continue
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system or version of Python
        seen[key] = name
        waiting += requirements(name)
    return sorted(seen.values(), key=str.lower)


def licence(name: str) -> str:
    """What the metadata says: the expression, the classifiers, or the text's first line."""
    about = metadata.metadata(name)
    classified = [c.split(" :: ")[-1] for c in about.get_all("Classifier", []) if "License" in c]
    text = (about.get("License") or "").strip().splitlines() or first_line_of_file(name)
    return about.get("License-Expression") or ", ".join(classified) or (text or ["not said"])[0]


def first_line_of_file(name: str) -> list[str]:
    """Of the licence's text that is installed with a package, if there is one."""
    for path in metadata.distribution(name).files or []:
        if "LICEN" in path.name.upper():
            lines = [line.strip() for line in path.read_text().splitlines()]
            return [line for line in lines if line][:1]
    return []


PAGE = """# Licences

`qat_round` is under the Apache License 2.0. The packages that it needs, and those that they need;
each licence is what the package's own metadata says. Written by `make licences`.

| package | version | licence |
|---|---|---|
"""


def page(names: list[str]) -> str:
    """The table as Markdown."""
    rows = [f"| {n} | {metadata.version(n)} | {licence(n).replace('|', '/')} |\n" for n in names]
    return PAGE + "".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--page", type=pathlib.Path)
    asked = parser.parse_args()
    names = closure(("dev", "curves", "demo", "edge", "onnx", "report") if asked.all else ())
    if asked.page:
        asked.page.write_text(page(names))
        return
    for name in names:
        print(f"{name} {metadata.version(name)}: {licence(name)}")


if __name__ == "__main__":
    main()
