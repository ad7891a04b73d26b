"""Operators of 16 bits that TFLite has and its converter does not write, put into its files.

The converter gives a sigmoid or tanh an output of 8 bits whatever is asked, and never writes a
QUANTIZE from 8 to 16 bits or back. So they are shown to it as other operators that compute the same
in float, between two that change a last bit at most; what is between DEQUANTIZE and QUANTIZE
becomes the one operator afterwards. A file that is converted in another way than by
`qr.export_tflite` keeps them, and answers the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._compat import builtin_operator_names, read_flatbuffer, tf, tflite_schema, write_flatbuffer
from .tflite_file import operator_name

_LITTLE = 2.0**-23
_BEGIN = 1.0 - _LITTLE
_ENDS = {
    "QUANTIZE": 1.0 - 2.0 * _LITTLE,
    "LOGISTIC": 1.0 - 3.0 * _LITTLE,
    "TANH": 1.0 - 4.0 * _LITTLE,
}
"""Slopes of the leaky ReLUs in front of what stands for an operator, and behind it."""

_ONE = 1.0 + 2.0**-20  # of what has 1 here the converter makes a sigmoid again
_FLOAT: dict[str, Callable[[Any], Any]] = {
    "QUANTIZE": tf.identity,
    "LOGISTIC": lambda x: _ONE / (_ONE + tf.exp(-x)),
    "TANH": lambda x: 1.0 - 2.0 * _ONE / (_ONE + tf.exp(2.0 * x)),
}
_LONGEST = 8  # operators between the two
_VERSIONS = {"LOGISTIC": 3, "TANH": 3, "QUANTIZE": 2}


def stand_in(x: tf.Tensor, operator: str) -> tf.Tensor:
    """What an operator makes of x, as the converter is to see it.

    Args:
        x: float.
        operator: "QUANTIZE", "LOGISTIC" or "TANH".
    """
    y = _FLOAT[operator](tf.nn.leaky_relu(x, alpha=_BEGIN))
    return tf.nn.leaky_relu(y, alpha=_ENDS[operator])


def put_wide_operators(file: Any) -> int:
    """Puts the operators in the place of what stands for them; gives how many.

    Args:
        file: from `_compat.read_flatbuffer`; changed.
    """
    total = 0
    for graph in file.subgraphs:
        count = _Rewrite(file, graph).found()
        if count:
            graph.operators = list(_needed(graph))
        total += count
    return total


def with_wide_operators(tflite: bytes) -> bytes:
    """A converted file with the operators; itself where nothing stands for one."""
    file = read_flatbuffer(tflite)
    return write_flatbuffer(file) if put_wide_operators(file) else tflite


class _Rewrite:
    """One graph of a file.

    Args:
        file: the flatbuffer; gets operator codes.
        graph: one of its subgraphs; its QUANTIZE operators are changed.
    """

    def __init__(self, file: Any, graph: Any):
        self.file, self.graph = file, graph
        self.names = builtin_operator_names()
        self.makers = {int(t): op for op in graph.operators for t in op.outputs}
        self.codes: dict[str, int] = {}

    def found(self) -> int:
        """How many operators were replaced."""
        count = 0
        for last in self.graph.operators:
            stood_for = self.stood_for(last)
            if stood_for is not None:
                source, name = stood_for
                last.inputs = np.array([source], np.int32)
                last.opcodeIndex = self.code(name)
                last.builtinOptions, last.builtinOptionsType = None, 0
                count += 1
        return count

    def stood_for(self, last: Any) -> tuple[int, str] | None:
        """The integers that go in and the operator's name, if a QUANTIZE ends a stand-in."""
        if self.name(last) != "QUANTIZE":
            return None
        operator = self.before(last)
        slope = self.slope(operator)
        name = next((name for name, end in _ENDS.items() if slope == np.float32(end)), None)
        if name is None:
            return None
        for _ in range(_LONGEST):
            operator = self.before(operator)
            if self.slope(operator) == np.float32(_BEGIN):
                first = self.before(operator)
                is_integer = self.name(first) == "DEQUANTIZE"
                return (int(first.inputs[0]), name) if is_integer else None
        return None

    def before(self, operator: Any) -> Any:
        """The operator that makes what another reads, besides constants; or None."""
        inputs = () if operator is None else operator.inputs
        return next((self.makers[int(t)] for t in inputs if int(t) in self.makers), None)

    def name(self, operator: Any) -> str:
        """An operator's name; empty for None."""
        if operator is None:
            return ""
        return operator_name(self.file.operatorCodes[operator.opcodeIndex], self.names)

    def slope(self, operator: Any) -> Any:
        """A leaky ReLU's slope below zero; None for other operators."""
        is_leaky = self.name(operator) == "LEAKY_RELU"
        return np.float32(operator.builtinOptions.alpha) if is_leaky else None

    def code(self, name: str) -> int:
        """The place of an operator's code in the file, which is added if need be."""
        if name not in self.codes:
            schema = tflite_schema()
            code = schema.OperatorCodeT()
            number = getattr(schema.BuiltinOperator, name)
            code.builtinCode = code.deprecatedBuiltinCode = number
            code.version = _VERSIONS[name]
            self.codes[name] = len(self.file.operatorCodes)
            self.file.operatorCodes.append(code)
        return self.codes[name]


def _needed(graph: Any) -> Iterator[Any]:
    """The operators whose results are read."""
    read = {int(t) for t in graph.outputs}
    needed: set[int] = set()
    for operator in reversed(graph.operators):
        if any(int(t) in read for t in operator.outputs) or not len(operator.outputs):
            needed.add(id(operator))
            read |= {int(t) for t in operator.inputs}
    return (operator for operator in graph.operators if id(operator) in needed)
