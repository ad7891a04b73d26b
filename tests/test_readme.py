"""The Python in the documentation runs as it is printed."""

from __future__ import annotations

import pathlib
import re

import nets
import pytest

from qat_round.integer import custom
from qat_round.rounding import registry

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/any_model.md",
    "docs/choosing.md",
    "docs/training.md",
]


def python_blocks(page: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_runs(page, float_net, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(custom, "_SPECS", dict(custom._SPECS))
    x_train, y_train = pictures
    x_test, _ = nets.pictures(64, seed=1)
    names = {"model": float_net, "x_train": x_train, "y_train": y_train, "x_test": x_test}
    for block in python_blocks(page):
        exec(compile(block, page, "exec", dont_inherit=True), names)


def test_every_page_with_python_is_run():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
    with_python = [str(p.relative_to(ROOT)) for p in pages if python_blocks(p.relative_to(ROOT))]
    assert sorted(with_python) == sorted(PAGES)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/index.md", "docs/training.md"]
)
def test_every_link_leads_to_a_file(page):
    here = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (here / link).exists()] == []
