"""What is in a `.tflite`: operators, tensor types, scales; and an interpreter that runs batches."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from qat_round._compat import (
    builtin_operator_names,
    interpreter,
    read_flatbuffer,
    tensor_type_names,
)
from qat_round.files.size_limits import check_values

_CASTS = ("QUANTIZE", "DEQUANTIZE")
_FLOATS = ("FLOAT32", "FLOAT16", "FLOAT64", "BFLOAT16")


class Places(NamedTuple):
    """Positions of what a linear operator reads among its inputs."""

    given: int
    weights: int
    bias: int


LINEAR = {
    "CONV_2D": Places(0, 1, 2),
    "DEPTHWISE_CONV_2D": Places(0, 1, 2),
    "FULLY_CONNECTED": Places(0, 1, 2),
    "TRANSPOSE_CONV": Places(2, 1, 3),
}


class Operator(NamedTuple):
    """One operator: its name, and the indices of its tensors."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class TensorInfo(NamedTuple):
    """One tensor: name, type as the file has it, shape, scales and zero points (empty if none)."""

    name: str
    type: str
    shape: tuple[int, ...]
    scales: np.ndarray
    zero_points: np.ndarray


class TFLiteFile:
    """A `.tflite`, read.

    Args:
        tflite: its bytes, or a path.

    Raises:
        FileNotFoundError: if there is no file at the path.
        ValueError: if it is no TFLite model, or a damaged one.
    """

    def __init__(self, tflite: bytes | str | os.PathLike[str]):
        self.content = read_bytes(tflite)
        _check_identifier(self.content)
        with damaged(self.content):
            interpreter(self.content)  # runs TFLite's own verifier
            model = read_flatbuffer(self.content)
            self._graphs = [_graph(graph, model.operatorCodes) for graph in model.subgraphs]
            main = model.subgraphs[0]
            self.tensors, self.operators = self._graphs[0]
            self.inputs = tuple(int(i) for i in main.inputs)
            self.outputs = tuple(int(i) for i in main.outputs)
            for tensors, operators in self._graphs:
                _check_graph(tensors, operators)
            for index in (*self.inputs, *self.outputs):
                _check_index(index, self.tensors)

    def float_operators(self) -> dict[str, int]:
        """Operators that compute in float, besides QUANTIZE and DEQUANTIZE -> how many."""
        return dict(collections.Counter(name for name, _ in self.float_results()))

    def float_results(self) -> list[tuple[str, str]]:
        """For each operator that computes in float, its name and that of what it gives."""
        return self._results(in_float=True)

    def integer_results(self) -> list[tuple[str, str]]:
        """For each operator that computes in integers, its name and that of what it gives."""
        return self._results(in_float=False)

    def _results(self, in_float: bool) -> list[tuple[str, str]]:
        return [
            (op.name, tensors[op.outputs[0]].name if op.outputs else "")
            for tensors, operators in self._graphs
            for op in operators
            if op.name not in _CASTS and _in_float(op, tensors) == in_float
        ]

    def tensor_types(self) -> dict[str, int]:
        """Tensor types -> how many tensors."""
        return dict(collections.Counter(t.type for tensors, _ in self._graphs for t in tensors))

    def producer(self, tensor: int) -> Operator | None:
        """The operator that makes a tensor, or None for inputs and constants."""
        return next((op for op in self.operators if tensor in op.outputs), None)

    def quantized_source(self, tensor: int) -> int:
        """The quantized tensor behind a float one: back through QUANTIZE and DEQUANTIZE."""
        made_by = self.producer(tensor)
        if self.tensors[tensor].scales.size or made_by is None or made_by.name not in _CASTS:
            return tensor
        return self.quantized_source(made_by.inputs[0])


def read_bytes(tflite: bytes | str | os.PathLike[str]) -> bytes:
    """The bytes, from the path if it is one."""
    if isinstance(tflite, (bytes, bytearray)):
        return bytes(tflite)
    path = pathlib.Path(tflite)
    if not path.is_file():
        raise FileNotFoundError(f"There is no .tflite file at {str(path)!r}.")
    return path.read_bytes()


def _check_identifier(content: bytes) -> None:
    if content[4:8] != b"TFL3":
        raise ValueError(
            f"This is no .tflite: its identifier is {content[4:8]!r}, not b'TFL3' "
            f"({len(content)} bytes). Give the bytes or the path of a converted model."
        )


@contextlib.contextmanager
def damaged(content: bytes) -> Iterator[None]:
    """While open, what a broken file makes TFLite and its parser raise becomes one clear error."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"The .tflite is damaged ({len(content)} bytes): {error}") from error


def _check_graph(tensors: list[TensorInfo], operators: list[Operator]) -> None:
    """Refuses what the interpreter would fail on, or work on for hours."""
    for tensor in tensors:
        check_values(tensor.name, tensor.shape)
    for operator in operators:
        for index in (*operator.inputs, *operator.outputs):
            if index != -1:  # left out
                _check_index(index, tensors)


def _check_index(index: int, tensors: list[TensorInfo]) -> None:
    if not 0 <= index < len(tensors):
        raise ValueError(f"there is no tensor {index}, there are {len(tensors)}")


def _graph(graph: Any, operator_codes: Any) -> tuple[list[TensorInfo], list[Operator]]:
    names, types = builtin_operator_names(), tensor_type_names()
    codes = [operator_name(code, names) for code in operator_codes]
    operators = [
        Operator(codes[op.opcodeIndex], tuple(op.inputs), tuple(op.outputs))
        for op in graph.operators
    ]
    return [_tensor(tensor, types) for tensor in graph.tensors], operators


def _in_float(op: Operator, tensors: list[TensorInfo]) -> bool:
    touched = [i for i in (*op.inputs, *op.outputs) if i >= 0]
    return any(tensors[i].type in _FLOATS for i in touched)


def operator_name(code: Any, names: Mapping[int, str]) -> str:
    """The name of an operator code; `names` from `_compat.builtin_operator_names`."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if code.customCode:
        return code.customCode.decode() if isinstance(code.customCode, bytes) else code.customCode
    return names.get(number, f"OPERATOR_{number}")


def _tensor(tensor: Any, types: Mapping[int, str]) -> TensorInfo:
    grid = tensor.quantization
    has_grid = grid is not None and grid.scale is not None
    return TensorInfo(
        tensor.name.decode() if isinstance(tensor.name, bytes) else str(tensor.name),
        types.get(tensor.type, str(tensor.type)),
        tuple(int(n) for n in tensor.shape) if tensor.shape is not None else (),
        np.asarray(grid.scale if has_grid else [], np.float64),
        np.asarray(grid.zeroPoint if has_grid and grid.zeroPoint is not None else [], np.int64),
    )
