"""The likely reason why a layer of a `.tflite` is more than a step from Keras's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.verify.float_operators import FloatOperators, is_activation, on_grid
from qat_round.verify.match_tensors import KerasTensor, same_grid

_ONE = 1.0 + 1e-3
_MOSTLY = 0.99  # a kernel that gives the same integer less often than this rounds otherwise
_GIVEN = ("QUANTIZE", "(input)")  # what makes the input's tensor
_NO_FLOAT = "the operator has no float kernel to compare it with"
_ADDS_UP = "small rounding differences that add up: every operator before it is within one step"


def reason_for(
    row: Any,
    rows: Sequence[Any],
    tensor: KerasTensor,
    keras_values: Mapping[int, np.ndarray],
    file: TFLiteFile,
    operators: FloatOperators,
    runner: Runner,
) -> str:
    """A sentence.

    The range is looked at first, then the kernel (fed with its own inputs), then the constants: the
    operator fed with Keras's inputs. What is left are differences that came in.

    Args:
        row: the row that parts.
        rows: all rows, in order.
        tensor: Keras's tensor.
        keras_values: {tensor of the file: Keras's values}, for the batch that the runner ran last.
        file, operators, runner: the file, its operators in float, and its interpreter.
    """
    info = file.tensors[row.tensor]
    if not same_grid(tensor, info):
        return (
            f"range: the file's scale is {info.scales[0]:.6g} and its zero point "
            f"{int(info.zero_points[0])}, Keras has {tensor.step:.6g} and {tensor.zero_point}."
        )
    if row.own_max_steps is not None and row.own_max_steps > _ONE:
        return _unsupported(row)
    walk = _Walk(keras_values, file, operators, runner)
    expected = walk.exact(row.tensor)
    if expected is None:
        return f"unknown: {_NO_FLOAT}."
    ours = keras_values[row.tensor].reshape(expected.shape)
    apart = np.abs(ours - on_grid(expected, info)) / info.scales[0]
    if not apart.max(initial=0.0) <= _ONE:
        return _constants(row, apart, expected, operators.fused_activation(walk.maker(row.tensor)))
    return _added_up(row, rows)


def _unsupported(row: Any) -> str:
    return (
        f"unsupported rounding: {row.operator} of {row.layer}, fed with its own inputs, is "
        f"{row.own_max_steps:.3g} steps from the float result on its grid."
    )


def _constants(row: Any, apart: np.ndarray, expected: np.ndarray, fused: str) -> str:
    """The operator does something else with Keras's inputs than Keras does."""
    far = ~(apart <= _ONE)
    ends = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
    low, high = ends.get(fused, (-np.inf, np.inf))
    if np.all((expected[far] <= low) | (expected[far] >= high)):
        return (
            f"fused activation: {row.operator} has {fused} in it, and parts only where that clips."
        )
    return (
        f"fold: {row.operator} with the file's constants, fed with Keras's inputs, is "
        f"{apart.max():.3g} steps from Keras: weights, bias or folded batch norm differ (is the "
        "file older than the model?)."
    )


def _added_up(row: Any, rows: Sequence[Any]) -> str:
    before = rows[: rows.index(row) + 1]
    wrong = [r for r in before if r.own_max_steps is not None and r.own_max_steps > _ONE]
    if wrong:
        return _unsupported(max(wrong, key=lambda r: r.own_max_steps))
    for given in (r for r in rows if r.operator in _GIVEN and r.same is not None):
        if given.same < _MOSTLY:
            return _other_inputs(given)
    seen = [r for r in before if r.own_same is not None and r.same is not None]
    loosest = min(seen, key=lambda r: r.own_same, default=None)
    if loosest is not None and loosest.own_same < _MOSTLY and loosest.same < _MOSTLY:
        return _other_halves(loosest)
    return f"{_ADDS_UP} of what it should give for its own inputs."


def _other_halves(row: Any) -> str:
    return (
        f"rounding: {row.operator} of {row.layer}, fed with its own inputs, gives another integer "
        f"in {1.0 - row.own_same:.1%} of the values, one step off: its kernel does not round "
        "halves up, and averages often are halves; from there it adds up."
    )


def _other_inputs(row: Any) -> str:
    return (
        f"rounding: the input {row.layer} itself is another integer in {1.0 - row.same:.1%} of the "
        "values: they lie halfway between two steps, as the ends of a range from -a to a do; from "
        "there it adds up."
    )


class _Walk:
    """Computes tensors of the file from Keras's values, back to the nearest ones that Keras has."""

    def __init__(
        self,
        keras_values: Mapping[int, np.ndarray],
        file: TFLiteFile,
        operators: FloatOperators,
        runner: Runner,
    ):
        self._keras = keras_values
        self._file, self._operators, self._runner = file, operators, runner
        self._makers = {int(i): at for at, op in enumerate(file.operators) for i in op.outputs}
        self._known: dict[int, np.ndarray] = {}

    def maker(self, tensor: int) -> int:
        """The position of the operator that makes a tensor."""
        return self._makers[tensor]

    def exact(self, tensor: int) -> np.ndarray | None:
        """What the tensor's operator gives for Keras's inputs, not rounded; None if unknown."""
        if tensor not in self._makers:
            return self._runner.read(tensor)
        at = self._makers[tensor]
        found = self._operators.run(at, self._value, self._runner.read_raw)
        if found is None:
            return None
        outputs = [int(i) for i in self._file.operators[at].outputs]
        return found[outputs.index(tensor)]

    def _value(self, tensor: int) -> np.ndarray:
        theirs = self._runner.read(tensor)
        if tensor in self._keras:
            return self._keras[tensor].reshape(theirs.shape)
        if tensor not in self._makers or not is_activation(self._file.tensors[tensor]):
            return theirs
        if tensor not in self._known:
            exact = self.exact(tensor)
            info = self._file.tensors[tensor]
            self._known[tensor] = theirs if exact is None else on_grid(exact, info)
        return self._known[tensor]
