"""Operators of 16 bits that TFLite has and its converter does not write, put into its files.

See `layers.placeholders` for what stands for them in what it converts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qat_round._compat import (
    builtin_operator_names,
    read_flatbuffer,
    tflite_schema,
    write_flatbuffer,
)
from qat_round.files.tflite_file import operator_name
from qat_round.layers.placeholders import BEGIN, ENDS

_LONGEST = 8  # operators between the two
_VERSIONS = {"LOGISTIC": 3, "TANH": 3, "QUANTIZE": 2}


def put_wide_operators(file: Any) -> int:
    """Puts the operators in the place of what stands for them; gives how many.

    Args:
        file: from `_compat.read_flatbuffer`; changed.
    """
    total = 0
    for number, graph in enumerate(file.subgraphs):
        count = _Rewrite(file, graph).found()
        if count:
            graph.operators = list(_needed(graph))
            _drop_unread(file, number)
        total += count
    return total


def with_wide_operators(tflite: bytes) -> bytes:
    """A converted file with the operators; itself where nothing stands for one."""
    if np.float32(BEGIN).tobytes() not in tflite:  # the slope that every stand-in has
        return tflite
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
        name = next((name for name, end in ENDS.items() if slope == np.float32(end)), None)
        if name is None:
            return None
        for _ in range(_LONGEST):
            operator = self.before(operator)
            if self.slope(operator) == np.float32(BEGIN):
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


def _drop_unread(file: Any, number: int) -> None:
    """Takes the tensors that nothing reads or makes out of a graph of the file."""
    graph = file.subgraphs[number]
    ends = [graph.inputs, graph.outputs]
    lists = [of for op in graph.operators for of in (op.inputs, op.outputs)]
    kept = sorted({int(t) for of in (*ends, *lists) for t in of} - {-1})
    places = {-1: -1} | {old: new for new, old in enumerate(kept)}

    def moved(tensors: Any) -> np.ndarray:
        return np.array([places[int(t)] for t in tensors], np.int32)

    graph.tensors = [graph.tensors[old] for old in kept]
    graph.inputs, graph.outputs = map(moved, ends)
    for operator in graph.operators:
        operator.inputs, operator.outputs = moved(operator.inputs), moved(operator.outputs)
    for signature in file.signatureDefs or ():
        if signature.subgraphIndex == number:
            for tensor in (*signature.inputs, *signature.outputs):
                tensor.tensorIndex = places[tensor.tensorIndex]
