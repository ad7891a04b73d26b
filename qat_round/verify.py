"""Does the `.tflite` answer as the Keras model does? Measured in steps of the output's grid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._compat import QuantizeWrapper, keras, tf
from .model_data import batches, check_fit, for_any_batch_size, model_inputs, numeric
from .observing import observing
from .parity import Parity, compare
from .precision import full_precision
from .quantizers import RoundingQuantizer
from .tflite_file import Runner, TFLiteFile, sliced

_VERB = "verify_tflite"
_TIE = 1e-3  # a float comparison's slack, in steps
_SQUASHING = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}


def verify_tflite(
    model_or_outputs: Any,
    tflite: bytes | str | os.PathLike[str],
    inputs: Any,
    batch_size: int = 64,
    allow_float: bool = False,
) -> Parity:
    """Compares a `.tflite`, run by the real interpreter, with the Keras model it came from.

    Args:
        model_or_outputs: the quantized model, or its outputs for these inputs (an array; several
            as a dict by the file's names).
        tflite: the file's bytes or path; float32, int8 or uint8 inputs and outputs.
        inputs: real-valued inputs: an array, or a dict by name; with a model also a list.
        batch_size: how many samples run at once.
        allow_float: whether float operators in the file are meant to be there.

    Returns:
        A Parity; `.ok`, `.table()`, `.to_dict()`.

    Raises:
        ValueError: for inputs or outputs that do not fit, or a damaged file.
        FileNotFoundError: if there is no file at the path.
    """
    file = TFLiteFile(tflite)
    is_model = isinstance(model_or_outputs, keras.Model)
    model = full_precision(model_or_outputs) if is_model else None
    runner = Runner(file, keep_all=model is not None)
    squashed = _squashed(file, runner) if model is not None else {}
    named = named_inputs(model, runner, inputs, batch_size)
    batch_size = runner.fixed_batch() or batch_size
    our_logits: list[np.ndarray | None] = []
    if model is None:
        ours = _listed(model_or_outputs, list(runner.outputs), "outputs")
    else:
        ours, our_logits = _keras_outputs(model, named, batch_size, bool(squashed))
    theirs, their_logits = _tflite_outputs(runner, named, batch_size, squashed)
    names = in_order(getattr(model, "output_names", None), list(theirs), "outputs")
    if len(ours) != len(names):
        raise ValueError(f"verify_tflite: {len(ours)} outputs given, the file has {len(names)}.")
    pairs = list(zip(names, ours, strict=True))
    logits = [(name, a) for (name, _), a in zip(pairs, our_logits, strict=False) if a is not None]
    return Parity(
        outputs=tuple(compare(n, a, theirs[n], _step(file, runner, n, a)) for n, a in pairs),
        logits=tuple(
            compare(n, a, their_logits[n], _scale(file, squashed[n]))
            for n, a in logits
            if n in squashed
        ),
        float_operators=file.float_operators(),
        tensor_types=file.tensor_types(),
        file_bytes=len(file.content),
        samples=len(next(iter(named.values()))),
        allow_float=allow_float,
    )


def _squashed(file: TFLiteFile, runner: Runner) -> dict[str, int]:
    """Outputs that come out of a softmax or sigmoid -> the quantized tensor that goes into it."""
    found = {}
    for name, details in runner.outputs.items():
        made_by = file.producer(file.quantized_source(details["index"]))
        if made_by is not None and made_by.name in _SQUASHING:
            before = file.quantized_source(made_by.inputs[0])
            if file.tensors[before].scales.size:
                found[name] = before
    return found


def named_inputs(
    model: Any, runner: Runner, inputs: Any, batch_size: int, verb: str = _VERB
) -> dict[str, np.ndarray]:
    """{input name in the file: array}, each checked.

    Args:
        model: the Keras model, or None.
        runner: the file's.
        inputs: as given by the user.
        batch_size: how many samples run at once.
        verb: who asks, for the messages.
    """
    names = list(runner.inputs)
    if model is None:
        arrays = _listed(inputs, names, "inputs")
    else:
        arrays = model_inputs(model, inputs, verb)
        list(batches(model, arrays, batch_size, verb))  # refuses what does not fit
        names = in_order(model.input_names, names, "inputs", verb)
    named = dict(zip(names, arrays, strict=True))
    for name, array in named.items():
        check_fit(array, name, runner.input_shape(name), verb)
    if not all(map(len, named.values())):
        raise ValueError(f"{verb}: the inputs are empty; some samples are needed to compare.")
    return named


def _listed(given: Any, names: list[str], what: str) -> list[np.ndarray]:
    """Arrays in the order of the names, from an array, a list or a dict."""
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(f"{_VERB}: the {what} lack {missing}; given are {list(given)}.")
        given = [given[name] for name in names]
    elif len(names) > 1:
        raise ValueError(
            f"{_VERB}: the file has several {what}, {names}, in an order that need not be the "
            "model's. Give a dict by these names."
        )
    arrays = [numeric(a, _VERB) for a in (given if isinstance(given, (list, tuple)) else [given])]
    if len(arrays) != len(names):
        raise ValueError(f"{_VERB}: {len(arrays)} {what} given, the file has {names}.")
    return arrays


def in_order(wanted: list[str] | None, names: list[str], what: str, verb: str = _VERB) -> list[str]:
    """The file's names in the model's order: by name where they agree, else as they stand."""
    if wanted is None:
        return names
    if len(wanted) != len(names):
        raise ValueError(
            f"{verb}: the model has the {what} {list(wanted)}, the file {names}; it is the file "
            "of another model."
        )
    return list(wanted) if set(wanted) == set(names) else names


def _keras_outputs(
    model: Any, named: Mapping[str, np.ndarray], batch_size: int, with_logits: bool
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Outputs in the model's order, and for each what goes into its closing softmax, if asked."""
    run, logit_of = _inference(model, with_logits)
    collected = []
    for batch in sliced(named, batch_size):
        collected.append([t.numpy() for t in run(list(batch.values()))])
    joined = [np.concatenate(parts) for parts in zip(*collected, strict=True)]
    count = len(model.outputs)
    logits = [None if at is None else joined[count + at] for at in logit_of]
    return joined[:count], logits


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


def _tflite_outputs(
    runner: Runner, named: Mapping[str, np.ndarray], batch_size: int, squashed: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in runner.outputs}
    logits: dict[str, list[np.ndarray]] = {name: [] for name in squashed}
    for batch in sliced(named, batch_size):
        for name, values in zip(runner.outputs, runner(batch), strict=True):
            outputs[name].append(values)
        for name, index in squashed.items():
            logits[name].append(runner.read(index))
    joined = {name: np.concatenate(parts) for name, parts in outputs.items()}
    return joined, {name: np.concatenate(parts) for name, parts in logits.items()}


def _scale(file: TFLiteFile, index: int) -> float:
    return float(file.tensors[index].scales[0])


def _step(file: TFLiteFile, runner: Runner, name: str, ours: np.ndarray) -> float:
    """One step of an output; of a float one 1/255 of what Keras spans."""
    source = file.quantized_source(runner.outputs[name]["index"])
    if file.tensors[source].scales.size:
        return _scale(file, source)
    return float(np.ptp(ours)) / 255.0 or 1.0
