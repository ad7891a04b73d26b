"""Does the `.tflite` answer as the Keras model does? Measured in steps of the output's grid."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.files.interpreter import Runner, sliced
from qat_round.files.tflite_file import TFLiteFile
from qat_round.models.emulate_kernels import computing_as
from qat_round.models.inputs import batches, check_fit, is_arrays, iterated, model_inputs, numeric
from qat_round.models.precision import full_precision
from qat_round.numerics.kernel_sets import check_kernels
from qat_round.verify.parity import Comparison, OutputParity, Parity
from qat_round.verify.runners import FileAnswers, GivenAnswers, KerasAnswers

_VERB = "verify_tflite"
_EMPTY = "{}: the inputs are empty; some samples are needed to compare."


def verify_tflite(
    model_or_outputs: Any,
    tflite: bytes | str | os.PathLike[str],
    inputs: Any,
    batch_size: int = 64,
    allow_float: bool = False,
    kernels: str = "default",
) -> Parity:
    """Compares a `.tflite`, run by the real interpreter, with the Keras model it came from.

    Runs batch by batch and keeps counts alone, so that memory does not grow with the samples.

    Args:
        model_or_outputs: the quantized model, or its outputs for these inputs (an array; several
            as a dict by the file's names).
        tflite: the file's bytes or path; float32, int8, uint8 or int16 inputs and outputs.
        inputs: real-valued inputs: an array, or a dict by name; with a model also a list. Or an
            iterable of batches (`tf.data`, a generator) of inputs or (inputs, labels), read once.
        batch_size: how many samples of arrays run at once.
        allow_float: whether float operators in the file are meant to be there.
        kernels: which kernels compute the file, and which the model computes as (`computed_by`):
            "default", TFLite's with XNNPACK, which is what phones and desktops run; "builtin",
            those without XNNPACK; "reference", the plain ones; "micro", TFLite-Micro's (extra
            [edge]), sample by sample.

    Returns:
        A Parity; `.ok`, `.table()`, `.to_dict()`.

    Raises:
        ValueError: for inputs or outputs that do not fit, unknown kernels or such that do not take
            the file (the plain ones have no INT4 depthwise convolution), or a damaged file.
        ImportError: for "micro" without the extra.
        TypeError: for data that are not numbers, or neither arrays nor batches of them.
        FileNotFoundError: if there is no file at the path.
    """
    check_kernels(kernels, _VERB)
    is_model = isinstance(model_or_outputs, keras.Model)
    model = full_precision(model_or_outputs) if is_model else None
    with contextlib.ExitStack() as stack:
        if model is not None:
            stack.enter_context(computing_as(model, kernels))
        found = _verified(model, model_or_outputs, TFLiteFile(tflite), inputs, batch_size, kernels)
    return dataclasses.replace(found, allow_float=allow_float)


def _verified(
    model: Any, given: Any, file: TFLiteFile, inputs: Any, batch_size: int, kernels: str
) -> Parity:
    is_model = model is not None
    theirs = FileAnswers(file, with_logits=is_model, kernels=kernels)
    if model is None:
        ours: Any = GivenAnswers(_listed(given, list(theirs.steps), "outputs"))
    else:
        ours = KerasAnswers(model, with_logits=bool(theirs.squashed))
    names = in_order(getattr(model, "output_names", None), list(theirs.steps), "outputs")
    batched = batched_inputs(model, theirs.runner, inputs, batch_size)
    outputs, logits, samples = _compared(ours, theirs, names, batched)
    return Parity(
        outputs=outputs,
        logits=logits,
        float_operators=file.float_operators(),
        tensor_types=file.tensor_types(),
        file_bytes=len(file.content),
        samples=samples,
    )


def _compared(
    ours: Any, theirs: FileAnswers, names: list[str], batched: Iterator[dict[str, np.ndarray]]
) -> tuple[tuple[OutputParity, ...], tuple[OutputParity, ...], int]:
    """Figures of the outputs, of the logits, and how many samples there were."""
    outputs = {name: Comparison(name, theirs.steps[name]) for name in names}
    logits: dict[str, Comparison] = {}
    samples = 0
    for batch in batched:
        samples += len(next(iter(batch.values())))
        our_outputs, our_logits = ours(batch)
        their_outputs, their_logits = theirs(batch)
        for (name, comparison), values in zip(outputs.items(), our_outputs, strict=True):
            comparison.add(values, their_outputs[name])
        for name, values in zip(names, our_logits, strict=False):
            if values is not None and name in their_logits:
                comparison = logits.setdefault(name, Comparison(name, theirs.logit_steps[name]))
                comparison.add(values, their_logits[name])
    ours.check_end(names)
    found, logits_found = [tuple(c.result() for c in k.values()) for k in (outputs, logits)]
    return found, logits_found, samples


def batched_inputs(
    model: Any, runner: Runner, data: Any, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Batches as {input name in the file: array}, each one checked.

    Args:
        model: the Keras model, or None.
        runner: the file's.
        data: as given by the user: arrays, or batches of them.
        batch_size: how many samples of arrays run at once.
    """
    fixed = runner.fixed_batch()
    if is_arrays(data) or isinstance(data, Mapping):
        named = named_inputs(model, runner, data, batch_size)
        yield from sliced(named, fixed or batch_size)
        return
    found = False
    for batch in iterated(data, _VERB):
        if len(tf.nest.flatten(batch)[0]):
            found, named = True, named_inputs(model, runner, batch, batch_size)
            yield from sliced(named, fixed or len(next(iter(named.values()))))
    if not found:
        raise ValueError(_EMPTY.format(_VERB))


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
        raise ValueError(_EMPTY.format(verb))
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
