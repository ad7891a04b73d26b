"""A manifest: what made an artefact, and its hashes and figures, so that it can be made again."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from qat_round.files.atomic_write import write_file
from qat_round.files.data_files import file_hash

_PACKAGES = (
    "qat_round",
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "numpy",
    "ai-edge-litert",
)


def versions() -> dict[str, str]:
    """Python, and the packages that take part, as installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def manifest_of(contents: Mapping[str, tuple[str, bytes]], **facts: Any) -> bytes:
    """A manifest as `write_manifest` writes it, of files that are not written yet.

    Args:
        contents: (name, content) of each artefact, by what it is.
        **facts: as there.
    """
    files = {
        role: {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for role, (name, content) in contents.items()
    }
    return _text(_manifest(files, facts))


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """While open, warnings for people are collected; they are in the list when it is closed."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield notes
    notes += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def write_manifest(
    path: str | os.PathLike[str], files: Mapping[str, str | os.PathLike[str]], **facts: Any
) -> dict[str, Any]:
    """Writes `{versions, files: {role: {name, bytes, sha256}}, **facts}` as JSON.

    Args:
        path: of the manifest.
        files: the artefacts, by what they are.
        **facts: recipe, seed, figures: all that JSON takes.

    Returns:
        What was written.
    """
    manifest = _manifest({role: _file(pathlib.Path(file)) for role, file in files.items()}, facts)
    write_file(path, _text(manifest))
    return manifest


def _manifest(files: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"manifest": 1, "versions": versions(), "files": files, **facts}


def _text(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2, default=_plain) + "\n").encode()


def _file(path: pathlib.Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)}


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.get_config() if hasattr(value, "get_config") else str(value)
