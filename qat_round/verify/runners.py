"""Both sides of a verification, batch by batch: what Keras answers, and what the file does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qat_round._compat import QuantizeWrapper, keras, tf
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.models.inputs import for_any_batch_size
from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantizer import RoundingQuantizer
from qat_round.verify.micro_runner import MicroRunner
from qat_round.verify.parity import not_the_same

_SQUASHING = ("SOFTMAX", "LOGISTIC")


class KerasAnswers:
    """A model's outputs, in its order, and for each what goes into its closing softmax.

    Args:
        model: a quantized model.
        with_logits: whether to look in front of a softmax or sigmoid.
    """

    def __init__(self, model: Any, with_logits: bool):
        self._run, self._logit_of = _inference(model, with_logits)
        self._count = len(model.outputs)

    def __call__(
        self, batch: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        found = [t.numpy() for t in self._run(list(batch.values()))]
        logits = [None if at is None else found[self._count + at] for at in self._logit_of]
        return found[: self._count], logits

    def check_end(self, names: list[str]) -> None:
        """Nothing can be left over."""


class GivenAnswers:
    """Outputs that the user has, in the file's order.

    Args:
        outputs: arrays.
    """

    def __init__(self, outputs: list[np.ndarray]):
        self._outputs, self._at = outputs, 0

    def __call__(
        self, batch: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        start = self._at
        self._at += len(next(iter(batch.values())))
        return [values[start : self._at] for values in self._outputs], []

    def check_end(self, names: list[str]) -> None:
        """Raises a ValueError if there are outputs of further samples."""
        for name, values in zip(names, self._outputs, strict=True):
            if len(values) != self._at:
                raise not_the_same(name, values.shape, (self._at, *values.shape[1:]))


class FileAnswers:
    """What the interpreter answers.

    Args:
        file: the `.tflite`.
        with_logits: whether to read what goes into a closing softmax or sigmoid as well.
        kernels: which compute; see `verify_tflite`.

    Attributes:
        runner: the interpreter.
        steps: {output: a step of its grid, None of one in float}.
        squashed: {output that comes out of a softmax or sigmoid: the tensor that goes into it}.
        logit_steps: {such an output: a step of that tensor}.
    """

    def __init__(self, file: TFLiteFile, with_logits: bool, kernels: str):
        self.runner = _runner(file, with_logits, kernels)
        sources = {
            name: file.quantized_source(details["index"])
            for name, details in self.runner.outputs.items()
        }
        self.steps = {name: _step(file, source) for name, source in sources.items()}
        self.squashed = _squashed(file, sources) if with_logits else {}
        self.logit_steps = {name: _step(file, index) for name, index in self.squashed.items()}

    def __call__(
        self, batch: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        outputs = dict(zip(self.runner.outputs, self.runner(batch), strict=True))
        return outputs, {name: self.runner.read(index) for name, index in self.squashed.items()}


def _runner(file: TFLiteFile, keep_all: bool, kernels: str) -> Runner:
    if kernels == "micro":
        return MicroRunner(file, "verify_tflite(kernels='micro')")
    return Runner(file, keep_all=keep_all, kernels=kernels)


def _step(file: TFLiteFile, tensor: int) -> float | None:
    scales = file.tensors[tensor].scales
    return float(scales[0]) if scales.size else None


def _squashed(file: TFLiteFile, sources: Mapping[str, int]) -> dict[str, int]:
    """Outputs that come out of a softmax or sigmoid -> the quantized tensor that goes into it."""
    found = {}
    for name, source in sources.items():
        made_by = file.producer(source)
        if made_by is not None and made_by.name in _SQUASHING:
            before = file.quantized_source(made_by.inputs[0])
            if file.tensors[before].scales.size:
                found[name] = before
    return found


def _inference(model: Any, with_logits: bool) -> tuple[Any, list[int | None]]:
    """A compiled forward pass for outputs and the logits behind them, and which logits are whose.

    Logits are what the quantizer in front of a squashing activation gives, or what goes into a
    squashing layer.
    """
    sources = [_logit_source(model, name) for name in model.output_names] if with_logits else []
    inner = {id(s): i for i, s in enumerate(sources) if isinstance(s, dict)}
    layers = {i: s for i, s in enumerate(sources) if s is not None and not isinstance(s, dict)}
    extended = keras.Model(model.inputs, [*model.outputs, *layers.values()]) if layers else model

    @for_any_batch_size(model)
    def run(batch: list[tf.Tensor]) -> list[tf.Tensor]:
        seen: dict[int, tf.Tensor] = {}

        def observer(quantizer: RoundingQuantizer, x: tf.Tensor, weights: Any) -> tf.Tensor:
            y = quantizer.infer(x, weights)
            if id(weights) in inner:
                seen[inner[id(weights)]] = y
            return y

        with observing(observer):
            given = batch if len(batch) > 1 else batch[0]
            results = tf.nest.flatten(extended(given, training=False))
        return results + [seen[i] for i in sorted(seen)]

    order = [*layers, *sorted(inner.values())]
    positions: list[int | None] = [
        order.index(i) if i in order else None for i in range(len(sources))
    ]
    return run, positions


def _logit_source(model: Any, output_name: str) -> Any:
    """The quantizer's weights before the activation, or the tensor before the layer, or None."""
    layer = model.get_layer(output_name)
    inner = layer.layer if isinstance(layer, QuantizeWrapper) else layer
    if isinstance(inner, (keras.layers.Softmax, keras.layers.Activation)):
        return layer.input
    for activation in getattr(layer, "_quantize_activations", ()):
        return getattr(activation, "_pre_activation_vars", None)
    return None
