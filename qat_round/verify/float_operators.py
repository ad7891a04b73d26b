"""Each operator of a `.tflite` by itself, in float: what it should have answered.

An operator is copied into a file of its own, with float tensors in place of quantized ones, and run
there. So every operator that has a float kernel is covered, with TFLite's own options and paddings.
Sigmoid and tanh of 16 bits are compared with the table that their kernels read, which is up to two
steps of 2^-15 from the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qat_round._compat import interpreter, read_flatbuffer, tf, tflite_schema, write_flatbuffer
from qat_round.files.tflite_file import TensorInfo, TFLiteFile
from qat_round.layers.int16_layers import CURVES
from qat_round.numerics.int16_curves import curve_levels

_CASTS = ("QUANTIZE", "DEQUANTIZE")
_CURVES = {operator: kind for kind, operator in CURVES.items()}
_WHOLE = ("INT8", "UINT8", "INT16")

Read = Callable[[int], np.ndarray]


class FloatOperators:
    """Runs a file's operators one by one in float, on whatever inputs it is given.

    Args:
        file: the quantized file.
    """

    def __init__(self, file: TFLiteFile):
        self._file = file
        self._model = read_flatbuffer(file.content)
        self._graph = self._model.subgraphs[0]

    def run(self, at: int, value: Read, raw: Read) -> list[np.ndarray] | None:
        """An operator's outputs in real units, not rounded; None if it has no float kernel.

        Args:
            at: the operator's position in the file.
            value: gives a quantized tensor's real values.
            raw: gives a tensor as the interpreter has it: for constants, sizes, and output shapes.
        """
        operator = self._file.operators[at]
        if operator.name in _CASTS:
            return [np.asarray(value(operator.inputs[0]), np.float32)]
        given = self._file.tensors[operator.inputs[0]] if operator.name in _CURVES else None
        if given is not None and given.type == "INT16":
            return [_curve(_CURVES[operator.name], value(operator.inputs[0]), given)]
        single = _Single(self._model, self._graph.operators[at])
        try:
            return single.run(self._inputs(operator.inputs, value, raw), raw)
        except (RuntimeError, ValueError):  # TFLite's way to say that it cannot
            return None

    def fused_activation(self, at: int) -> str:
        """The name of an operator's fused activation: "NONE", "RELU", "RELU6", ..."""
        options = self._graph.operators[at].builtinOptions
        codes = vars(tflite_schema().ActivationFunctionType)
        number = getattr(options, "fusedActivationFunction", 0)
        return next((name for name, code in codes.items() if code == number), "NONE")

    def _inputs(self, tensors: Any, value: Read, raw: Read) -> dict[int, tuple[np.ndarray, bool]]:
        """{tensor: (its values, whether they are a constant)}."""
        found = {}
        for i in map(int, tensors):
            if i < 0:
                continue
            if self._is_constant(i):
                found[i] = self._constant(i, raw), True
            elif is_activation(self._file.tensors[i]):
                found[i] = np.asarray(value(i), np.float32), False
            else:
                found[i] = raw(i), True
        return found

    def _is_constant(self, i: int) -> bool:
        data = self._model.buffers[self._graph.tensors[i].buffer].data
        return data is not None and len(data) > 0

    def _constant(self, i: int, raw: Read) -> np.ndarray:
        """A constant in real units; whole numbers without a scale stay as they are."""
        info, tensor = self._file.tensors[i], self._graph.tensors[i]
        if not info.scales.size:
            return raw(i)
        packed = self._model.buffers[tensor.buffer].data
        levels = nibbles(packed, info.shape) if info.type == "INT4" else raw(i)
        along = [1] * max(1, levels.ndim)
        if info.scales.size > 1:
            along[tensor.quantization.quantizedDimension] = -1
        offset = info.zero_points if info.zero_points.size == info.scales.size else np.zeros(1)
        levels = levels.astype(np.float64) - offset.reshape(along if offset.size > 1 else ())
        steps = info.scales.reshape(along if info.scales.size > 1 else ())
        return (levels * steps).astype(np.float32)


class _Single:
    """A file with one operator.

    Args:
        model: the object tree that the operator is from.
        operator: the operator in that tree.
    """

    def __init__(self, model: Any, operator: Any):
        self._schema = tflite_schema()
        self._code = model.operatorCodes[operator.opcodeIndex]
        self._from = operator
        self._buffers = [self._schema.BufferT()]
        self._tensors: list[Any] = []
        self._numbers: dict[int, int] = {-1: -1}

    def run(self, inputs: dict[int, tuple[np.ndarray, bool]], raw: Read) -> list[np.ndarray]:
        """The operator's outputs."""
        for i, (values, is_constant) in inputs.items():
            self._add(i, values, is_constant)
        fed = [i for i, (_, is_constant) in inputs.items() if not is_constant]
        outputs = [int(i) for i in self._from.outputs]
        for i in outputs:
            self._add(i, np.empty(raw(i).shape, np.float32), False)
        lite = interpreter(write_flatbuffer(self._model(fed, outputs)))
        lite.allocate_tensors()
        for i, details in zip(fed, lite.get_input_details(), strict=True):
            lite.set_tensor(details["index"], inputs[i][0])
        lite.invoke()
        return [lite.get_tensor(details["index"]) for details in lite.get_output_details()]

    def _add(self, i: int, values: np.ndarray, is_constant: bool) -> None:
        tensor = self._schema.TensorT()
        tensor.name = f"tensor_{i}"
        tensor.shape = list(values.shape)
        tensor.type = getattr(self._schema.TensorType, values.dtype.name.upper())
        tensor.buffer = 0
        if is_constant:
            tensor.buffer = len(self._buffers)
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            self._buffers.append(buffer)
        self._numbers[i] = len(self._tensors)
        self._tensors.append(tensor)

    def _model(self, fed: list[int], outputs: list[int]) -> Any:
        graph = self._schema.SubGraphT()
        graph.tensors = self._tensors
        graph.operators = [self._operator()]
        graph.inputs = [self._numbers[i] for i in fed]
        graph.outputs = [self._numbers[i] for i in outputs]
        model = self._schema.ModelT()
        model.version = 3
        model.operatorCodes = [self._code]
        model.subgraphs = [graph]
        model.buffers = self._buffers
        return model

    def _operator(self) -> Any:
        operator = self._schema.OperatorT()
        for name, setting in vars(self._from).items():
            setattr(operator, name, setting)
        operator.opcodeIndex = 0
        operator.inputs = [self._numbers[int(i)] for i in self._from.inputs]
        operator.outputs = [self._numbers[int(i)] for i in self._from.outputs]
        return operator


def _curve(kind: str, values: np.ndarray, given: TensorInfo) -> np.ndarray:
    """A sigmoid or tanh of 16 bits, as its kernel's table has it, in real units."""
    step = np.float32(given.scales[0])
    whole = np.round(np.asarray(values, np.float32) / step)
    levels = curve_levels(tf.constant(whole, tf.float32), tf.constant(step), kind)
    return levels.numpy() * np.float32(2.0**-15)


def is_activation(tensor: TensorInfo) -> bool:
    """Whether a tensor is one that integer operators hand on: 8 or 16 bits and one scale."""
    return tensor.type in _WHOLE and tensor.scales.size == 1


def on_grid(values: np.ndarray, tensor: TensorInfo) -> np.ndarray:
    """Real values on a tensor's grid: `floor(x/scale + 1/2)`, saturated; in real units, float64."""
    scale, zero_point = float(tensor.scales[0]), int(tensor.zero_points[0])
    limits = np.iinfo(tensor.type.lower())
    levels = np.floor(np.asarray(values, np.float64) / scale + 0.5) + zero_point
    return (np.clip(levels, limits.min, limits.max) - zero_point) * scale


def nibbles(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """INT4 values as TFLite packs them: two in a byte, the lower half first.

    Example:
        >>> nibbles(np.array([0x21, 0x0F], np.uint8), (3,)).tolist()
        [1, 2, -1]
    """
    packed = np.asarray(packed, np.uint8)
    halves = np.stack([packed & 15, packed >> 4], axis=-1).ravel().astype(np.int8)
    return ((halves ^ 8) - 8)[: int(np.prod(shape))].reshape(shape)
