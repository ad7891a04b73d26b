"""Which tensor of a `.tflite` is which quantized tensor of Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qat_round._compat import current_layer, keras, tf
from qat_round.files.tflite_file import TensorInfo, TFLiteFile
from qat_round.models.inputs import for_any_batch_size
from qat_round.quantizers.layer_quantizers import NONE
from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantized_tensors import QuantizedTensor, quantized_tensors
from qat_round.quantizers.quantizer import RoundingQuantizer
from qat_round.verify.float_operators import is_activation

_SAME_SCALE = 1e-4  # relative: float32 here and in the converter


class KerasTensor(NamedTuple):
    """A tensor that Keras puts on a grid.

    Args:
        layer: the layer that does it.
        names: that layer, and those in front that are one operator with it; the file may call the
            tensor by any of these.
        step, zero_point: the grid; the zero point counts as in TFLite.
    """

    layer: str
    names: frozenset[str]
    step: float
    zero_point: int


class Activations:
    """Gives every activation that a quantized model puts on a grid, batch by batch.

    Args:
        model: the quantized model. Stock quantizers are seen where they give a layer's output.

    Attributes:
        tensors: what the calls give, in that order; known after the first call.
    """

    def __init__(self, model: Any):
        self.tensors: list[KerasTensor] = []
        self._model = model
        self._observed: list[tuple[str, Any, dict[str, Any]]] = []
        self._stock = [tensor for tensor in quantized_tensors(model) if _is_stock_output(tensor)]
        self._run = _compiled(model, self._observed, [t.layer.output for t in self._stock])

    def __call__(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The activations in inference, for one batch of all inputs."""
        found = [tensor.numpy() for tensor in self._run(list(batch))]
        if not self.tensors:
            grids = [
                (layer, *_grid(quantizer, state)) for layer, quantizer, state in self._observed
            ]
            stock = [(t.layer.name, *map(_number, t.scale_and_zero_point())) for t in self._stock]
            self.tensors = [self._tensor(*grid) for grid in grids + stock]
        return found

    def _tensor(self, layer: str, step: float, zero_point: float) -> KerasTensor:
        ends = {t.layer.name for t in quantized_tensors(self._model) if t.variable is None}
        return KerasTensor(layer, _with_hosts(self._model, layer, ends), step, int(zero_point))


def _compiled(model: Any, observed: list[Any], stock: list[Any]) -> Callable[[Any], Any]:
    weights = {
        tensor.weights["min_var"].ref()
        for tensor in quantized_tensors(model)
        if tensor.variable is not None
    }
    extended = keras.Model(model.inputs, [*model.outputs, *stock]) if stock else model

    @for_any_batch_size(model)
    def run(batch: list[tf.Tensor]) -> list[tf.Tensor]:
        seen: list[tf.Tensor] = []
        observed.clear()

        def observer(quantizer: RoundingQuantizer, x: tf.Tensor, state: Any) -> tf.Tensor:
            y = quantizer.infer(x, state)
            if state["min_var"].ref() not in weights:
                observed.append((current_layer(), quantizer, state))
                seen.append(y)
            return y

        with observing(observer):
            given = batch if len(batch) > 1 else batch[0]
            results = tf.nest.flatten(extended(given, training=False))
        return seen + results[len(results) - len(stock) :]

    return run


def _is_stock_output(tensor: QuantizedTensor) -> bool:
    shown = tensor.name in ("output", "post_activation", "input")
    return not tensor.is_ours and shown and len(tensor.layer._inbound_nodes) == 1


def _with_hosts(model: Any, name: str, ends: set[str]) -> frozenset[str]:
    """A layer, and those in front of it back to the next ones whose outputs are on a grid."""
    found, waiting = {name}, [model.get_layer(name)]
    while waiting:
        for node in waiting.pop()._inbound_nodes:
            for layer in tf.nest.flatten(node.inbound_layers):
                grid = getattr(getattr(layer, "quantize_config", None), "grid", NONE)
                if layer.name not in found | ends and grid == NONE:
                    found.add(layer.name)
                    waiting.append(layer)
    return frozenset(found)


def _grid(quantizer: Any, state: dict[str, Any]) -> tuple[float, float]:
    grid = quantizer.grid(state)
    return _number(grid.step), _number(grid.zero_point) - 2 ** (grid.bits - 1)


def _number(value: Any) -> float:
    return float(np.ravel(np.asarray(value))[0])


def activations_of(file: TFLiteFile) -> list[int]:
    """The file's quantized inputs and what its operators make, in the order of computing."""
    made = [int(i) for operator in file.operators for i in operator.outputs]
    return [i for i in (*file.inputs, *made) if is_activation(file.tensors[i])]


def matched(
    ours: Sequence[KerasTensor],
    our_sizes: Sequence[int],
    file: TFLiteFile,
    sizes: Mapping[int, int],
) -> dict[int, int]:
    """{tensor of the file: position in ours}, each used once.

    By name and grid; what is left by grid alone, in order; what is left by name alone: that is a
    tensor whose range has changed.

    Args:
        ours: Keras's tensors, in the order of computing.
        our_sizes: how many values each has.
        file: the file.
        sizes: {tensor of the file: how many values it has}.
    """
    found: dict[int, int] = {}
    candidates = activations_of(file)
    for wanted in (_named_on_grid, _on_same_grid, _named):
        for at, tensor in enumerate(ours):
            if at in found.values():
                continue
            fits = (
                i
                for i in candidates
                if i not in found and sizes[i] == our_sizes[at] and wanted(tensor, file.tensors[i])
            )
            first = next(fits, None)
            if first is not None:
                found[first] = at
    return found


def same_grid(tensor: KerasTensor, info: TensorInfo) -> bool:
    """Whether a tensor of the file has Keras's scale and zero point."""
    near = abs(tensor.step - info.scales[0]) <= _SAME_SCALE * tensor.step
    offset = 128 if info.type == "UINT8" else 0
    return bool(near and tensor.zero_point == int(info.zero_points[0]) - offset)


def layer_of(info: TensorInfo, layers: Iterable[str]) -> str:
    """The Keras layer in a tensor's name, which may join those of several; else the name."""
    known = set(layers)
    parts = [part for name in info.name.split(";") for part in name.split("/")]
    return next((part for part in parts if part in known), info.name.split(";")[0])


def _named(tensor: KerasTensor, info: TensorInfo) -> bool:
    called = [f"/{name}/" for name in info.name.split(";")]
    return any(f"/{name}/" in given for name in tensor.names for given in called)


def _on_same_grid(tensor: KerasTensor, info: TensorInfo) -> bool:
    return same_grid(tensor, info)


def _named_on_grid(tensor: KerasTensor, info: TensorInfo) -> bool:
    return same_grid(tensor, info) and _named(tensor, info)
