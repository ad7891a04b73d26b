"""Bit widths for each layer under a size budget, by what each layer costs in accuracy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._compat import tf
from .calibrate import calibrate, weight_ends
from .model import quantize_model
from .model_data import batches
from .observing import observing
from .spec import LayerSpec, TensorSpec
from .tables import as_text
from .tensors import QuantizedTensor, quantized_tensors

_PREFIX = "quant_"


class BitSearch(NamedTuple):
    """What a search found.

    Args:
        bits: layer name -> bits of its weights.
        sensitivity: layer name -> {bits: relative squared error of the model's outputs if only this
            layer has so few bits}.
        bytes: of all weights in the file.
    """

    bits: dict[str, int]
    sensitivity: dict[str, dict[int, float]]
    bytes: int

    @property
    def overrides(self) -> dict[str, LayerSpec]:
        """For `qr.quantize_model(model, overrides=...)`; read it, change it."""
        return {name: LayerSpec(TensorSpec(bits=bits)) for name, bits in self.bits.items()}

    def table(self) -> str:
        """Layers, bits and sensitivities, for people."""
        tried = sorted({b for found in self.sensitivity.values() for b in found})
        columns = ("layer", "bits", *(f"error at {b}" for b in tried))
        rows = [
            [name, str(bits), *(f"{self.sensitivity[name][b]:.2e}" for b in tried)]
            for name, bits in self.bits.items()
        ]
        return as_text(f"{self.bytes:,} bytes of weights", columns, rows)


def search_bits(
    model: Any, data: Any, budget_bytes: int, bits: tuple[int, ...] = (4, 8), batch_size: int = 32
) -> BitSearch:
    """Bits for each layer's weights, so that all fit into a budget at the least error.

    A layer's sensitivity at b bits is the squared error of the model's outputs, relative to their
    squares, if it alone has b bits and all else is float. From the most bits down, the layer that
    frees the most bytes for its error goes to fewer bits, until the budget is met. The sum of the
    errors stands for the whole model's, which it is to first order.

    Args:
        model: a float model, as `qr.quantize_model` takes it.
        data: some hundred inputs, as `qr.calibrate` takes them; no labels.
        budget_bytes: for all weights as the file stores them: 2 to 4 bits in four, 5 to 8 in eight.
        bits: the widths to choose from.
        batch_size: how many samples run at once.

    Returns:
        A BitSearch, whose `overrides` go to `qr.quantize_model`.

    Raises:
        ValueError: if no choice meets the budget (with the smallest that one does), or a width is
            not 2 to 8.

    Source: sensitivity by layer as in HAWQ (Dong et al. 2019, arXiv:1905.03696), measured.
    """
    widths = sorted({int(b) for b in bits})
    if not widths or not all(2 <= b <= 8 for b in widths):
        raise ValueError(f"search_bits: bits={bits!r} have to be widths from 2 to 8.")
    given = list(batches(quantize_model(model), data, batch_size, "search_bits"))
    quantized = calibrate(quantize_model(model), iter([_as_given(b) for b in given]))
    tensors = {_name(t): t for t in quantized_tensors(quantized) if t.variable is not None}
    sizes = {name: int(np.prod(t.variable.shape)) for name, t in tensors.items()}
    least = sum(stored_bytes(n, widths[0]) for n in sizes.values())
    if budget_bytes < least:
        raise ValueError(
            f"search_bits: no choice out of {widths} bits meets {budget_bytes:,} bytes; the "
            f"smallest is {least:,}, with {widths[0]} bits everywhere."
        )
    errors = {name: _errors(quantized, t, given, widths) for name, t in tensors.items()}
    chosen = _within(budget_bytes, sizes, errors, widths)
    return BitSearch(chosen, errors, sum(stored_bytes(sizes[n], b) for n, b in chosen.items()))


def stored_bytes(count: int, bits: int) -> int:
    """What so many weights take in a `.tflite`.

    Example:
        >>> stored_bytes(3, 3), stored_bytes(3, 5)
        (2, 3)
    """
    return -(-count // 2) if bits <= 4 else count


def _within(
    budget: int, sizes: dict[str, int], errors: dict[str, dict[int, float]], widths: list[int]
) -> dict[str, int]:
    chosen = dict.fromkeys(sizes, widths[-1])
    while sum(stored_bytes(sizes[n], b) for n, b in chosen.items()) > budget:
        steps = []
        for name, now in chosen.items():
            for fewer in (b for b in widths if b < now):
                freed = stored_bytes(sizes[name], now) - stored_bytes(sizes[name], fewer)
                if freed > 0:
                    steps.append(((errors[name][fewer] - errors[name][now]) / freed, name, fewer))
        _, name, fewer = min(steps, key=lambda step: (step[0], -step[2]))
        chosen[name] = fewer
    return chosen


def _errors(
    model: Any, tensor: QuantizedTensor, given: list[Any], widths: list[int]
) -> dict[int, float]:
    """Relative squared error of the outputs for each width of one layer's weights."""
    quantizer, state, before = tensor.quantizer, tensor.weights, tensor.quantizer.bits
    ends = [state[end].numpy() for end in ("min_var", "max_var")]
    found = {}
    for bits in widths:
        quantizer.bits = bits
        quantizer.set_range(state, weight_ends(quantizer, tensor.variable))
        found[bits] = _relative_error(model, quantizer, given)
    quantizer.bits = before
    quantizer.set_range(state, ends)
    return found


def _relative_error(model: Any, only: Any, given: list[Any]) -> float:
    def observer(quantizer: Any, x: Any, weights: Any) -> Any:
        return quantizer.infer(x, weights) if quantizer is only else quantizer.bypassed(x)

    def bypass(quantizer: Any, x: Any, weights: Any) -> Any:
        return quantizer.bypassed(x)

    error = size = 0.0
    for batch in given:
        outputs = []
        for look in (observer, bypass):
            with observing(look, bypass=True):
                found = tf.nest.flatten(model(_as_given(batch), training=False))
            outputs.append(np.concatenate([np.ravel(y.numpy()) for y in found]))
        error += float(np.sum((outputs[0] - outputs[1]) ** 2))
        size += float(np.sum(outputs[1] ** 2))
    return error / max(size, 1e-30)


def _as_given(batch: Any) -> Any:
    return batch[0] if len(batch) == 1 else batch


def _name(tensor: QuantizedTensor) -> str:
    return tensor.layer.name.removeprefix(_PREFIX)
