"""What is shipped and promised: public names, licences, the wheel."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys

import pytest

import qat_round as qr

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = ROOT / "tests" / "public_api.txt"


def test_the_public_names_are_those_that_were_agreed():
    """A name that is missing breaks somebody: a new major version. A new one: a minor version."""
    assert sorted(qr.__all__) == PUBLIC.read_text().split()


def test_every_dependency_says_its_licence():
    done = subprocess.run(
        [sys.executable, "tools/licences.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert any(line.startswith("tensorflow ") for line in lines)
    assert [line for line in lines if line.endswith("not said")] == []


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
