"""Keras callbacks that steer quantization while a model trains."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable
from typing import Any

from qat_round._compat import keras
from qat_round._validate import nearest
from qat_round.quantizers.quantized_tensors import QuantizedTensor, quantized_tensors
from qat_round.training import schedules


def knobs(model: Any) -> dict[str, dict[str, float]]:
    """What can be annealed in a model: {"<layer>/<tensor>": {knob: value now}}.

    Args:
        model: a quantized model.

    Example:
        >>> from qat_round.models.quantize import quantize_model
        >>> model = keras.Sequential([keras.layers.Dense(1, input_shape=(1,), name="dense")])
        >>> knobs(quantize_model(model, rounder="ramp"))["quant_dense/kernel"]["gain"]
        10000.0
    """
    return {
        tensor.path: {knob: float(tensor.weights[knob].numpy()) for knob in _of(tensor)}
        for tensor in quantized_tensors(model)
        if _of(tensor)
    }


class Anneal(keras.callbacks.Callback):
    """Moves a knob of the Rounders while training, without rebuilding or retracing.

    The step is `optimizer.iterations`, so that training that is resumed goes on at the right value.

    Args:
        knob: its name, such as "slope"; see `qr.knobs(model)`.
        schedule: step -> value, such as `qr.schedules.exponential(5.0, 1000.0, steps=500)`.
        layers: a pattern for the names of the layers; a name with or without TFMOT's "quant_".

    Raises:
        TypeError: if the schedule cannot be called.
        ValueError: when training begins, if no layer has the knob, or a value is out of its range.

    Example:
        >>> callback = Anneal("slope", schedules.cosine(5.0, 1000.0, steps=100))
        >>> callback.knob
        'slope'
    """

    def __init__(self, knob: str, schedule: Callable[[int], float], layers: str = "*"):
        super().__init__()
        if not callable(schedule):
            raise TypeError(
                f"Anneal: schedule={schedule!r} cannot be called with a step; "
                f"give e.g. qr.schedules.cosine(start, stop, steps)."
            )
        self.knob = knob
        self.schedule = schedule
        self.layers = layers
        self._tensors: list[QuantizedTensor] = []

    def on_train_begin(self, logs: Any = None) -> None:
        model = getattr(self.model, "student", self.model)  # of a qr.Distiller
        annealed = [t for t in quantized_tensors(model) if self.knob in _of(t)]
        self._tensors = [t for t in annealed if _named(t.layer, self.layers)]
        if not self._tensors:
            raise ValueError(_nothing_to_anneal(model, self.knob, self.layers))
        self._set()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._set()

    def on_train_end(self, logs: Any = None) -> None:
        self._set()

    def _set(self) -> None:
        value = float(self.schedule(int(self.model.optimizer.iterations.numpy())))
        for rounder in {tensor.quantizer.rounder for tensor in self._tensors}:
            dataclasses.replace(rounder, **{self.knob: value})  # refuses what it cannot take
        for tensor in self._tensors:
            tensor.weights[self.knob].assign(value)


def _of(tensor: QuantizedTensor) -> tuple[str, ...]:
    return tensor.quantizer.rounder.knobs if tensor.is_ours else ()


def _named(layer: Any, pattern: str) -> bool:
    bare = layer.name.removeprefix("quant_")
    return fnmatch.fnmatchcase(layer.name, pattern) or fnmatch.fnmatchcase(bare, pattern)


def _nothing_to_anneal(model: Any, knob: str, layers: str) -> str:
    present = sorted({k for t in quantized_tensors(model) for k in _of(t)})
    if knob in present:
        names = [layer.name for layer in model.layers]
        return f"Anneal: layers={layers!r} matches no layer with the knob {knob!r} out of {names}."
    return (
        f"Anneal: no quantizer of the model has the knob {knob!r}; it has {present or 'none'}."
        f"{nearest(knob, present)} See qr.knobs(model)."
    )


__all__ = ["Anneal", "knobs", "schedules"]
