"""The one door to TensorFlow's neighbours: `tf_keras`, TFMOT, and the TFLite interpreter.

Everything that depends on a version, and every import that must happen in a certain order, is
here. `TF_USE_LEGACY_KERAS` has to be set before the first touch of `tf.keras`: TFMOT works on
`tf_keras` (Keras 2), and without it `tf.keras` is Keras 3, which TFMOT cannot read.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
import tf_keras as keras

with warnings.catch_warnings():  # TFMOT 0.8.1 imports distutils, which warns
    warnings.simplefilter("ignore", DeprecationWarning)
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.quantization.keras import (
        quantize_annotate,
        quantize_aware_activation,
        quantize_layer,
        quantize_wrapper,
        quantizers,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (  # noqa: E501
        cluster_preserve_quantize_registry as cluster_preserve,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (  # noqa: E501
        prune_preserve_quantize_registry as prune_preserve,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs,
        default_8bit_quantize_scheme,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.experimental.default_n_bit import (  # noqa: E501
        default_n_bit_quantize_scheme,
    )

QuantizeAnnotate = quantize_annotate.QuantizeAnnotate
QuantizeAwareActivation = quantize_aware_activation.QuantizeAwareActivation
QuantizeLayer = quantize_layer.QuantizeLayer
QuantizeWrapper = quantize_wrapper.QuantizeWrapper
QuantizeWrapperV2 = quantize_wrapper.QuantizeWrapperV2
QuantizeConfig = tfmot.quantization.keras.QuantizeConfig
QuantizeScheme = tfmot.quantization.keras.QuantizeScheme
QuantizeRegistry = tfmot.quantization.keras.QuantizeRegistry
Quantizer = quantizers.Quantizer
Default8BitQuantizeScheme = default_8bit_quantize_scheme.Default8BitQuantizeScheme
DefaultNBitQuantizeScheme = default_n_bit_quantize_scheme.DefaultNBitQuantizeScheme
OutputQuantizeConfig = default_8bit_quantize_configs.Default8BitOutputQuantizeConfig
NoOpQuantizeConfig = default_8bit_quantize_configs.NoOpQuantizeConfig
ACTIVATIONS = (  # the names of those that TFMOT can quantize
    QuantizeAwareActivation._PRE_QUANT_ACTIVATIONS
    | QuantizeAwareActivation._POST_QUANT_ACTIVATIONS
    | QuantizeAwareActivation._NO_QUANTIZE_ACTIVATIONS
)
PRUNE_QUANTIZERS = (prune_preserve.PrunePreserveDefaultWeightsQuantizer,)
CLUSTER_QUANTIZERS = (cluster_preserve.ClusterPreserveDefaultWeightsQuantizer,)


@keras.utils.register_keras_serializable(package="qat_round")
class InputQuantizeLayer(QuantizeLayer):  # type: ignore[misc, valid-type]
    """TFMOT's `QuantizeLayer`, built once.

    The original builds its weights again when a `.keras` file is loaded, so that the file's three
    variables no longer fit the layer's five.
    """

    def build(self, input_shape: Any) -> None:
        if not self.built:
            super().build(input_shape)
            self.built: bool = True


def unrecorded() -> contextlib.AbstractContextManager[None]:
    """While open, what runs eagerly is on nobody's `tf.GradientTape`."""
    from tensorflow.python.eager import record

    return record.stop_recording()


def known_to_tapes(tensors: list[Any]) -> int:
    """How much the open `tf.GradientTape`s know of tensors: 0 nothing, 1 one of them, 2 several."""
    from tensorflow.python.ops import gradients_util

    return int(gradients_util.PossibleTapeGradientTypes(tensors))


def trusting() -> contextlib.AbstractContextManager[None]:
    """Lets TFMOT rebuild Lambda layers: they come from a live model, not from somebody's file."""
    from tf_keras.src.saving import serialization_lib

    return serialization_lib.SafeModeScope(safe_mode=False)


def loading(safe_mode: bool) -> contextlib.AbstractContextManager[None]:
    """While open, `Lambda` layers are refused under `safe_mode`, whatever the format of the file.

    Keras asks in zipped `.keras` files only; HDF5 files and SavedModels it trusts. What the user
    allowed for all files, by `enable_unsafe_deserialization`, stays allowed.
    """
    from tf_keras.src.saving import serialization_lib

    return serialization_lib.SafeModeScope(
        safe_mode and serialization_lib.in_safe_mode() is not False
    )


def tfmot_objects() -> dict[str, type]:
    """The classes that a quantized model's file may name, by the name that it uses."""
    objects: dict[str, type] = {}
    for entry in tfmot.quantization.keras.quantize_scope().custom_objects:
        objects.update(entry)
    objects["QuantizeLayer"] = objects["InputQuantizeLayer"] = InputQuantizeLayer
    return objects


def register_objects(objects: dict[str, type]) -> None:
    """Makes classes known to Keras's own `load_model`, without a scope."""
    keras.utils.get_custom_objects().update(objects)


HALF_PRECISION = ("float16", "bfloat16")
"""What layers compute in under the policies `mixed_float16` and `mixed_bfloat16`, or their own."""

policy_scope = keras.src.mixed_precision.policy.policy_scope
deconv_output_length = keras.src.utils.conv_utils.deconv_output_length


@tf.autograph.experimental.do_not_convert  # converting all that is called here doubles a first step
def smart_cond(pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """`tf.cond` where `pred` is a tensor of unknown value, the plain branch where it is known."""
    known = tf.get_static_value(pred) if tf.is_tensor(pred) else pred
    if isinstance(pred, tf.Variable) or known is None:
        return tf.cond(tf.cast(pred, tf.bool), true_fn, false_fn)
    return true_fn() if known else false_fn()


def uncast(x: Any) -> Any:
    """A variable that mixed precision shows in half precision as it is kept; else x itself."""
    return x._variable if _is_cast(x) else x


def set_constraint(variable: Any, constraint: Any) -> None:
    """Gives a variable, or all copies of a distributed one, what is done behind each step of it."""
    kept = uncast(variable)
    for copy in getattr(kept, "values", (kept,)):
        copy._constraint = constraint


def shown_dtype(x: Any) -> tf.DType:
    """The dtype in which layers see x; as `x.dtype`, which is the kept one in tf-keras 2.17."""
    return x._cast_dtype if _is_cast(x) else x.dtype


def _is_cast(x: Any) -> bool:
    return isinstance(x, keras.src.mixed_precision.autocast_variable.AutoCastVariable)


def read_toml(text: str) -> dict[str, Any]:
    """A TOML document as plain data; a ValueError for anything else."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def is_keras3(model: Any) -> bool:
    """Whether the object is a Keras 3 layer or model; never imports Keras 3 to find out."""
    keras3 = sys.modules.get("keras")
    layer = getattr(getattr(keras3, "layers", None), "Layer", None)
    return (
        layer is not None and isinstance(model, layer) and not isinstance(model, keras.layers.Layer)
    )


KERNELS = {
    "default": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
"""Sets of TFLite's kernels -> its own names: with XNNPACK, without it, the reference kernels."""


def interpreter(tflite: bytes, kernels: str = "default", **options: Any) -> Any:
    """A TFLite interpreter for a model's bytes: LiteRT's if it is installed, else TensorFlow's."""
    try:
        from ai_edge_litert import interpreter as lite

        resolvers = lite.OpResolverType
    except ImportError:
        lite, resolvers = tf.lite, tf.lite.experimental.OpResolverType
    resolver = getattr(resolvers, KERNELS[kernels])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lite.Interpreter(
            model_content=tflite, experimental_op_resolver_type=resolver, **options
        )


def read_flatbuffer(tflite: bytes) -> Any:
    """The model in a `.tflite` file as TensorFlow's own object tree (`ModelT`)."""
    from tensorflow.lite.tools import flatbuffer_utils

    return flatbuffer_utils.convert_bytearray_to_object(bytearray(tflite))


def write_flatbuffer(model: Any) -> bytes:
    """The bytes of an object tree as `read_flatbuffer` gives it."""
    from tensorflow.lite.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def tflite_schema() -> Any:
    """The module with the classes and constants of TFLite's schema."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def current_layer() -> str:
    """The name of the Keras layer that is being called; empty outside of any."""
    layer = keras.src.engine.base_layer_utils.call_context().layer
    return "" if layer is None else str(layer.name)


def builtin_operator_names() -> dict[int, str]:
    """Operator code -> name, as in TFLite's schema."""
    from tensorflow.lite.python import schema_py_generated as schema

    codes = vars(schema.BuiltinOperator)
    return {code: name for name, code in codes.items() if isinstance(code, int)}


def tensor_type_names() -> dict[int, str]:
    """Tensor type code -> name, as in TFLite's schema."""
    from tensorflow.lite.python import schema_py_generated as schema

    return {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}


def serialize_object(instance: Any) -> dict[str, Any]:
    """Class name and config of a quantizer or quantize config, as TFMOT's own files have them."""
    return keras.utils.legacy.serialize_keras_object(instance)


def deserialize_object(config: dict[str, Any]) -> Any:
    """The object that `serialize_object` described; only registered classes are made."""
    return keras.utils.legacy.deserialize_keras_object(config, custom_objects=tfmot_objects())


_exports: list[object] = []


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """While open, models are traced as the converter has to see them."""
    _exports.append(object())
    try:
        yield
    finally:
        _exports.pop()


def is_converting() -> bool:
    """Whether a model is being traced for a `.tflite`, where nothing changes any more."""
    return bool(_exports)


def is_exporting() -> bool:
    """Whether a model is being traced for a file: by `exporting`, or by Keras for a SavedModel.

    `_wrapped_model` is the function that Keras makes of a model for a SavedModel's signature, which
    is what TFLite's converter reads when it is called directly.
    """
    saving = keras.src.engine.base_layer_utils.call_context().saving
    signature = getattr(tf.compat.v1.get_default_graph(), "name", "") == "_wrapped_model"
    return bool(_exports or saving or signature)
