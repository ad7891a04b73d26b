"""Layer by layer: where does a `.tflite` part from Keras, and why?

Two questions to each operator. End to end: is its output what Keras has there? By itself, fed with
the interpreter's own inputs: does it compute what it should? The first grows from layer to layer,
the second does not.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from qat_round._tables import as_text
from qat_round.files.interpreter import Runner, sliced
from qat_round.files.tflite_file import TFLiteFile
from qat_round.quantizers.quantized_tensors import require_quantized
from qat_round.verify.float_operators import FloatOperators, on_grid
from qat_round.verify.likely_causes import reason_for
from qat_round.verify.match_tensors import Activations, activations_of, layer_of, matched
from qat_round.verify.verify_tflite import in_order, named_inputs

_VERB = "compare_layers"
_TIE = 1e-3  # a float comparison's slack, in steps
_INPUT = "(input)"


@dataclasses.dataclass(frozen=True)
class LayerParity:
    """One quantized tensor of the file.

    Args:
        layer: the Keras layer that it belongs to.
        operator: the operator that makes it.
        tensor: its index in the file.
        step: one step of its grid in the file, real units.
        same, within_one, max_steps: end to end, against Keras: share of the values that are the
            very same integer, share at most one step apart, largest distance in steps; None where
            Keras has no such tensor.
        own_same, own_within_one, own_max_steps: the same, against what the operator should give
            for the interpreter's own inputs; None for operators without a float kernel.
    """

    layer: str
    operator: str
    tensor: int
    step: float
    same: float | None
    within_one: float | None
    max_steps: float | None
    own_same: float | None
    own_within_one: float | None
    own_max_steps: float | None

    @property
    def parts(self) -> bool:
        """Whether any value is more than one step from Keras's (or is no number)."""
        return self.max_steps is not None and not self.max_steps <= 1.0 + _TIE


@dataclasses.dataclass(frozen=True)
class LayerComparison:
    """What `compare_layers` found.

    Args:
        layers: one LayerParity for each quantized tensor of the file, in the order of computing.
        reason: the likely reason why the first layer that parts does so.
        missing: Keras's quantized tensors that the file has none for.
        samples: how many samples were compared.
    """

    layers: tuple[LayerParity, ...]
    reason: str
    missing: tuple[str, ...]
    samples: int

    @property
    def first_parting(self) -> LayerParity | None:
        """The first layer with a value more than one step from Keras's; None if there is none."""
        return next((layer for layer in self.layers if layer.parts), None)

    @property
    def own_max_steps(self) -> float:
        """The furthest that any operator is from what it should give for its own inputs, steps."""
        return max((y.own_max_steps for y in self.layers if y.own_max_steps is not None), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        first = self.first_parting
        found = {"first_parting": first and first.layer, "own_max_steps": self.own_max_steps}
        return {**dataclasses.asdict(self), **found}

    def table(self) -> str:
        """The findings as text."""
        own = ("own: same", "own: within one", "own: furthest")
        columns = ("layer", "operator", "step", "same", "within one", "furthest", *own)
        title = f"Keras against the .tflite, layer by layer, {self.samples} samples"
        text = as_text(title, columns, [_cells(layer) for layer in self.layers], width=130)
        first = self.first_parting
        found = (
            "" if first is None else f"First to part: {first.layer} ({first.operator}). Likely: "
        )
        missing = f"\nNot in the file: {', '.join(self.missing)}." if self.missing else ""
        return f"{text}{found}{self.reason}{missing}"


def compare_layers(
    model: Any, tflite: bytes | str | os.PathLike[str], inputs: Any, batch_size: int = 32
) -> LayerComparison:
    """Finds the first layer at which a `.tflite` parts from the Keras model that it came from.

    Every activation that Keras puts on a grid is compared with the file's in the interpreter; and
    every operator, fed with the interpreter's own inputs, with float arithmetic rounded on its
    output's grid (`floor(x/scale + 1/2)`).

    Args:
        model: the quantized model.
        tflite: the file's bytes or path.
        inputs: real-valued inputs, as for `qr.verify_tflite`; a few dozen samples are enough.
        batch_size: how many samples run at once.

    Returns:
        A LayerComparison; `.table()`, `.first_parting`, `.reason`.

    Raises:
        ValueError: for a model that is not quantized, inputs or a file that do not fit.
        FileNotFoundError: if there is no file at the path.
    """
    require_quantized(model, _VERB)
    file = TFLiteFile(tflite)
    runner = Runner(file, keep_all=True)
    in_order(model.output_names, list(runner.outputs), "outputs", _VERB)
    named = named_inputs(model, runner, inputs, batch_size, _VERB)
    work = _Comparison(model, file, runner)
    parts = list(sliced(named, runner.fixed_batch() or batch_size))
    for number, batch in enumerate(parts):
        work.add(number, batch)
    layers = work.layers([layer.name for layer in model.layers])
    first = next((layer for layer in layers if layer.parts), None)
    return LayerComparison(
        layers=layers,
        reason=work.reason(first, layers, parts),
        missing=work.missing(),
        samples=len(next(iter(named.values()))),
    )


class _Tally:
    """Distances in steps, counted over batches."""

    def __init__(self) -> None:
        self.count = self.same = self.within_one = 0
        self.furthest, self.worst_batch = 0.0, 0

    def add(self, apart: np.ndarray, batch: int) -> None:
        self.count += apart.size
        self.same += int(np.sum(apart < 0.5))
        self.within_one += int(np.sum(apart <= 1.0 + _TIE))
        furthest = float(apart.max(initial=0.0))
        if not furthest <= self.furthest:  # NaN counts as far
            self.furthest, self.worst_batch = furthest, batch

    def figures(self) -> tuple[float, float, float]:
        count = max(self.count, 1)
        return self.same / count, self.within_one / count, self.furthest


class _Comparison:
    """Runs batches through both, and counts."""

    def __init__(self, model: Any, file: TFLiteFile, runner: Runner):
        self.file, self.runner = file, runner
        self.operators = FloatOperators(file)
        self.activations = Activations(model)
        self.end_to_end: dict[int, _Tally] = {}
        self.own: dict[int, _Tally] = {}
        self.pairs: dict[int, int] = {}
        self.tensors = activations_of(file)

    def add(self, number: int, batch: Any) -> None:
        """Counts one batch's distances."""
        ours = self.run(batch)
        for tensor, at in self.pairs.items():
            theirs = self.runner.read(tensor).ravel()
            tally = self.end_to_end.setdefault(tensor, _Tally())
            tally.add(self.steps(tensor, ours[at].ravel(), theirs), number)
        for at in range(len(self.file.operators)):
            self._add_own(at, number)

    def run(self, batch: Any) -> list[np.ndarray]:
        """Keras's activations; the interpreter keeps its own."""
        self.runner(batch)
        ours = self.activations(list(batch.values()))
        if not self.pairs:
            sizes = {i: self.runner.read_raw(i).size for i in self.tensors}
            found = matched(self.activations.tensors, [y.size for y in ours], self.file, sizes)
            self.pairs = found
        return ours

    def steps(self, tensor: int, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Distances in steps of a tensor of the file."""
        return np.abs(np.float64(ours) - np.float64(theirs)) / self.file.tensors[tensor].scales[0]

    def layers(self, names: list[str]) -> tuple[LayerParity, ...]:
        """The rows, in the order of computing."""
        makers = {int(i): op.name for op in self.file.operators for i in op.outputs}
        found = []
        for i in self.tensors:
            tensor, nothing = self.file.tensors[i], (None, None, None)
            at = self.pairs.get(i)
            layer = layer_of(tensor, names) if at is None else self.activations.tensors[at].layer
            ends = self.end_to_end[i].figures() if i in self.end_to_end else nothing
            own = self.own[i].figures() if i in self.own else nothing
            maker = makers.get(i, _INPUT)
            found.append(LayerParity(layer, maker, i, float(tensor.scales[0]), *ends, *own))
        return tuple(found)

    def missing(self) -> tuple[str, ...]:
        """Layers of Keras whose tensor is not in the file."""
        tensors, used = self.activations.tensors, set(self.pairs.values())
        return tuple(t.layer for at, t in enumerate(tensors) if at not in used)

    def reason(self, first: LayerParity | None, layers: Any, parts: list[Any]) -> str:
        """Why the first layer parts; computed on the batch where it is furthest off."""
        if first is None:
            return "Every layer is within one step of Keras."
        ours = self.run(parts[self.end_to_end[first.tensor].worst_batch])
        values = {tensor: ours[at] for tensor, at in self.pairs.items()}
        keras_tensor = self.activations.tensors[self.pairs[first.tensor]]
        return reason_for(
            first, layers, keras_tensor, values, self.file, self.operators, self.runner
        )

    def _add_own(self, at: int, number: int) -> None:
        outputs = [int(i) for i in self.file.operators[at].outputs]
        if not set(self.tensors).issuperset(outputs):
            return
        expected = self.operators.run(at, self.runner.read, self.runner.read_raw)
        for i, values in zip(outputs, expected or (), strict=False):
            should = on_grid(values, self.file.tensors[i])
            tally = self.own.setdefault(i, _Tally())
            tally.add(self.steps(i, should, self.runner.read(i)), number)


def _cells(layer: LayerParity) -> list[str]:
    figures = (layer.same, layer.within_one, layer.max_steps)
    own = (layer.own_same, layer.own_within_one, layer.own_max_steps)
    texts = [_text(*some) for some in zip((*figures, *own), (True, True, False) * 2, strict=True)]
    return [layer.layer, layer.operator, f"{layer.step:.4g}", *texts]


def _text(figure: float | None, is_share: bool) -> str:
    if figure is None:
        return "-"
    return f"{figure:.2%}" if is_share else f"{figure:.3g}"
