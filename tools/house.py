"""Measures the structure of `qat_round/`; `tests/test_structure.py` checks it with this module.

usage: python tools/house.py [ROOT]
Prints the table of CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import collections
import functools
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

PACKAGE = "qat_round"
ORDER = {  # package: what it owns. Each may import from itself and from those above it.
    "root": "files at the top that need nothing of ours",
    "rounding": "rounding methods: pure maths, unit is one scale",
    "numerics": "grid, fake quantization, integer arithmetic of the kernels",
    "quantizers": "ranges, quantizer and its state; specs and named recipes",
    "layers": "Keras layers, the wrapper, integer inference",
    "files": "bytes on disk: read with checks, written whole",
    "frontend": "any Keras model to an equal flat graph",
    "lowering": "flat graph to layers that TFLite has in integers, and the plan",
    "models": "verbs on whole models: quantize, annotate, load, adopt, strip",
    "training": "calibration, batch-norm statistics, callbacks, searches",
    "export": "quantized model to .tflite, .onnx, float16, C",
    "verify": "a file against its model",
    "edge": "a file on devices",
    "report": "one HTML page",
    "pipeline": "a recipe file, from float model to checked files",
    "api": "public names",
    "cli": "commands",
}
TOP = {  # files beside the packages, and the package whose rules hold for them
    "__init__": "api",
    "__main__": "cli",
    "_compat": "root",
    "_lazy": "root",
    "_tables": "root",
    "_validate": "root",
    "api": "api",
    "ranges": "api",
    "schedules": "api",
    "testing": "api",
}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 25


class Import(NamedTuple):
    """One module of ours that imports another.

    Args:
        source: dotted name of the importing module, without `qat_round.`.
        target: of the imported one.
        line: where.
        lazy: whether it is inside a function.
    """

    source: str
    target: str
    line: int
    lazy: bool


class House:
    """The modules of a checkout, parsed."""

    def __init__(self, root: pathlib.Path):
        self.folder = root / PACKAGE
        self.paths = {self._name(path): path for path in sorted(self.folder.rglob("*.py"))}
        self.trees = {name: ast.parse(path.read_text()) for name, path in self.paths.items()}

    def _name(self, path: pathlib.Path) -> str:
        parts = path.relative_to(self.folder).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)

    def package_of(self, module: str) -> str:
        """The package of a module; "" for one that has no place."""
        first, _, rest = module.partition(".")
        if "." in rest:  # deeper than one folder
            return ""
        if self.paths[module].parent == self.folder:
            return TOP.get(first, "")
        return first if first in ORDER else ""

    @functools.cached_property
    def imports(self) -> list[Import]:
        """Every import of ours, but those for type checkers alone."""
        return [found for module in self.trees for found in self._imports(module)]

    def _imports(self, module: str) -> Iterator[Import]:
        for node, lazy in _walk(self.trees[module], False):
            for target in self._targets(module, node):
                if target != module:
                    yield Import(module, target, node.lineno, lazy)  # type: ignore[attr-defined]

    def _targets(self, module: str, node: ast.AST) -> set[str]:
        """Modules that one statement imports; names that are no modules stand for their module."""
        if isinstance(node, ast.Import):
            dotted = [a.name for a in node.names if a.name.split(".")[0] == PACKAGE]
            return {self._known(name.split(".")[1:]) for name in dotted}
        if not isinstance(node, ast.ImportFrom):
            return set()
        base = (node.module or "").split(".") if node.module else []
        if node.level:
            is_init = self.paths[module].name == "__init__.py" and module != "__init__"
            above = module.split(".") if module != "__init__" else []
            base = above[: len(above) - node.level + is_init] + base
        elif not base or base[0] != PACKAGE:
            return set()
        else:
            base = base[1:]
        return {self._known([*base, alias.name]) for alias in node.names}

    def _known(self, parts: list[str]) -> str:
        for size in range(len(parts), 0, -1):
            if ".".join(parts[:size]) in self.paths:
                return ".".join(parts[:size])
        return "__init__"

    def unplaced(self) -> list[str]:
        """Modules that belong to no package."""
        return [name for name in self.paths if not self.package_of(name)]

    def backward(self) -> list[str]:
        """Imports from a package that comes later, in functions too."""
        rank = {name: number for number, name in enumerate(ORDER)}
        return [
            f"{i.source}:{i.line} imports {i.target}"
            for i in self.imports
            if rank[self.package_of(i.target)] > rank[self.package_of(i.source)]
        ]

    @functools.cached_property
    def graph(self) -> dict[str, set[str]]:
        """module -> modules that it imports when it is imported."""
        found: dict[str, set[str]] = {name: set() for name in self.paths}
        for i in self.imports:
            if not i.lazy:
                found[i.source].add(i.target)
        return found

    def cycles(self) -> list[str]:
        """Modules that import themselves by way of others."""
        return [name for name in self.graph if name in self._reachable(name)]

    def _reachable(self, start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(self.graph[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += self.graph[node]
        return seen

    def longest_chain(self) -> list[str]:
        """The longest chain of imports; there must be no cycles."""

        @functools.cache
        def chain(node: str) -> list[str]:
            return [node, *max((chain(n) for n in self.graph[node]), key=len, default=[])]

        return max((chain(node) for node in self.graph), key=len)

    def package_imports(self) -> set[tuple[str, str]]:
        """(package, package that it imports from)."""
        pairs = {(self.package_of(i.source), self.package_of(i.target)) for i in self.imports}
        return {(a, b) for a, b in pairs if a != b}

    def lines(self) -> dict[str, int]:
        """module -> lines."""
        return {name: len(path.read_text().splitlines()) for name, path in self.paths.items()}

    def functions(self) -> dict[str, int]:
        """module.function -> lines, without decorators and docstring."""
        return {
            f"{name}.{node.name}": _length(node)
            for name, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
        }

    def annotated_arguments(self) -> tuple[int, int]:
        """Returns the number of arguments annotated `Any`, and of all annotated arguments."""
        notes = [
            ast.unparse(argument.annotation)
            for tree in self.trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for argument in ast.walk(node.args)
            if isinstance(argument, ast.arg) and argument.annotation
        ]
        return sum(note == "Any" for note in notes), len(notes)

    def public_names(self) -> int:
        """Names in `__all__` of `api.py`."""
        for node in self.trees["api"].body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return len(ast.literal_eval(node.value))
        return 0


def _walk(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node with whether it is inside a function; blocks for type checkers are left out."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node, lazy
    lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, lazy)


def _length(node: ast.FunctionDef) -> int:
    first = node.body[0]
    has_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    text = (first.end_lineno or 0) - first.lineno + 1 if has_text else 0
    return (node.end_lineno or 0) - node.lineno + 1 - text


def metrics(house: House) -> dict[str, str]:
    """The rows of the table in CONTRIBUTING.md."""
    lines, functions = house.lines(), house.functions()
    some, annotated = house.annotated_arguments()
    named = sum("Conv2DTranspose" in path.read_text() for path in house.paths.values())
    places = collections.Counter(house.package_of(name) for name in house.paths)
    long = [name for name, count in lines.items() if count > MOST_LINES]
    return {
        "packages": str(len(places)),
        "modules": str(len(house.paths)),
        "lines": f"{sum(lines.values()):,}",
        "imports between packages": str(len(house.package_imports())),
        "imports between modules": str(len({i[:2] for i in house.imports})),
        "longest chain of imports": str(len(house.longest_chain())),
        f"files over {MOST_LINES} lines": f"{len(long)}: {', '.join(long)}" if long else "0",
        f"functions over {MOST_LINES_OF_A_FUNCTION} lines": str(
            sum(count > MOST_LINES_OF_A_FUNCTION for count in functions.values())
        ),
        "names at the top": str(house.public_names()),
        "files that name `Conv2DTranspose`": str(named),
        "arguments annotated `Any`": f"{100 * some / annotated:.0f} % of {annotated:,}",
    }


def main() -> None:
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1]
    print("| metric | value |\n|---|---|")
    for name, value in metrics(House(root)).items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
