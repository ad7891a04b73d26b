"""What a report shows of a model and its file, measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round.files.tflite_file import TFLiteFile
from qat_round.models.inputs import model_inputs
from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.training.quantization_log import in_steps
from qat_round.verify.runners import FileAnswers, KerasAnswers
from qat_round.verify.verify_tflite import batched_inputs, in_order

_VALUES = 20_000  # of each tensor, for its histogram
_FURTHEST = 20  # steps; what is further is counted there


def distances(model: Any, file: TFLiteFile, inputs: Any) -> dict[str, np.ndarray]:
    """{output: how many values are 0, 1, 2, ..., _FURTHEST or more steps from Keras's}."""
    theirs = FileAnswers(file, with_logits=False, kernels="default")
    outputs = in_order(model.output_names, list(theirs.steps), "outputs", "report")
    found = {name: np.zeros(_FURTHEST + 1, np.int64) for name in outputs}
    ours = KerasAnswers(model, with_logits=False)
    for batch in batched_inputs(model, theirs.runner, inputs, 64):
        answers, _ = theirs(batch)
        for name, y in zip(outputs, ours(batch)[0], strict=True):
            apart = np.abs(y - answers[name]) / (theirs.steps[name] or 1.0 / 255.0)
            whole = np.round(np.nan_to_num(apart, nan=_FURTHEST)).clip(0, _FURTHEST)
            found[name] += np.bincount(whole.astype(int).ravel(), minlength=_FURTHEST + 1)
    return found


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
    from qat_round.edge.operators import constants, layer_of, tensor_bytes

    fixed, found = constants(file), dict[str, int]()
    for op in file.operators:
        held = sum(tensor_bytes(file.tensors[i]) for i in op.inputs if i in fixed)
        if held:
            found[layer_of(file, op)] = found.get(layer_of(file, op), 0) + held
    return found


def short(path: str) -> str:
    """A tensor's path without the prefixes of quantized layers."""
    return path.removeprefix("quant_").removeprefix("quantize_")
