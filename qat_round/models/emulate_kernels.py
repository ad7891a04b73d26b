"""Which of TFLite's kernels a model computes as, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from qat_round.layers.tfmot_wrapper import GridInput
from qat_round.layers.wrapper import GridWrapper
from qat_round.numerics.kernel_sets import check_kernels
from qat_round.quantizers.quantized_tensors import require_quantized


@contextlib.contextmanager
def computed_by(model: Any, kernels: str) -> Iterator[Any]:
    """While open, the model's inference is, integer for integer, what these kernels give.

    A quantized model computes as TFLite's default kernels (XNNPACK) do. Others round sums twice, so
    that single integers are a step away, and the logits of a deep net several. What a device makes
    of a model that runs on them is seen in here:

        with qr.computed_by(model, "micro"):
            logits = model(x_test, training=False)

    So computed are convolutions, depthwise and transposed ones, dense layers, products, sums and
    differences, means, average pools, leaky ReLUs, matrix products, and tensors that go to another
    grid; everything else (softmax, sigmoid, tanh, resizing) as by default. Training is not touched.

    The model itself, `model.predict` and `model.evaluate` are traced anew in here and behind it; a
    `tf.function` of yours that was traced outside stays as it was.

    Args:
        model: a quantized model.
        kernels: "default", with XNNPACK; "builtin", TFLite's own without it; "reference", its plain
            ones; "micro", TFLite-Micro's. Measured on x86, with int8, INT4 and 16-bit files.

    Yields:
        The model.

    Raises:
        ValueError: for unknown kernels, or if the model is not quantized.

    Example:
        >>> from qat_round.models.quantize import quantize_model
        >>> from qat_round._compat import keras
        >>> net = keras.Sequential([keras.layers.Dense(1, input_shape=(1,))])
        >>> with computed_by(quantize_model(net), "micro") as q:
        ...     print({layer.kernels for layer in q.layers if hasattr(layer, "kernels")})
        {'micro'}
    """
    check_kernels(kernels, "computed_by")
    require_quantized(model, "computed_by")
    with computing_as(model, kernels):
        yield model


@contextlib.contextmanager
def computing_as(model: Any, kernels: str) -> Iterator[None]:
    """`computed_by` of any set of kernels that has a place in the table, and of any model."""
    layers = [layer for layer in model.layers if isinstance(layer, (GridInput, GridWrapper))]
    before = [layer.kernels for layer in layers]
    _set(model, layers, [kernels] * len(layers))
    try:
        yield
    finally:
        _set(model, layers, before)


def _set(model: Any, layers: list[Any], kernels: list[str]) -> None:
    changed = [layer.kernels for layer in layers] != kernels
    for layer, own in zip(layers, kernels, strict=True):
        layer.kernels = own
    if changed:
        model.predict_function = model.test_function = None
