"""The very scales and biases of the Keras model, to the last bit, in a converted file.

TFLite's converter finds scales from ranges in arithmetic of its own, one part in ten million off
those that the model computes with, and folds batch norm in another order. That is enough to round
one value in a million the other way, and a deep network makes many of one. So what the converter
found is replaced by what the model has, wherever the two are the same but for such an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from qat_round._compat import builtin_operator_names, keras, tf
from qat_round.export.patch_low_bit_weights import Levels, put_in
from qat_round.files.tflite_file import LINEAR, Places, operator_name
from qat_round.layers.shared_grid import norm_constants
from qat_round.numerics.accumulators import Sums
from qat_round.numerics.grid import MOST_BITS
from qat_round.quantizers.quantized_tensors import quantized_tensors

_L = keras.layers
_NEAR = 2e-6  # relative; scales further apart are different scales


class Weights(NamedTuple):
    """What a linear layer of the model, with its batch norm, has in the file.

    Args:
        steps: of its weights, one for each channel, float32.
        bias: in real units, float32, or None.
    """

    steps: np.ndarray
    bias: Any


def put_model_scales(file: Any, model: Any) -> None:
    """Puts the model's scales and biases into a converted file.

    Args:
        file: from `_compat.read_flatbuffer`; changed.
        model: the quantized model that it was converted from.
    """
    names = builtin_operator_names()
    lone, linear = _lone_steps(model), list(_linear_layers(model))
    few = list(_few_levels(model))
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            _mend_lone(tensor, lone)
        for operator in graph.operators:
            name = operator_name(file.operatorCodes[operator.opcodeIndex], names)
            if name in LINEAR:
                inputs = [int(i) for i in operator.inputs]
                _put_few(file, graph, name, inputs, few)
                _mend_linear(file, graph, inputs, LINEAR[name], linear)


def _lone_steps(model: Any) -> np.ndarray:
    """All steps that are one for a whole tensor, sorted."""
    steps = [np.float32(t.scale_and_zero_point()[0]) for t in quantized_tensors(model)]
    return np.sort(np.array([step for step in steps if step.ndim == 0], np.float32))


def _linear_layers(model: Any) -> Iterator[Weights]:
    for wrapper in model.layers:
        if len(getattr(wrapper, "_weight_vars", ())) == 1:
            quantizer, state = wrapper._weight_vars[0][1:]
            if hasattr(quantizer, "grid"):
                yield _folded(wrapper, quantizer.grid(state).step)


def _few_levels(model: Any) -> Iterator[Levels]:
    """What the converter sees as constants, whose steps by channel it finds from their ends."""
    for wrapper in model.layers:
        for variable, quantizer, state in getattr(wrapper, "_weight_vars", ()):
            per_channel = getattr(quantizer, "as_constant", False) and quantizer.per_axis
            if per_channel and quantizer.bits <= MOST_BITS:
                yield _levels(wrapper, variable, quantizer, state)


def _levels(wrapper: Any, variable: Any, quantizer: Any, state: Any) -> Levels:
    steps, norm = quantizer.grid(state).step, _norm_behind(wrapper)
    folded = _folded(wrapper, steps)
    on_grid = quantizer.infer(tf.convert_to_tensor(variable), state).numpy()
    shaped, axis = _in_file(wrapper.layer, on_grid)
    along = [1] * shaped.ndim
    along[axis] = -1
    whole = np.round(shaped / np.reshape(steps, along))
    if norm is not None:
        whole = whole * np.reshape(np.sign(norm_constants(norm)[0]), along)
    return Levels(whole.astype(np.int64), axis, quantizer.bits, folded.steps, folded.bias)


def _in_file(layer: Any, kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """A kernel in the shape that it has in the file, and its channels' axis there."""
    if isinstance(layer, _L.DepthwiseConv1D):
        return kernel.reshape(1, 1, kernel.shape[0], -1), 3
    transposed = isinstance(layer, (_L.Conv1DTranspose, _L.Conv2DTranspose))
    outputs_first = np.moveaxis(kernel, -2 if transposed else -1, 0)
    is_1d = isinstance(layer, (_L.Conv1D, _L.Conv1DTranspose))
    return (outputs_first[:, np.newaxis] if is_1d else outputs_first), 0


def _put_few(file: Any, graph: Any, name: str, inputs: list[int], few: list[Levels]) -> None:
    x, w, *b = (graph.tensors[inputs[at]] for at in LINEAR[name] if at < len(inputs))
    bias = b[0] if b and inputs[LINEAR[name].bias] >= 0 else None
    if all(t.quantization is not None and t.quantization.scale is not None for t in (x, w)):
        put_in(file, name, x, w, bias, few)


def _folded(wrapper: Any, steps: Any) -> Weights:
    layer = wrapper.layer
    bias = layer.bias if getattr(layer, "use_bias", False) else None
    sums = Sums(tf.zeros([1]), tf.ones([]), tf.convert_to_tensor(steps), bias)
    norm = _norm_behind(wrapper)
    if norm is not None and sums.step_w.shape.rank:
        sums = sums.normed(*norm_constants(norm))
    bias = None if sums.bias is None else tf.convert_to_tensor(sums.bias)
    return Weights(np.abs(np.atleast_1d(sums.step_w.numpy())), bias)


def _norm_behind(wrapper: Any) -> Any:
    """The batch norm that alone reads a layer's output."""
    readers = {id(node.outbound_layer): node.outbound_layer for node in wrapper.outbound_nodes}
    found = [getattr(reader, "layer", None) for reader in readers.values()]
    is_norm = len(found) == 1 and isinstance(found[0], keras.layers.BatchNormalization)
    return found[0] if is_norm else None


def _mend_lone(tensor: Any, steps: np.ndarray) -> None:
    grid = tensor.quantization
    if grid is None or grid.scale is None or len(grid.scale) != 1 or not steps.size:
        return
    nearest = steps[np.abs(steps - grid.scale[0]).argmin()]
    if abs(nearest - grid.scale[0]) <= _NEAR * nearest:
        grid.scale = np.array([nearest], np.float32)


def _mend_linear(
    file: Any, graph: Any, inputs: list[int], places: Places, linear: list[Weights]
) -> None:
    x, w, *b = (graph.tensors[inputs[at]] for at in places if at < len(inputs))
    if any(t.quantization is None or t.quantization.scale is None for t in (x, w)):
        return
    found = _matching(np.asarray(w.quantization.scale, np.float32), linear)
    if found is None:
        return
    w.quantization.scale = found.steps
    if b and inputs[places.bias] >= 0:
        _mend_bias(file, b[0], np.float32(x.quantization.scale[0]) * found.steps, found.bias)


def _matching(scales: np.ndarray, linear: list[Weights]) -> Weights | None:
    """The layer whose steps are those of the file, but for rounding."""
    near = [layer for layer in linear if layer.steps.shape == scales.shape]
    near = [e for e in near if np.all(np.abs(e.steps - scales) <= _NEAR * np.abs(e.steps))]
    return near[0] if len(near) == 1 else None


def _mend_bias(file: Any, tensor: Any, steps: np.ndarray, bias: Any) -> None:
    """Bias and its scale; left alone where they are not those of the model."""
    if tensor.quantization is None or tensor.quantization.scale is None or bias is None:
        return
    buffer = file.buffers[tensor.buffer]
    given = np.frombuffer(np.asarray(buffer.data, np.uint8).tobytes(), np.int32)
    whole = tf.round(tf.math.divide_no_nan(bias, steps)).numpy().astype(np.int64)
    if whole.shape != given.shape or np.abs(whole - given).max() > 2 + 1e-6 * np.abs(given).max():
        return
    tensor.quantization.scale = steps
    buffer.data = np.frombuffer(whole.astype(np.int32).tobytes(), np.uint8)
