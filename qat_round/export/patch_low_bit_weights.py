"""Weights with a step for each channel, written into a converted file.

TFLite's converter reads a grid for each channel only from 2-D convolutions; of other layers it sees
numbers, and makes INT8 of them with steps of its own, which leave the grid of 2 to 7 bits, and that
of 8 where the range is not that of the values. LiteRT's kernels take the model's own integers and
steps all the same, up to 4 bits as INT4 (but for transposed convolutions). So the integers, the
steps and the bias are put in afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qat_round._compat import tflite_schema

_MOST_INT4_BITS = 4
_INT4_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_ALIKE = 0.99  # share of the weights; a tie may have gone the other way where the graph was folded


class Levels(NamedTuple):
    """A layer's weights as the model has them.

    Args:
        whole: in steps, in the shape that they have in the file.
        axis: the channels', in the file.
        bits: of the model's grid.
        steps: (channels,).
        bias: in real units, (channels,), or None.
    """

    whole: np.ndarray
    axis: int
    bits: int
    steps: np.ndarray
    bias: Any


def put_in(file: Any, name: str, x: Any, w: Any, b: Any, layers: list[Levels]) -> None:
    """Puts the model's integers in the place of an operator's INT8 weights, if they are the same.

    Args:
        file: the flatbuffer.
        name: the operator's.
        x, w, b: its input, weights and bias (or None), as tensors of the file.
        layers: the model's.
    """
    types = tflite_schema().TensorType
    found = [layer for layer in layers if w.type == types.INT8 and _is_near(file, w, layer)]
    if len(found) != 1:
        return
    layer = found[0]
    is_int4 = layer.bits <= _MOST_INT4_BITS and name in _INT4_OPERATORS
    most = 7 if is_int4 else 127  # a batch norm that mirrors -8 asks for a level too many
    buffer = file.buffers[w.buffer]
    whole = np.clip(layer.whole, -most - 1, most).astype(np.int8)
    if is_int4:
        w.type, buffer.data = types.INT4, packed(whole)
    else:
        buffer.data = whole.ravel().view(np.uint8)
    grid = w.quantization
    grid.scale, grid.quantizedDimension = layer.steps.astype(np.float32), layer.axis
    grid.zeroPoint = np.zeros(layer.steps.size, np.int64)
    if b is not None:
        steps = np.float32(x.quantization.scale[0]) * grid.scale
        bias = np.zeros_like(steps) if layer.bias is None else np.asarray(layer.bias, np.float32)
        whole = np.round(np.divide(bias, steps, out=np.zeros_like(steps), where=steps > 0.0))
        b.quantization.scale = steps
        b.quantization.zeroPoint = np.zeros(steps.size, np.int64)
        file.buffers[b.buffer].data = np.frombuffer(whole.astype(np.int32).tobytes(), np.uint8)


def packed(whole: np.ndarray) -> np.ndarray:
    """Integers of -8..7 as bytes, two in each, the first in the lower half.

    Example:
        >>> packed(np.array([1, -1, 7])).tolist()
        [241, 7]
    """
    halves = whole.astype(np.int8).ravel().view(np.uint8) & 15
    halves = np.pad(halves, (0, halves.size % 2))
    return halves[::2] | (halves[1::2] << 4)


def unpacked(content: Any, count: int) -> np.ndarray:
    """The other way round: so many integers, int8.

    Example:
        >>> unpacked(np.array([241, 7], np.uint8), 3).tolist()
        [1, -1, 7]
    """
    both = np.asarray(content, np.uint8)
    halves = np.stack([both & 15, both >> 4], -1).ravel()[:count].astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).astype(np.int8)


def _is_near(file: Any, w: Any, layer: Levels) -> bool:
    """Whether the file's weights are the layer's, but for the converter's rounding."""
    if tuple(w.shape) != layer.whole.shape:
        return False
    given = np.asarray(file.buffers[w.buffer].data, np.uint8).view(np.int8).reshape(w.shape)
    along = [1] * given.ndim
    along[layer.axis] = -1
    scale = np.asarray(w.quantization.scale, np.float64)
    scale = scale.reshape(along if scale.size > 1 else [1] * given.ndim)
    error = np.abs(given * scale - layer.whole * layer.steps.reshape(along))
    return float(np.mean(error <= 0.51 * scale)) >= _ALIKE
