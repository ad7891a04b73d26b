"""MkDocs hook: pages and files that live outside of docs/ become part of the site.

Pages link to each other as files of the repository do, so that they work there too; here
`../README.md` and the like are turned into links of the site.
"""

from __future__ import annotations

import pathlib
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = {  # file of the repository -> page of the site
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results/accuracy.md": "accuracy.md",
    "benchmarks/results/adaround.md": "adaround.md",
    "benchmarks/results/peers.md": "peers.md",
    "benchmarks/results/devices.md": "devices_table.md",
    "benchmarks/results/random_graphs.md": "random_graphs.md",
    "benchmarks/results/sparse.md": "sparse.md",
    "benchmarks/results/layers.md": "layers.md",
}
SPEED = ("kernels", "kernels_bfloat16", "steps", "steps_batch8", "modes", "profile", "startup")
SPEED += ("scaling", "bandwidth", "gpu", "gpu_kernels")
PAGES |= {f"benchmarks/results/{n}.md": f"bench_{n}.md" for n in SPEED}
_LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages, and the examples as plain files."""
    found = {source: page for source, page in PAGES.items() if (ROOT / source).exists()}
    examples = [path for path in (ROOT / "examples").iterdir() if path.is_file()]
    found |= {f"examples/{path.name}": f"examples_src/{path.name}" for path in examples}
    for source, page in found.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files of the repository, as links of the site."""
    sources = {site: source for source, site in PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        place = _place(target)
        if place is None:
            return found[0]
        link = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
        return f"{found[1]}{link}{found[3] or ''}{found[4]}"

    return _LINK.sub(moved, markdown)


def _place(target: str) -> str | None:
    """Where a file of the repository is in the site; None if it is not there."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target.startswith("examples/"):
        return f"examples_src/{target.removeprefix('examples/')}"
    return None
