"""Models that train in half precision, and the float32 model that is evaluated and shipped."""

from __future__ import annotations

from typing import Any

from qat_round._compat import HALF_PRECISION, policy_scope, trusting


def full_precision(model: Any) -> Any:
    """The same model in float32: itself, or a copy of one that computes in mixed precision.

    What a mixed-precision model computes is rounded to 8 or 11 bits after each operation, so it is
    not what a file computes. `qr.export_tflite` and `qr.verify_tflite` take this twin by
    themselves; evaluate it, too, for figures of what ships.

    Args:
        model: a tf_keras model; it is not changed.

    Returns:
        The model itself if all of it computes in float32, else a copy with equal weights, which is
        not compiled.

    Example:
        >>> from qat_round._compat import keras
        >>> net = keras.Sequential([keras.layers.Dense(1, input_shape=(1,))])
        >>> full_precision(net) is net
        True
    """
    if not is_half(model):
        return model
    with trusting(), policy_scope("float32"):
        twin = type(model).from_config(_in_float32(model.get_config()))
    twin.set_weights(model.get_weights())
    return twin


def is_half(model: Any) -> bool:
    """Whether any layer of a model, or the layer itself, computes in half precision."""
    return any(part.compute_dtype in HALF_PRECISION for part in model._flatten_layers())


def _in_float32(config: Any) -> Any:
    """Plain data of a model, with float32 in the place of every mixed policy."""
    if isinstance(config, dict):
        if config.get("class_name") in ("Policy", "PolicyV1"):
            return "float32"
        return {key: _in_float32(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(value) for value in config)
    is_named = isinstance(config, str) and config.removeprefix("mixed_") in HALF_PRECISION
    return "float32" if is_named else config
