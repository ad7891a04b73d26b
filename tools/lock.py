"""Prints the exact versions of all that this environment holds, for `pip install -r`."""

from __future__ import annotations

import importlib.metadata as metadata
import platform


def main() -> None:
    print(
        f"# Written by `make lock` with Python {platform.python_version()} on {platform.system()}."
    )
    print("# pip install -r requirements-dev.lock && pip install --no-deps -e .")
    found = {d.metadata["Name"].lower(): d for d in metadata.distributions()}
    for name, distribution in sorted(found.items()):
        if name.replace("_", "-") not in ("qat-round", "pip"):
            print(f"{distribution.metadata['Name']}=={distribution.version}")


if __name__ == "__main__":
    main()
