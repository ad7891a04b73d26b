"""What a report shows of a model and its file, measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compat import tf
from ..model_data import model_inputs
from ..monitors import in_steps
from ..observing import observing
from ..tensors import quantized_tensors
from ..tflite_file import Runner, TFLiteFile, sliced
from ..verify import in_order

_VALUES = 20_000  # of each tensor, for its histogram


def distances(model: Any, file: TFLiteFile, inputs: Any) -> dict[str, np.ndarray]:
    """{output: distance of every value from Keras's, in steps}."""
    runner = Runner(file)
    arrays = model_inputs(model, inputs, "report")
    names = in_order(model.input_names, list(runner.inputs), "inputs", "report")
    named = dict(zip(names, arrays, strict=True))
    outputs = in_order(model.output_names, list(runner.outputs), "outputs", "report")
    found: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for batch in sliced(named, runner.fixed_batch() or 64):
        given = list(batch.values())
        ours = tf.nest.flatten(model(given if len(given) > 1 else given[0], training=False))
        theirs = dict(zip(runner.outputs, runner(batch), strict=True))
        for name, y in zip(outputs, ours, strict=True):
            source = file.tensors[file.quantized_source(runner.outputs[name]["index"])]
            step = float(source.scales[0]) if source.scales.size else 1.0 / 255.0
            found[name].append(np.abs(y.numpy() - theirs[name]) / step)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def activations(model: Any, inputs: Any) -> list[tuple[str, np.ndarray, float, float]]:
    """(path, values of the float model, lo, hi) of every quantized activation."""
    values: dict[Any, np.ndarray] = {}

    def observer(quantizer: Any, x: Any, weights: Any) -> Any:
        y = quantizer.bypassed(x)
        flat = np.ravel(np.asarray(y))
        values.setdefault(weights["min_var"].ref(), flat[:: max(1, flat.size // _VALUES)])
        return y

    arrays = [array[:64] for array in model_inputs(model, inputs, "report")]
    with observing(observer, bypass=True):
        model(arrays if len(arrays) > 1 else arrays[0], training=False)
    found = []
    for tensor in quantized_tensors(model):
        seen = values.get(tensor.weights["min_var"].ref())
        if tensor.variable is None and seen is not None and tensor.is_ours:
            ends = [float(tensor.weights[end].numpy()) for end in ("min_var", "max_var")]
            found.append((short(tensor.path), seen, ends[0], ends[1]))
    return found


def weight_levels(model: Any) -> list[tuple[str, np.ndarray, int]]:
    """(path, weights in steps, highest level) of every quantized weight."""
    found = []
    for tensor in quantized_tensors(model):
        if tensor.variable is not None and tensor.is_ours:
            raw = np.ravel(in_steps(tensor).numpy())
            thinned = raw[:: max(1, raw.size // _VALUES)]
            found.append((short(tensor.path), thinned, 2 ** (tensor.bits - 1) - 1))
    return found


def shares_outside(tensors: list[tuple[str, np.ndarray, float, float]]) -> dict[str, float]:
    """{path: share of the values that lie outside of their range}."""
    return {
        name: float(np.mean((values < lo - 1e-6) | (values > hi + 1e-6)))
        for name, values, lo, hi in tensors
    }


def bits_by_layer(model: Any) -> list[dict[str, Any]]:
    """{"tensor", "bits", "rounder", "scales"} of every quantized tensor."""
    rows = []
    for tensor in quantized_tensors(model):
        scale, _ = tensor.scale_and_zero_point()
        rows.append(
            {
                "tensor": short(tensor.path),
                "bits": tensor.bits,
                "rounder": tensor.quantizer.rounder.name if tensor.is_ours else "TFMOT",
                "scales": int(np.size(scale)),
                "largest scale": float(np.max(scale)),
            }
        )
    return rows


def sizes(file: TFLiteFile) -> dict[str, int]:
    """{layer: bytes of its constants}, in the file's order."""
    from ..edge.operators import constants, layer_of, tensor_bytes

    fixed, found = constants(file), dict[str, int]()
    for op in file.operators:
        held = sum(tensor_bytes(file.tensors[i]) for i in op.inputs if i in fixed)
        if held:
            found[layer_of(file, op)] = found.get(layer_of(file, op), 0) + held
    return found


def short(path: str) -> str:
    """A tensor's path without the prefixes of quantized layers."""
    return path.removeprefix("quant_").removeprefix("quantize_")
