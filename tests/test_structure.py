"""The house: one direction of imports, and a public surface that is meant."""

from __future__ import annotations

import ast
import pathlib

import qat_round as qr

PACKAGE = pathlib.Path(qr.__file__).parent

ROOMS = [  # each may import from those above it, and from itself
    "_compat",
    "later",
    "one_call",
    "rounding",
    "pace",
    "schedules",
    "testing",
    "statistics",
    "fused",
    "range_search",
    "affine",
    "fake_quantization",
    "ranges",
    "learned",
    "notes",
    "fixed_point",
    "kernel_sets",
    "wide_curves",
    "pending",
    "exact",
    "observing",
    "once",
    "quantizers",
    "grids",
    "exact_layers",
    "preserve",
    "spec",
    "model_spec",
    "recipes",
    "configs",
    "layer_quantizers",
    "wrapper",
    "file_few_levels",
    "saved_code",
    "declared_sizes",
    "intake",
    "integer",
    "refusals",
    "scheme",
    "tables",
    "tensors",
    "mean_ranges",
    "lift",
    "computing",
    "adopt",
    "model_data",
    "calibrate",
    "batch_norm",
    "oscillation",
    "adaround",
    "lower_bits",
    "distill",
    "callbacks",
    "monitors",
    "model",
    "search_bits",
    "bakeoff",
    "precision",
    "tflite_file",
    "file_wide",
    "micro_runner",
    "file_scales",
    "int16",
    "export",
    "keras_file",
    "coverage",
    "parity",
    "answers",
    "verify",
    "compare_operators",
    "compare_tensors",
    "compare_reasons",
    "compare",
    "firmware",
    "file_metadata",
    "inspect_file",
    "edge",
    "data_files",
    "manifest",
    "training",
    "figures",
    "recipe_parts",
    "recipe_file",
    "report",
    "recipe_init",
    "strip",
    "float16",
    "onnx_file",
    "recipe_checks",
    "recipe_run",
    "api",
    "cli",
    "__main__",
]


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path: pathlib.Path) -> set[str]:
    """The rooms of ours that a module imports from."""
    found = set()
    depth = len(path.relative_to(PACKAGE).parts)  # 1 in the package itself, 2 in a room's folder
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if node.level == 0 and module.startswith("qat_round"):
            rest = module.split(".")[1:]
        elif node.level == depth:
            rest = module.split(".") if module else []
        else:
            continue
        found |= {rest[0]} if rest else {alias.name for alias in node.names}
    return found


def test_a_module_imports_only_from_rooms_above_it():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path)
        if room == "__init__":
            continue
        allowed = set(ROOMS[: ROOMS.index(room) + 1])
        wrong += [f"{room} imports {other}" for other in imported_rooms(path) - allowed]
    assert wrong == []


def test_every_room_is_listed():
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(ROOMS)


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
