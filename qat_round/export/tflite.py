"""From a quantized model to the bytes of a `.tflite`, and to a file that is never half written."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from qat_round._compat import exporting, read_flatbuffer, tf, write_flatbuffer
from qat_round.export.patch_int16_biases import widen_biases
from qat_round.export.patch_int16_operators import with_wide_operators
from qat_round.export.patch_scales import put_model_scales
from qat_round.files.atomic_write import check_writable, write_file
from qat_round.files.tflite_file import TFLiteFile
from qat_round.models.int8_activations import lifted, narrow_activations
from qat_round.models.precision import full_precision
from qat_round.numerics.grid import WIDE_BITS
from qat_round.quantizers.learned_ranges import is_at_its_limit
from qat_round.quantizers.quantized_tensors import (
    QuantizedTensor,
    quantized_tensors,
    require_quantized,
)

IO_TYPES = {"float32": tf.float32, "int8": tf.int8, "uint8": tf.uint8, "int16": tf.int16}


def export_tflite(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    io: str = "float32",
    lift_activations: bool = False,
    batch_size: int | None = None,
) -> bytes:
    """Converts a quantized model to TFLite.

    Args:
        model: from `qr.quantize_model`, calibrated or trained.
        path: where to write the file as well; written beside it first, then renamed.
        io: type of the file's inputs and outputs: "float32", "int8", "uint8"; "int16" for a model
            with activation_bits=16.
        lift_activations: whether activations of fewer than 8 bits, which TFLite cannot hold, are
            written with 8 bits on the same ranges. The file then rounds more finely than the model
            and has an accuracy of its own; see `qr.lifted`.
        batch_size: fixes the number of samples that run at once, as microcontrollers need it; None
            leaves it open.

    Returns:
        The bytes of the `.tflite`.

    Raises:
        ValueError: for a model that is not quantized, an unknown `io`, ranges that were never set
            (each named), or activations that TFLite cannot hold.
        OSError: if the path cannot be written; checked before anything is converted.

    Warns:
        UserWarning: naming activations that were lifted, and learned ranges that training drove to
            their limit.
    """
    require_quantized(model, "export_tflite")
    model = full_precision(model)
    if io not in IO_TYPES:
        raise ValueError(f"export_tflite: io={io!r} is unknown; allowed are {list(IO_TYPES)}.")
    if path is not None:
        check_writable(path)
    check_batch_size(batch_size)
    check_ranges(model)
    check_exportable(model, io, lift_activations)
    with lifted(model) if lift_activations else contextlib.nullcontext():
        file = read_flatbuffer(_convert(model, io, batch_size))
        put_model_scales(file, model)
    widen_biases(file)
    tflite = write_flatbuffer(file)
    if lift_activations:
        _say_lifted(model)
    if path is not None:
        write_file(path, tflite)
    return tflite


def check_exportable(model: Any, io: str, lift_activations: bool = False) -> None:
    """Raises a ValueError if TFLite cannot hold a model's activations, or `io` does not fit them.

    Known before ranges are, and before anything is trained.
    """
    with lifted(model) if lift_activations else contextlib.nullcontext():
        check_bits(model)
        _check_io(model, io)


def check_ranges(model: Any) -> None:
    """Raises a ValueError that names every range that was never set from data, or is not finite."""
    guessed = [t.path for t in quantized_tensors(model) if t.is_first_guess]
    if guessed:
        raise ValueError(
            f"export_tflite: {len(guessed)} ranges were never set from data and still are the "
            f"first guess: {', '.join(guessed)}. Run qr.calibrate(model, inputs), or train."
        )
    endless = [t.path for t in quantized_tensors(model) if not _is_finite(t)]
    if endless:  # the converter would end the process
        raise ValueError(
            f"export_tflite: the ranges of {', '.join(endless)} are not finite numbers. Calibrate "
            "again, on data that the float model answers with numbers."
        )
    ours = [t for t in quantized_tensors(model) if t.is_ours]
    limited = [t.path for t in ours if is_at_its_limit(t.quantizer.range, t.weights)]
    if limited:
        warnings.warn(
            f"export_tflite: training drove the learned ranges of {', '.join(limited)} to their "
            "limit, 2^10 times from where they began, or to no number at all. Train with a smaller "
            "learning rate.",
            stacklevel=3,
        )


def _is_finite(tensor: QuantizedTensor) -> bool:
    return all(np.isfinite(tensor.weights[end].numpy()).all() for end in ("min_var", "max_var"))


def check_bits(model: Any) -> None:
    """Raises a ValueError that names every activation of neither 8 nor 16 bits."""
    narrow = {
        t.path: t.bits
        for t in quantized_tensors(model)
        if t.variable is None and t.bits not in (8, WIDE_BITS)
    }
    if narrow:
        shown = ", ".join(f"{path} ({bits} bits)" for path, bits in narrow.items())
        raise ValueError(
            "export_tflite: TFLite's converter takes activations of 8 or 16 bits only, but "
            f"these differ: {shown}. Use activation_bits=8 or 16 (weights may be 2 to 8 bits), or "
            "lift_activations=True, which writes fewer bits as 8 on the same ranges."
        )


def _say_lifted(model: Any) -> None:
    narrow = {t.path: t.bits for t in narrow_activations(model)}
    if narrow:
        shown = ", ".join(f"{path} ({bits} bits)" for path, bits in narrow.items())
        warnings.warn(
            f"export_tflite: written with 8 bits on the same ranges: {shown}. The file's accuracy "
            "is its own, not the model's: measure it on the file.",
            stacklevel=3,
        )


def check_batch_size(batch_size: Any, verb: str = "export_tflite") -> None:
    """Raises a ValueError for a fixed batch size that is no whole number >= 1."""
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and batch_size >= 1):
        raise ValueError(
            f"{verb}: batch_size={batch_size!r} has to be a whole number >= 1, or None."
        )


def _check_io(model: Any, io: str) -> None:
    bits = {t.bits for t in quantized_tensors(model) if t.variable is None}
    if io == "float32" or not bits:
        return
    if (io == "int16") != (bits == {WIDE_BITS}):
        fits = "int16" if bits == {WIDE_BITS} else "int8 or uint8"
        raise ValueError(
            f"export_tflite: io={io!r} does not fit activations of {sorted(bits)} bits; "
            f"use io={fits}, or float32."
        )


@contextlib.contextmanager
def _uneven_biases(model: Any) -> Iterator[None]:
    """While open, no bias is the same number throughout.

    TFLite's converter quantizes such a constant by the first channel's scale alone, which is wrong
    for all other channels. One float's last bit is enough to prevent it.
    """
    biases = [layer.layer.bias for layer in model.layers if _has_bias(layer)]
    even = [bias for bias in biases if _is_even(bias.numpy())]
    for bias in even:
        values = bias.numpy()
        values[0] = np.nextafter(values[0], np.float32(0.0))
        bias.assign(values)
    try:
        yield
    finally:
        for bias in even:
            bias.assign(np.full_like(bias.numpy(), bias.numpy()[-1]))


def _has_bias(layer: Any) -> bool:
    return isinstance(getattr(getattr(layer, "layer", None), "bias", None), tf.Variable)


def _is_even(bias: np.ndarray) -> bool:
    return bias.ndim == 1 and bias.size > 1 and bias[0] != 0.0 and bool(np.all(bias == bias[0]))


def _inference(model: Any, batch_size: int | None) -> Any:
    """The model in inference as one function of named inputs that gives named outputs."""
    names = list(model.input_names)
    specs = {
        name: tf.TensorSpec(_fixed(tensor.shape, batch_size), tensor.dtype, name)
        for name, tensor in zip(names, model.inputs, strict=True)
    }

    @tf.function(input_signature=[specs[name] for name in names], autograph=False)
    def serve(*inputs: Any) -> dict[str, Any]:
        given = tf.nest.pack_sequence_as(model._nested_inputs, inputs)
        outputs = tf.nest.flatten(model(given, training=False))
        return dict(zip(model.output_names, outputs, strict=True))

    return serve.get_concrete_function()


def _fixed(shape: Any, batch_size: int | None) -> list[int | None]:
    return [batch_size or shape[0], *shape[1:]]


def _convert(model: Any, io: str, batch_size: int | None) -> bytes:
    """The file, by the quicker of two ways; by both where that leaves operators in float.

    A Keras model is traced layer by layer, for minutes if it is large; a function is not. But now
    and then the converter finds the grids of one of the two only.
    """
    with _uneven_biases(model), exporting(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own, about its deprecated parts
        quick = _converted(function_converter(model, batch_size), io)
        floats = _float_count(quick)
        if not floats or batch_size:
            return quick
        slow = _converted(tf.lite.TFLiteConverter.from_keras_model(model), io)
        return slow if _float_count(slow) < floats else quick


def _float_count(tflite: bytes) -> int:
    return len(TFLiteFile(tflite).float_results())


def function_converter(model: Any, batch_size: int | None) -> Any:
    """A converter of the model in inference, with the model's names of inputs and outputs."""
    holder = tf.Module()
    holder.variables_of_model = list(model.variables)
    return tf.lite.TFLiteConverter.from_concrete_functions([_inference(model, batch_size)], holder)


def _converted(converter: Any, io: str) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = IO_TYPES[io]
    converter.inference_output_type = IO_TYPES[io]
    try:
        return with_wide_operators(converter.convert())
    except Exception as error:  # ConverterError, and what its passes raise
        lines = [line.strip() for line in str(error).splitlines() if "error:" in line] or [
            str(error)
        ]
        raise ValueError(
            f"export_tflite: TFLite's converter refuses the model: {lines[0][-300:]}. "
            "qr.coverage(model) says which layers it has in integers."
        ) from error
