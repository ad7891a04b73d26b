"""What is shipped and promised: public names, licences, the wheel."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import pathlib
import re
import subprocess
import sys
import warnings

import public_api
import pytest

ROOT = pathlib.Path(__file__).parents[1]

PUBLIC = ROOT / "tests" / "public_api.txt"


def test_the_public_names_and_signatures_are_those_that_were_agreed():
    """What is missing or changed breaks somebody: a new major version. A new name: a minor one."""
    assert public_api.lines() == PUBLIC.read_text().splitlines()


def test_warnings_of_our_own_modules_are_errors():
    """`filterwarnings` of pyproject.toml: of what fits, the last counts."""
    for module in ("qat_round", "qat_round.lowering.plan"):
        with pytest.raises(DeprecationWarning):
            warnings.warn_explicit("old", DeprecationWarning, "plan.py", 1, module=module)


def test_every_dependency_says_its_licence():
    done = subprocess.run(
        [sys.executable, "tools/licences.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert any(line.startswith("tensorflow ") for line in lines)
    assert [line for line in lines if line.endswith("not said")] == []


def test_the_licences_of_what_is_required_are_in_the_documentation():
    page = (ROOT / "docs" / "licences.md").read_text()
    needs = re.search(r"\ndependencies = \[(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), re.S)
    names = set(re.findall(r'^  "([A-Za-z-]+)', needs[1], re.M)) - {"tomli", "setuptools"}
    assert "tensorflow" in names  # the two are for some versions of Python alone
    assert [name for name in sorted(names) if f"| {name} |" not in page] == []
    assert "not said" not in page


def test_a_locked_version_that_is_unsafe_is_found():
    audit = importlib.machinery.SourceFileLoader("audit", str(ROOT / "tools/audit.py"))
    found = importlib.util.module_from_spec(importlib.util.spec_from_loader("audit", audit))
    audit.exec_module(found)
    entry = {"specs": ["<2.0,>=1.0", "==2.3"], "cve": "CVE-1", "id": "x", "advisory": "bad"}
    known = {"Some_Package": [entry], "other": [entry], "$meta": {}}
    for version, count in {"1.5": 1, "2.3": 1, "2.0": 0, "0.9": 0}.items():
        assert len(found.findings({"some-package": version}, known)) == count
    assert len(found.locked(ROOT / "requirements-dev.lock")) > 100


@pytest.mark.slow
def test_two_wheels_are_the_same_bytes():
    subprocess.run([sys.executable, "tools/wheel.py"], cwd=ROOT, check=True, timeout=300)
