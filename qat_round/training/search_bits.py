"""Bit widths for each layer under a size budget, by what each layer costs in accuracy."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qat_round._compat import tf
from qat_round._tables import as_text
from qat_round._validate import whole
from qat_round.lowering.build import PREFIX, plan
from qat_round.models.inputs import batches
from qat_round.models.quantize import quantize_model
from qat_round.quantizers.model_spec import as_model_spec
from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantized_tensors import QuantizedTensor, quantized_tensors
from qat_round.quantizers.spec import LayerSpec, TensorSpec, only
from qat_round.training.calibrate import calibrate, weight_ends


class BitSearch(NamedTuple):
    """What a search found.

    Args:
        bits: name of a layer of the float model -> bits of its weights.
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
        return {glob.escape(n): LayerSpec(TensorSpec(bits=b)) for n, b in self.bits.items()}

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
    model: Any,
    data: Any,
    budget_bytes: int,
    bits: Sequence[int] = (4, 8),
    batch_size: int = 32,
    **settings: Any,
) -> BitSearch:
    """Bits for each layer's weights, so that all fit into a budget at the least error.

    A layer's sensitivity at b bits is the squared error of the model's outputs, relative to their
    squares, if its weights alone have b bits and all else is float. From the most bits down, the
    layer that frees the most bytes for its error goes to fewer bits, until the budget is met. The
    sum of the errors stands for the whole model's, which it is to first order. Weights whose bits
    are settled, by an override or because their operator takes 8 alone, count in the budget.

    Args:
        model: a float model, as `qr.quantize_model` takes it.
        data: some hundred inputs, as `qr.calibrate` takes them; no labels.
        budget_bytes: for all weights as the file stores them: 2 to 4 bits in four, 5 to 8 in eight.
        bits: the widths to choose from.
        batch_size: how many samples run at once.
        **settings: of `qr.quantize_model`: `overrides`, `unsupported`, `safe_mode`.

    Returns:
        A BitSearch, whose `overrides` go to `qr.quantize_model`, after your own.

    Raises:
        ValueError: if no choice meets the budget (with the smallest that one does), or a width is
            not 2 to 8.
        TypeError: for another setting.

    Source: sensitivity by layer as in HAWQ (Dong et al. 2019, arXiv:1905.03696), measured.
    """
    widths = sorted({whole(b, search_bits, "bits", least=2) for b in bits})
    if not widths or widths[-1] > 8:
        raise ValueError(f"search_bits: bits={bits!r} have to be widths from 2 to 8.")
    only(settings, ("overrides", "unsupported", "safe_mode"), "search_bits")
    groups, settled = _weights_by_layer(model, widths, settings)
    quantized = groups.model
    given = list(batches(quantized, data, batch_size, "search_bits"))
    calibrate(quantized, iter([_as_given(b) for b in given]), method="minmax")
    sizes = {name: sum(map(_count, group)) for name, group in groups.tensors.items()}
    least = settled + sum(stored_bytes(n, widths[0]) for n in sizes.values())
    if budget_bytes < least:
        raise ValueError(
            f"search_bits: no choice out of {widths} bits meets {budget_bytes:,} bytes; the "
            f"smallest is {least:,}, with {widths[0]} bits everywhere."
        )
    errors = {name: _errors(quantized, g, given, widths) for name, g in groups.tensors.items()}
    chosen = _within(budget_bytes - settled, sizes, errors, widths)
    used = settled + sum(stored_bytes(sizes[name], b) for name, b in chosen.items())
    return BitSearch(chosen, errors, used)


class _Groups(NamedTuple):
    """A quantized model, and its weights whose bits can be chosen, by the user's layer."""

    model: Any
    tensors: dict[str, list[QuantizedTensor]]


def _weights_by_layer(
    model: Any, widths: list[int], settings: dict[str, Any]
) -> tuple[_Groups, int]:
    """The groups, and the bytes of weights that have the same bits whatever is asked for."""
    fewest = quantize_model(model, weight_bits=widths[0], **settings)
    found = {t.path: t.bits for t in quantized_tensors(fewest) if t.variable is not None}
    quantized = quantize_model(model, weight_bits=8, **settings)
    names, settled = _layer_names(model, settings), 0
    groups: dict[str, list[QuantizedTensor]] = {}
    for tensor in quantized_tensors(quantized):
        if tensor.variable is None:
            continue
        if found[tensor.path] == widths[0] and (tensor.bits == 8 or widths[0] == 8):
            name = names[tensor.layer.name.removeprefix(PREFIX)]
            groups.setdefault(name, []).append(tensor)
        else:
            settled += stored_bytes(_count(tensor), tensor.bits)
    return _Groups(quantized, groups), settled


def _layer_names(model: Any, settings: dict[str, Any]) -> dict[str, str]:
    """Each layer of the quantized model -> the layer of the user's that it is made from."""
    spec = as_model_spec(None, **{k: v for k, v in settings.items() if k == "overrides"})
    planned = plan(model, spec, settings.get("safe_mode", True))
    return {name: part.origin.name for name, part in planned.graph.parts.items()}


def _count(tensor: QuantizedTensor) -> int:
    return int(np.prod(tensor.variable.shape))


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
    model: Any, group: list[QuantizedTensor], given: list[Any], widths: list[int]
) -> dict[int, float]:
    """Relative squared error of the outputs for each width of one layer's weights."""
    before = [(t, t.quantizer.bits, _ends(t)) for t in group]
    found = {}
    for bits in widths:
        for tensor in group:
            tensor.quantizer.bits = bits
            found_ends = weight_ends(tensor.quantizer, tensor.variable)
            tensor.quantizer.set_range(tensor.weights, found_ends)
        found[bits] = _relative_error(model, [t.quantizer for t in group], given)
    for tensor, bits, ends in before:
        tensor.quantizer.bits = bits
        tensor.quantizer.set_range(tensor.weights, ends)
    return found


def _ends(tensor: QuantizedTensor) -> list[np.ndarray]:
    return [tensor.weights[end].numpy() for end in ("min_var", "max_var")]


def _relative_error(model: Any, some: list[Any], given: list[Any]) -> float:
    """Of the outputs if these quantizers alone quantize."""
    chosen = {id(quantizer) for quantizer in some}

    def observer(quantizer: Any, x: Any, weights: Any) -> Any:
        on = id(quantizer) in chosen
        return quantizer.infer(x, weights) if on else quantizer.bypassed(x)

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
