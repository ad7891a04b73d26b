"""A `.tflite` without integers: weights in float16, for what loses too much in 8 bits."""

from __future__ import annotations

import os
import warnings
from typing import Any

from qat_round._compat import tf
from qat_round.export.tflite import check_batch_size, function_converter
from qat_round.files.atomic_write import check_writable, write_file
from qat_round.frontend.load import open_model
from qat_round.models.strip import strip
from qat_round.quantizers.quantized_tensors import is_quantized


def export_float16(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    safe_mode: bool = True,
) -> bytes:
    """Converts a model to TFLite with weights in float16, which are computed with in float32.

    Half the bytes of float32; nothing is trained or calibrated. CPUs turn the weights into float32
    when the file is loaded, GPUs may compute in float16.

    Args:
        model: float, as `qr.quantize_model` takes it, or quantized, which is stripped first.
        path: where to write the file as well.
        batch_size: fixes the number of samples that run at once; None leaves it open.
        safe_mode: whether `Lambda` layers of files and of Keras 3 models are refused, as in Keras.

    Returns:
        The bytes of the `.tflite`.

    Raises:
        ValueError: for a batch size below 1, or a model that TFLite's converter refuses.
        OSError: if the path cannot be written.

    Example:
        >>> import tf_keras
        >>> net = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
        >>> export_float16(net)[4:8]
        b'TFL3'
    """
    check_batch_size(batch_size, "export_float16")
    if path is not None:
        check_writable(path)
    content = _converted(_float(model, safe_mode), batch_size)
    if path is not None:
        write_file(path, content)
    return content


def _float(model: Any, safe_mode: bool) -> Any:
    opened = open_model(model, safe_mode=safe_mode).model
    return strip(opened) if is_quantized(opened) else opened


def _converted(model: Any, batch_size: int | None) -> bytes:
    converter = function_converter(model, batch_size)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own, about its deprecated parts
        try:
            return converter.convert()
        except Exception as error:  # ConverterError, and what its passes raise
            said = next(iter(str(error).splitlines()), "no message")
            raise ValueError(f"export_float16: TFLite's converter refuses the model: {said}") from (
                error
            )
