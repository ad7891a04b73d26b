"""What stands in for the quantizers of a model for a while, to look into it or to take them out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from qat_round._compat import shown_dtype, smart_cond, tf, uncast
from qat_round.numerics.tensor_info import GridNote, note_grid

Observer = Callable[[Any, tf.Tensor, dict[str, tf.Variable]], tf.Tensor]
_observers: list[Observer] = []
_bypasses: list[bool] = []


@contextlib.contextmanager
def observing(observer: Observer, bypass: bool = False) -> Iterator[None]:
    """While open, every RoundingQuantizer gives what `observer(quantizer, x, weights)` gives.

    This is how calibration and layer comparison look into a model without changing it.

    Args:
        observer: what stands in for the quantizers.
        bypass: whether it takes them out, so that the model is to compute as the float one.
    """
    _observers.append(observer)
    _bypasses.append(bypass)
    try:
        yield
    finally:
        _observers.pop()
        _bypasses.pop()


def is_observed() -> bool:
    """Whether something stands in for the quantizers."""
    return bool(_observers)


def is_bypassed() -> bool:
    """Whether the model is to compute as the float one."""
    return bool(_bypasses) and _bypasses[-1]


@tf.autograph.experimental.do_not_convert  # there is nothing in it that autograph has to convert
def quantize(quantizer: Any, x: Any, training: Any, weights: dict[str, Any]) -> tf.Tensor:
    """What an open observer gives; else what the quantizer gives in training, or not."""
    dtype, x = shown_dtype(x), uncast(x)
    if _observers:
        y = _observers[-1](quantizer, x, weights)
    else:
        y = smart_cond(
            training, lambda: quantizer.train(x, weights), lambda: quantizer.infer(x, weights)
        )
    y = y if y.dtype == dtype else tf.cast(y, dtype)
    return note_grid(y, GridNote(getattr(quantizer, "owner", quantizer), weights))
