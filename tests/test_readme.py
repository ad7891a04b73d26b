"""The Python in the documentation runs as it is printed."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

import qat_round as qr
from qat_round.lowering import register_layer
from qat_round.rounding import registry
from tests.models import nets

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CONTRIBUTING.md"] + [
    f"docs/{name}.md"
    for name in ("any_model", "choosing", "devices", "formats", "report", "training", "tutorial")
]
NEEDS = {  # modules of extras
    "docs/devices.md": ("tflite_micro", "ethosu"),
    "docs/formats.md": ("tf2onnx", "onnxruntime"),
    "docs/report.md": ("jinja2", "matplotlib"),
}
LINKED = sorted(
    {
        "benchmarks/README.md",
        *PAGES,
        *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")),
    }
)


def python_blocks(page: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )


@pytest.fixture
def names(float_net, tuned, pictures, tmp_path):
    """What the pages take as given."""
    x_test, _ = nets.pictures(64, seed=1)
    tuned("ste").save(tmp_path / "q.keras")  # a copy: pages train it on
    q = qr.load_model(tmp_path / "q.keras")
    return {
        "model": float_net,
        "q": q,
        "tflite": qr.export_tflite(q, io="int8", batch_size=1),
        "x_train": pictures[0],
        "y_train": pictures[1],
        "x_test": x_test,
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_runs(page, names, tmp_path, monkeypatch):
    for module in NEEDS.get(page, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(register_layer, "_SPECS", dict(register_layer._SPECS))
    for block in python_blocks(page):
        exec(compile(block, page, "exec", dont_inherit=True), names)


def test_every_page_with_python_is_run():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
    with_python = [str(p.relative_to(ROOT)) for p in pages if python_blocks(p.relative_to(ROOT))]
    assert sorted(with_python) == sorted(PAGES)


@pytest.mark.parametrize("page", LINKED)
def test_every_link_leads_to_a_file(page):
    here = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (here / link).exists()] == []


@pytest.mark.parametrize("page", LINKED)
def test_the_files_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`(?:\w+=\w+ )?pytest ([^`]*)`", text))
    files = [f"tests/{word}" for words in named for word in words.split() if word.endswith(".py")]
    files += re.findall(r"\b((?:tests|benchmarks|tools|examples|qat_round)/[a-z_0-9/]+\.\w+)", text)
    modules = re.findall(r"python -m ((?:tests|benchmarks)[a-z_0-9.]+)", text)
    files += [name.replace(".", "/") + ".py" for name in modules]
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs/reference.md").read_text()
    found = set(re.findall(r"^::: qat_round\.(\w+)$", text, re.MULTILINE))
    assert found == set(qr.__all__) - {"edge"}
    devices = set(re.findall(r"^::: qat_round\.edge\.(\w+)$", text, re.MULTILINE))
    assert devices == set(qr.edge.__all__) - {"MICRO_OPERATORS"}


def test_every_command_is_in_the_docs():
    from qat_round.cli import commands_inspect, commands_make, commands_recipe  # noqa: F401
    from qat_round.cli.frame import qat_round  # noqa: F401

    text = (ROOT / "docs/command_line.md").read_text()
    commands = re.findall(r"^\| `([\w-]+)", text, re.MULTILINE)
    assert set(qat_round.commands) <= set(commands)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "quantize_model" in (tmp_path / "reference.html").read_text()
