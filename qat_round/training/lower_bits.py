"""Bits that go down while a model trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat_round._compat import keras
from qat_round.numerics.grid import check_bits
from qat_round.quantizers.learned_ranges import Learned, Pact
from qat_round.quantizers.quantized_tensors import (
    QuantizedTensor,
    quantized_tensors,
    require_quantized,
)
from qat_round.training.calibrate import calibrate, weight_ends


class LowerBits(keras.callbacks.Callback):
    """Takes bits away at the start of given epochs, and finds the ranges anew.

    Quantize with the bits that the model is to end with; the callback raises them to what the plan
    says for the epochs before. Each change finds ranges of least squared error, of weights from
    themselves, of activations from `data`, and traces the training step anew (seconds). Inputs,
    outputs and whatever else has 8 bits or more are left alone. A training that is resumed
    (`initial_epoch`, `BackupAndRestore`) goes on with the bits that the plan has for its epoch.

    Args:
        plan: {epoch: (weight bits, activation bits)}; the last should be the model's own.
        data: some hundred inputs, as `qr.calibrate` takes them, to be read at each change: no
            generator.

    Raises:
        ValueError: for an empty plan, or bits outside of 2..16.

    Example:
        >>> LowerBits({0: (4, 4), 3: (2, 2)}, data=None).plan[3]
        (2, 2)

    Source: weights before activations, step by step: Zhuang et al. 2018, arXiv:1711.00205.
    """

    def __init__(self, plan: Mapping[int, tuple[int, int]], data: Any):
        super().__init__()
        if not plan:
            raise ValueError("LowerBits: the plan is empty; give {epoch: (weights, activations)}.")
        self.plan = {int(e): (check_bits(w), check_bits(a)) for e, (w, a) in plan.items()}
        self.data = data
        self._of: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        model = getattr(self.model, "student", self.model)
        require_quantized(model, "LowerBits")
        if self._of is not model:  # in a second `fit` some may have more bits than in the end
            self._few = [t for t in quantized_tensors(model) if t.is_ours and t.bits < 8]
        self._of, self._is_first = model, True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        begun = [start for start in self.plan if start <= epoch]
        if epoch in self.plan:
            self._set_bits(*self.plan[epoch])
            self._find_ranges()
            self._retrace()
        elif begun and self._is_first:  # a training that goes on: its ranges are those of then
            self._set_bits(*self.plan[max(begun)])
            self._retrace()
        self._is_first = False

    def _set_bits(self, weight_bits: int, activation_bits: int) -> None:
        for tensor in self._few:
            is_weight = tensor.variable is not None
            tensor.quantizer.bits = weight_bits if is_weight else activation_bits

    def _find_ranges(self) -> None:
        model: Any = getattr(self.model, "student", self.model)
        kept = {id(t.weights["min_var"]): _state(t) for t in self._others(model)}
        calibrate(model, self.data, method="mse", verbose=0)
        for tensor in self._others(model):
            for variable, value in zip(
                _variables(tensor), kept[id(tensor.weights["min_var"])], strict=True
            ):
                variable.assign(value)
        for tensor in self._few:
            if tensor.variable is not None and isinstance(tensor.quantizer.range, Learned | Pact):
                ends = weight_ends(tensor.quantizer, tensor.variable)
                tensor.quantizer.set_range(tensor.weights, ends)

    def _retrace(self) -> None:
        model: Any = getattr(self.model, "student", self.model)
        self.model.make_train_function(force=True)
        self.model.test_function = self.model.predict_function = None
        model.test_function = model.predict_function = None

    def _others(self, model: Any) -> list[QuantizedTensor]:
        few = {id(t.weights["min_var"]) for t in self._few}
        found = [t for t in quantized_tensors(model) if t.is_ours]
        return [t for t in found if id(t.weights["min_var"]) not in few]


def _variables(tensor: QuantizedTensor) -> list[Any]:
    return [v for v in tensor.weights.values() if hasattr(v, "assign")]


def _state(tensor: QuantizedTensor) -> list[Any]:
    return [v.numpy() for v in _variables(tensor)]
