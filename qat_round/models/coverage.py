"""What will happen to each layer of a model, before it is quantized; and whether it did."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round._tables import as_text
from qat_round.files.tflite_file import TFLiteFile
from qat_round.frontend.graph import Graph, Node, Part, refs_in
from qat_round.layers.ops import MatMul
from qat_round.lowering.build import plan
from qat_round.quantizers.model_spec import ModelSpec, as_model_spec
from qat_round.quantizers.spec import LayerSpec

INTEGER, WIDE, REWRITTEN, FOLDED, IN_FLOAT = "integer", "16-bit", "rewritten", "folded", "float"


@dataclasses.dataclass(frozen=True)
class LayerCoverage:
    """What will happen to one layer.

    Args:
        name: the layer's name.
        layer: its class's name.
        outcome: "integer"; "16-bit" (integer, with more than 8 bits); "rewritten" (integer, as
            other layers); "folded" (part of another layer, or without effect); or "float".
        why: what it becomes, or why it stays in float.
        macs: multiply-accumulates for one example; sizes that are not fixed count as 1.
    """

    name: str
    layer: str
    outcome: str
    why: str
    macs: int


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What will happen to a model.

    Args:
        layers: a row for each layer, in the model's order.
    """

    layers: tuple[LayerCoverage, ...]

    @property
    def ok(self) -> bool:
        """Whether no layer stays in float."""
        return not self.float_layers

    @property
    def float_layers(self) -> dict[str, str]:
        """Layers that stay in float -> why."""
        return {row.name: row.why for row in self.layers if row.outcome == IN_FLOAT}

    @property
    def integer_macs(self) -> float:
        """The share of multiply-accumulates that are computed in integers, 0 to 1."""
        total = sum(row.macs for row in self.layers)
        in_float = sum(row.macs for row in self.layers if row.outcome == IN_FLOAT)
        return 1.0 if not total else 1.0 - in_float / total

    def table(self) -> str:
        """The rows, to be printed."""
        rows = [(r.name, r.layer, r.outcome, f"{r.macs:,}", r.why) for r in self.layers]
        title = f"{self.integer_macs:.1%} of the multiply-accumulates are integer"
        return as_text(title, ("layer", "class", "outcome", "MACs", "why"), rows)

    def disagreements(self, tflite: bytes | str | os.PathLike[str]) -> tuple[str, ...]:
        """Where a file does otherwise than was said here; empty if it does as said.

        Args:
            tflite: the bytes or the path of the file that the quantized model was exported to.
        """
        file = TFLiteFile(tflite)
        found = [(op, _owner(self.layers, name)) for op, name in file.float_results()]
        said = self.float_layers
        wrong = [
            f"{op} is computed in float, but {_shown(owner)} was said to be integer"
            for op, owner in found
            if (owner not in said if owner else not said)
        ]
        return (*wrong, *_not_float(said, file))


def coverage(
    model: Any,
    *,
    spec: ModelSpec | LayerSpec | None = None,
    safe_mode: bool = True,
    **settings: Any,
) -> Coverage:
    """What `qr.quantize_model` will do to each layer of a model, and why.

    Args:
        model: what `qr.quantize_model` takes; it is not changed.
        spec, safe_mode, **settings: as for `qr.quantize_model`.

    Returns:
        A Coverage; `print(coverage.table())` shows it, `coverage.disagreements(tflite)` compares it
        with the exported file.

    Raises:
        ValueError: for a model that cannot be read.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.ELU(name="unit")])
        >>> [(row.name, row.outcome) for row in coverage(model).layers]
        [('unit', 'rewritten')]
    """
    planned = plan(model, as_model_spec(spec, **settings), safe_mode)
    pieces: dict[str, list[Part]] = {name: [] for name in planned.source.parts}
    for part in planned.graph.parts.values():
        pieces[part.origin.name].append(part)
    macs = _macs_by_part(planned.graph)
    inputs = {planned.source.nodes[ref.node].part for ref in refs_in(planned.source.inputs)}
    rows = [
        _row(planned, part, pieces[name], macs)
        for name, part in planned.source.parts.items()
        if name not in inputs
    ]
    return Coverage(tuple(rows))


def _row(
    planned: Any, part: Part, pieces: Sequence[Part], macs: Mapping[str, int]
) -> LayerCoverage:
    outcome, why = _outcome(planned, part, pieces)
    cost = sum(macs[piece.name] for piece in pieces)
    return LayerCoverage(part.name, part.cls.__name__, outcome, why, cost)


def _outcome(planned: Any, part: Part, pieces: Sequence[Part]) -> tuple[str, str]:
    if not pieces:
        return FOLDED, "part of the layers around it"
    configs = [planned.layers[piece.name] for piece in pieces]
    reasons = [config.why for config in configs if config.why]
    if reasons:
        return IN_FLOAT, reasons[0]
    if any(piece.cls is keras.layers.BatchNormalization for piece in pieces):
        return FOLDED, "into the weights of the layer in front"
    if any(config.output is not None and config.output.bits > 8 for config in configs):
        return WIDE, f"{max(c.output.bits for c in configs if c.output)}-bit activations"
    kinds = list(dict.fromkeys(piece.cls.__name__ for piece in pieces))
    if kinds == [part.cls.__name__]:
        return INTEGER, ""
    return REWRITTEN, f"as {', '.join(kinds)}"


def _macs_by_part(graph: Graph) -> dict[str, int]:
    costs = dict.fromkeys(graph.parts, 0)
    for node in graph.nodes.values():
        costs[node.part] += _macs(graph, node)
    return costs


def _macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of one call: every weight of the kernel once for each position."""
    part, shapes = graph.parts[node.part], [graph.spec(ref).shape for ref in node.refs]
    out = node.specs[0].shape
    if part.cls is MatMul and shapes[0] is not None:
        return _size(out) * (shapes[0][-2 if part.config["transpose_a"] else -1] or 1)
    if not part.weights or out is None or part.cls in _ONLY_LOOKED_UP:
        return 0
    kernel = max((w for w in part.weights), key=np.size)
    around = shapes[0] if "Transpose" in part.cls.__name__ and shapes else out
    positions = _size(around[:-1]) if kernel.ndim > 1 else 1
    return int(kernel.size) * positions


_ONLY_LOOKED_UP = (keras.layers.Embedding, keras.layers.BatchNormalization)


def _size(shape: Sequence[Any]) -> int:
    return int(np.prod([n or 1 for n in shape[1:]], dtype=np.int64))


def _owner(rows: Sequence[LayerCoverage], tensor: str) -> str | None:
    """The layer whose name is in a tensor's name; the longest where there are several."""
    names = [row.name for row in rows if f"quant_{row.name}" in tensor]
    return max(names, key=len, default=None)


def _not_float(said: Iterable[str], file: TFLiteFile) -> Iterator[str]:
    """Layers said to be float whose operators are integer; all at once where none has a name."""
    in_float = [name for _, name in file.float_results()]
    unknown = []
    for layer in said:
        if any(_is_of(layer, name) for name in in_float):
            continue
        operators = [op for op, name in file.integer_results() if _is_of(layer, name)]
        computing = sorted(set(operators) - _MOVING)
        if computing:
            shown = ", ".join(computing)
            yield f"{shown} of {layer!r} is computed in integers, but was said to be float"
        elif not operators:
            unknown.append(layer)
    if unknown and not in_float:
        yield f"the file has no float operator, but {sorted(unknown)} were said to be float"


def _is_of(layer: str, tensor: str) -> bool:
    """Whether a tensor's name, which may join several, names a layer."""
    return any(f"/quant_{layer}/" in f"/{name}/" for name in tensor.split(";"))


_MOVING = frozenset({"RESHAPE", "TRANSPOSE", "CONCATENATION", "SPLIT", "UNPACK", "PACK"})
"""Operators that only hand values on, for which it makes no difference."""


def _shown(owner: str | None) -> str:
    return "everything else" if owner is None else repr(owner)
