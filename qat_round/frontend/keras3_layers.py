"""One Keras 3 layer's config as a live `tf_keras` layer.

Only classes that `tf_keras` has, ours, and classes registered with `tf_keras` by the user are
made; no code is taken from a config. An argument that `tf_keras` lacks is dropped only where its
value changes nothing; otherwise the layer is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from qat_round._compat import keras
from qat_round.layers import ops
from qat_round.layers.activation_functions import FUNCTIONS

_SAME_ACTIVATIONS = frozenset(
    [
        "linear",
        "relu",
        "softmax",
        "sigmoid",
        "tanh",
        "gelu",
        "elu",
        "selu",
        "softplus",
        "softsign",
        "exponential",
        "mish",
    ]
)
_RENAMED_ACTIVATIONS = {"silu": "swish", "swish": "swish"}
_RENAMED_FUNCTIONS = {"hard_silu": "hard_swish"}

_RENAMED_ARGUMENTS = {"LeakyReLU": {"negative_slope": "alpha"}}

_NEUTRAL: dict[str, tuple] = {
    "quantization_config": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "gptq_unpacked_column_size": (None,),
    "use_gate": (False,),
    "sliding_window": (None,),
    "flash_attention": (None, False),
    "pad_to_aspect_ratio": (False,),
    "antialias": (False,),
    "rms_scaling": (False,),
    "zero_output_for_mask": (False, True),
    "use_cudnn": ("auto", True, False),
    "renorm": (False,),
    "optional": (False,),
    "sparse": (False,),
    "synchronized": (False, True),
    "autocast": (True,),
}
"""Arguments that `tf_keras` may lack, with the values that change nothing."""

_FREE = frozenset({"seed", "fill_mode", "fill_value", "renorm_clipping", "renorm_momentum"})
_DEFAULT_FORMAT = "channels_last"
_APPLICATIONS = keras.src.applications
_APPLICATION_LAYERS = {
    "LayerScale": _APPLICATIONS.convnext.LayerScale,
    "StochasticDepth": _APPLICATIONS.convnext.StochasticDepth,
    "CustomScaleLayer": _APPLICATIONS.inception_resnet_v2.CustomScaleLayer,
}
_INERT_DROPOUT = ("Attention", "AdditiveAttention")


def live_layer(entry: Mapping[str, Any], model_of: Any, safe_mode: bool) -> Any:
    """Makes the `tf_keras` layer of a Keras 3 config.

    Args:
        entry: {"class_name": ..., "config": ..., "registered_name": ...} of a layer.
        model_of: called with an entry that is a model (a wrapper may hold one); gives it live.
        safe_mode: whether `Lambda` is refused.

    Returns:
        The layer, not built.

    Raises:
        ValueError: if the class or one of its arguments has no equal in `tf_keras`.
    """
    cls = _class_of(entry, safe_mode)
    if cls is keras.layers.Lambda:
        return _live_lambda(entry)
    config = dict(entry["config"])
    for old, new in _RENAMED_ARGUMENTS.get(cls.__name__, {}).items():
        config[new] = config.pop(old)
    values = {key: _value(key, v, entry, model_of, safe_mode) for key, v in config.items()}
    values = _accepted(cls, values, entry)
    if cls.__name__ == "Bidirectional":
        _unprefixed(values["layer"])
    return cls(**values)


def _class_of(entry: Mapping[str, Any], safe_mode: bool) -> type:
    name, registered = entry["class_name"], entry.get("registered_name")
    if name == "Lambda" and safe_mode:
        raise ValueError(
            f"Layer '{_name(entry)}' is a Lambda: it holds Python code, which is not run from a "
            "file or config. Replace it by a layer, or pass safe_mode=False if you trust where "
            "the model comes from."
        )
    cls = _stock_class(name) if _is_stock(entry) else None
    cls = cls or keras.utils.get_registered_object(registered or name)
    if isinstance(cls, type) and issubclass(cls, keras.layers.Layer):
        return cls
    raise ValueError(
        f"Layer '{_name(entry)}' is of class '{registered or name}', which tf_keras does not have. "
        "Write the same layer for tf_keras and register it under that name: "
        f"@tf_keras.utils.register_keras_serializable(package={_package(registered)!r}) "
        f"class {name}(tf_keras.layers.Layer): ..."
    )


def _is_stock(entry: Mapping[str, Any]) -> bool:
    return (entry.get("module") or "keras").split(".")[0] == "keras"


def _stock_class(name: str) -> type | None:
    stock = getattr(keras.layers, name, None) or _APPLICATION_LAYERS.get(name)
    return stock or getattr(ops, name, None)


def _name(entry: Mapping[str, Any]) -> str:
    return entry.get("name") or entry.get("config", {}).get("name", "?")


def _package(registered: str | None) -> str:
    return registered.split(">")[0] if registered and ">" in registered else "Custom"


def _value(key: str, value: Any, entry: Mapping, model_of: Any, safe_mode: bool) -> Any:
    """One argument, with nested objects made live."""
    if key == "dtype":
        return policy_name(value, _name(entry))
    if key.endswith("activation"):
        return activation(value, entry, model_of, safe_mode)
    if key == "cells" or key == "cell":
        cells = value if isinstance(value, list) else [value]
        made = [live_layer(cell, model_of, safe_mode) for cell in cells]
        return made if isinstance(value, list) else made[0]
    if key.endswith("initializer"):
        return _initializer(value)
    if key.endswith(("regularizer", "constraint")):
        return _stock_object(key, value, entry)
    if isinstance(value, Mapping) and {"class_name", "config"} <= value.keys():
        return model_of(value) if is_model(value) else live_layer(value, model_of, safe_mode)
    return value


def is_model(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is a model with its own layers."""
    return "layers" in entry.get("config", {}) or entry["class_name"] in (
        "Functional",
        "Sequential",
    )


def policy_name(value: Any, layer: str) -> str:
    """The name of a dtype policy, which Keras 3 gives as a name or as an object's config."""
    while isinstance(value, Mapping):
        if value.get("class_name", "DTypePolicy") not in ("DTypePolicy", "FloatDTypePolicy"):
            raise ValueError(
                f"Layer '{layer}' has dtype policy '{value['class_name']}'; intake takes float "
                "policies. Hand over the model as it was before Keras quantized it."
            )
        value = value.get("config", {}).get("name")
    return value


def activation(value: Any, entry: Mapping, model_of: Any, safe_mode: bool) -> Any:
    """What `tf_keras` takes for a Keras 3 activation, equal in numbers."""
    if value is None:
        return None
    if isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
        return live_layer(value, model_of, safe_mode)
    name = value["config"] if isinstance(value, Mapping) else value
    if name in _SAME_ACTIVATIONS:
        return name
    if name in _RENAMED_ACTIVATIONS:
        return _RENAMED_ACTIVATIONS[name]
    found = FUNCTIONS.get(_RENAMED_FUNCTIONS.get(name, name))
    found = found or keras.utils.get_registered_object(name)
    if found is None:
        raise ValueError(
            f"Layer '{_name(entry)}' has activation '{name}', which tf_keras does "
            "not have. Register a function for it: "
            "@tf_keras.utils.register_keras_serializable(package=..., name=...)."
        )
    return found


def _initializer(value: Any) -> Any:
    """An initialiser; one that `tf_keras` lacks is "zeros", as the weights are set anyway."""
    if not isinstance(value, Mapping):
        return value
    cls = getattr(keras.initializers, value["class_name"], None)
    if cls is None:
        return "zeros"
    wanted = inspect.signature(cls).parameters
    known = {k: v for k, v in value["config"].items() if k in wanted}
    return cls(**{k: v for k, v in known.items() if not isinstance(v, Mapping)})


def _stock_object(key: str, value: Any, entry: Mapping) -> Any:
    """A regulariser or constraint."""
    if not isinstance(value, Mapping):
        return value
    home = keras.regularizers if key.endswith("regularizer") else keras.constraints
    cls = getattr(home, value["class_name"], None)
    cls = cls or keras.utils.get_registered_object(value.get("registered_name") or "")
    if cls is None:
        raise ValueError(
            f"Layer '{_name(entry)}' has {key} '{value['class_name']}', which tf_keras does not "
            "have. Register a tf_keras class of that name, or build the model without it."
        )
    return cls(**value["config"])


def _accepted(cls: type, values: dict[str, Any], entry: Mapping) -> dict[str, Any]:
    """The arguments that the class takes; raises if another one would change the outputs."""
    wanted = _arguments(cls)
    for key in [key for key in values if key not in wanted]:
        value = values.pop(key)
        if not _changes_nothing(cls, key, value):
            raise ValueError(
                f"Layer '{_name(entry)}' ({entry['class_name']}) has {key}={value!r}, which "
                f"tf_keras's {cls.__name__} cannot do. Build the model without it."
            )
    return values


def _changes_nothing(cls: type, key: str, value: Any) -> bool:
    if key == "data_format":
        return value in (None, _DEFAULT_FORMAT)
    if key == "dropout" and cls.__name__ in _INERT_DROPOUT:
        return value == 0.0
    return key in _FREE or value is None or any(value == v for v in _NEUTRAL.get(key, ()))


def _arguments(cls: type) -> set[str]:
    """Names of the constructor's arguments, those of the base classes included."""
    names = {"name", "trainable", "dtype"}
    for base in cls.__mro__:
        if base is keras.layers.Layer:
            break
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names - {"self", "weights"}


def _unprefixed(layer: Any) -> None:
    """`tf_keras` puts "forward_" in front of the layer's name again; Keras 3 has it there."""
    layer._name = layer.name.removeprefix("forward_")


def _live_lambda(entry: Mapping[str, Any]) -> Any:
    """A Lambda with its code: only reached with safe_mode=False."""
    config = entry["config"]
    packed = _code(config["function"])
    if packed is None:
        raise ValueError(
            f"Lambda layer '{_name(entry)}' names its function instead of holding it; the function "
            "cannot be found from its name. Replace the Lambda by a registered layer."
        )
    fn = keras.src.utils.generic_utils.func_load(packed, globs=_lambda_globals())
    shape, arguments = config.get("output_shape"), config.get("arguments")
    return keras.layers.Lambda(fn, output_shape=shape, arguments=arguments, name=config["name"])


def _code(function: Any) -> tuple | None:
    if not isinstance(function, Mapping) or function.get("class_name") != "__lambda__":
        return None
    parts = function["config"]
    return parts["code"], _tuple(parts.get("defaults")), _tuple(parts.get("closure"))


def _tuple(value: Any) -> tuple | None:
    return None if value is None else tuple(value)


def _lambda_globals() -> dict[str, Any]:
    """What a Lambda's code may call by its usual name."""
    import keras as keras3
    import numpy as np
    import tensorflow as tf

    return {"keras": keras3, "ops": keras3.ops, "tf": tf, "np": np, "K": keras3.ops}
