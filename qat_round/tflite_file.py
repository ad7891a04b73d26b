"""What is in a `.tflite`: operators, tensor types, scales; and an interpreter that runs batches."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ._compat import builtin_operator_names, interpreter, read_flatbuffer, tensor_type_names
from .declared_sizes import check_values
from .kernel_sets import DEFAULT, roundings

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


class Runner:
    """An interpreter that takes float batches and gives float outputs, whatever the file's types.

    Args:
        file: the model.
        keep_all: whether every intermediate tensor can be read afterwards.
        kernels: which compute: "default", "builtin" or "reference" (see `verify_tflite`).
        options: of TFLite's `Interpreter`.
    """

    def __init__(
        self, file: TFLiteFile, keep_all: bool = False, kernels: str = "default", **options: Any
    ):
        options["experimental_preserve_all_tensors"] = keep_all
        try:
            self._interpreter = interpreter(file.content, kernels, **options)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"TFLite's {kernels!r} kernels do not take the .tflite: {error}"
            ) from error
        self.kernels = kernels
        self._batch: tuple[tuple[int, ...], ...] | None = None
        self._samples: int | None = None  # of the last run, where they were padded
        with damaged(file.content):
            self.inputs, self.outputs = self._details()

    def input_shape(self, name: str) -> tuple[int | None, ...]:
        """An input's shape, None where any size will do: the number of samples always."""
        shape = tuple(None if n < 0 else int(n) for n in self.inputs[name]["shape_signature"])
        return (None, *shape[1:]) if shape else shape

    def end_indices(self, which: str) -> list[int]:
        """Indices of the "inputs" or "outputs" in the order of the file's own list."""
        lite = self._interpreter
        details = lite.get_input_details() if which == "inputs" else lite.get_output_details()
        return [int(end["index"]) for end in details]

    def fixed_batch(self) -> int | None:
        """How many samples the file runs at once, if that is fixed."""
        shapes = [details["shape_signature"] for details in self.inputs.values()]
        sizes = {int(shape[0]) if len(shape) else -1 for shape in shapes}
        return sizes.pop() if len(sizes) == 1 and min(sizes) > 0 else None

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs one batch, {input name: array}; outputs in the order of `self.outputs`.

        A file of a fixed batch size runs that many samples, or fewer. What an operator carries from
        call to call (TFLite's own LSTM) starts afresh.
        """
        self._samples = None
        fixed = self.fixed_batch()
        if fixed is None:
            self._resize(inputs)
        else:
            self._samples = len(next(iter(inputs.values())))
            inputs = {name: _padded(array, fixed) for name, array in inputs.items()}
        for name, details in self.inputs.items():
            values = quantized(inputs[name], details, self.kernels)
            self._interpreter.set_tensor(details["index"], values)
        self._interpreter.reset_all_variables()
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ValueError(f"The .tflite cannot be run, it may be damaged: {error}") from error
        return [self.read(details["index"]) for details in self.outputs.values()]

    def read(self, index: int) -> np.ndarray:
        """A tensor of the last run, in real units."""
        return real(self.read_raw(index), self._by_index[index])

    def read_raw(self, index: int) -> np.ndarray:
        """A tensor of the last run, in its own type."""
        values = self._interpreter.get_tensor(index)
        padded = self._samples is not None and values.ndim and len(values) == self.fixed_batch()
        return values[: self._samples] if padded else values

    def _details(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and outputs by the names of the file's signature, or else of its tensors."""
        lite = self._interpreter
        lite.allocate_tensors()
        self._by_index = {details["index"]: details for details in lite.get_tensor_details()}
        if lite.get_signature_list():
            runner = lite.get_signature_runner()
            return dict(runner.get_input_details()), dict(runner.get_output_details())
        return (
            {details["name"]: details for details in lite.get_input_details()},
            {details["name"]: details for details in lite.get_output_details()},
        )

    def _resize(self, inputs: Mapping[str, np.ndarray]) -> None:
        shapes = tuple(tuple(np.shape(inputs[name])) for name in self.inputs)
        if shapes == self._batch:
            return
        for shape, details in zip(shapes, self.inputs.values(), strict=True):
            self._interpreter.resize_tensor_input(details["index"], shape)
        self._interpreter.allocate_tensors()
        self._batch = shapes


def _padded(array: np.ndarray, count: int) -> np.ndarray:
    """So many samples: the last one again for those that lack."""
    if len(array) > count:
        raise ValueError(f"The file runs {count} samples at once, not {len(array)}.")
    lacking = np.repeat(array[-1:], count - len(array), axis=0)
    return np.concatenate([array, lacking]) if len(lacking) else array


def quantized(values: np.ndarray, details: Mapping[str, Any], kernels: str = DEFAULT) -> np.ndarray:
    """Real values as the file's input type, saturated, as these kernels' QUANTIZE rounds them.

    `round_half_even(x * (1/scale)) + zero_point`; the plain ones: `round_half_away(x / scale)`.
    """
    dtype = details["dtype"]
    scale, zero_point = details["quantization"]
    if not np.issubdtype(dtype, np.integer) or not scale:
        return np.asarray(values, dtype)
    limits = np.iinfo(dtype)
    values, scale = np.asarray(values, np.float32), np.float32(scale)
    if roundings(kernels).given:
        levels = np.sign(values) * np.floor(np.abs(values / scale) + 0.5)
    else:
        levels = np.rint(values * (1 / scale))
    return np.clip(levels + zero_point, limits.min, limits.max).astype(dtype)


def real(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """A tensor's values in real units, float32; integers without a scale stay as they are."""
    scale, zero_point = details["quantization"]
    if not np.issubdtype(values.dtype, np.integer) or not scale:
        return values
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


def read_bytes(tflite: bytes | str | os.PathLike[str]) -> bytes:
    """The bytes, from the path if it is one."""
    if isinstance(tflite, (bytes, bytearray)):
        return bytes(tflite)
    path = pathlib.Path(tflite)
    if not path.is_file():
        raise FileNotFoundError(f"There is no .tflite file at {str(path)!r}.")
    return path.read_bytes()


def sliced(arrays: Mapping[str, np.ndarray], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of named arrays."""
    samples = len(next(iter(arrays.values())))
    for start in range(0, samples, batch_size):
        yield {name: array[start : start + batch_size] for name, array in arrays.items()}


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
