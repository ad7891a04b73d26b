"""Structure of the package: one direction of imports, and an intended public surface."""

from __future__ import annotations

import ast
import pathlib

import pytest
from house import ORDER, House

import qat_round as qr

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "qat_round"


@pytest.fixture(scope="module")
def house():
    return House(ROOT)


def test_every_module_lies_in_a_package_one_folder_deep(house):
    assert house.unplaced() == []


def test_a_package_imports_only_from_those_above_it(house):
    """Imports inside of functions count too."""
    assert house.backward() == []


def test_no_module_imports_itself_by_way_of_others(house):
    assert house.cycles() == []


def test_a_wrong_import_is_found(tmp_path):
    """Checks the check: an import in a function, a cycle, a file outside the packages."""
    for name, text in {
        "__init__.py": "",
        "api.py": "__all__ = []\n",
        "rounding/one.py": "def f():\n    from qat_round.numerics import two\n",
        "numerics/two.py": "from .three import x\n",
        "numerics/three.py": "from qat_round.numerics.two import y\n",
        "numerics/deep/four.py": "",
        "lost.py": "",
    }.items():
        path = tmp_path / "qat_round" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    wrong = House(tmp_path)
    assert wrong.unplaced() == ["lost", "numerics.deep.four"]
    assert wrong.backward() == ["rounding.one:2 imports numerics.two"]
    assert wrong.cycles() == ["numerics.three", "numerics.two"]


def test_tests_lie_where_their_packages_do():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= set(ORDER)


def test_tfmot_is_imported_in_one_place():
    touching = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if "import tensorflow_model_optimization" in path.read_text()
        or "from tensorflow_model_optimization" in path.read_text()
    ]
    assert touching == ["_compat.py"]


def test_all_names_what_is_there():
    assert sorted(qr.__all__) == sorted(set(qr.__all__))
    assert all(hasattr(qr, name) for name in qr.__all__)


def test_no_assert_and_no_bare_except_in_the_package():
    found = [
        f"{path.name}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.ExceptHandler) and node.type is None)
    ]
    assert found == []
