"""Annotation: marks layers for quantization, and applies a TFMOT scheme to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qat_round._compat import QuantizeAnnotate, QuantizeScheme, is_keras3, keras, tfmot, trusting
from qat_round.layers.tfmot_wrapper import mend_saving
from qat_round.models.tfmot_configs import SpecMarker
from qat_round.models.tfmot_scheme import RoundingScheme
from qat_round.models.unsupported import UnsupportedLayers, why_unmarkable
from qat_round.quantizers.model_spec import ModelSpec
from qat_round.quantizers.quantized_tensors import is_quantized, quantized_tensors
from qat_round.quantizers.spec import LayerSpec


def annotate_layer(layer: Any, spec: LayerSpec | None = None) -> Any:
    """A layer marked to be quantized, with a spec of its own, for use while building a model.

    Works with `qr.quantize_apply`, and with TFMOT's under a `qr.RoundingScheme`. The base scheme
    still decides which of its tensors are quantized, and folds batch norm as ever.

    Args:
        layer: a tf_keras layer.
        spec: what differs from the model's spec; None for nothing.

    Raises:
        TypeError: if layer is no layer or spec no LayerSpec.

    Example:
        >>> annotate_layer(keras.layers.Dense(2, name="last"), LayerSpec(weights="sine")).layer.name
        'last'
    """
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        raise TypeError(f"annotate_layer: {layer!r} is no tf_keras layer. {_KERAS3_HINT}")
    if isinstance(layer, QuantizeAnnotate):
        raise TypeError(f"annotate_layer: {layer.layer.name!r} is annotated already.")
    if spec is not None and not isinstance(spec, LayerSpec):
        raise TypeError(f"annotate_layer: spec={spec!r} is no qr.LayerSpec.")
    return QuantizeAnnotate(layer, None if spec is None else SpecMarker(spec))


def annotate_model(model: Any, spec: LayerSpec | None = None) -> Any:
    """A copy of a model with every layer marked to be quantized, but those marked already.

    Args:
        model: a built tf_keras Sequential or Functional model; it is not changed.
        spec: a LayerSpec for the layers marked here; None for nothing special.

    Returns:
        A new model for `qr.quantize_apply` (or TFMOT's, under a `qr.RoundingScheme`).
    """
    check_quantizable(model, "annotate_model")
    unmarkable = {layer: why for layer in model.layers if (why := why_unmarkable(layer))}
    if unmarkable:
        raise UnsupportedLayers(unmarkable)
    return _annotated(model, spec, ())


def quantize_apply(
    model: Any,
    spec: ModelSpec | LayerSpec | None = None,
    base_scheme: QuantizeScheme | None = None,
    **settings: Any,
) -> Any:
    """Quantizes the marked layers of a model, whoever marked them (ours, or TFMOT's own functions).

    Args:
        model: a model with annotated layers; it is not changed.
        spec: a ModelSpec or LayerSpec, or a `qr.RoundingScheme`.
        base_scheme: as in `quantize_model`.
        **settings: the other arguments of `quantize_model`, instead of `spec`.

    Returns:
        A new tf_keras model.
    """
    scheme = _given_scheme(spec, base_scheme, settings)
    check_quantizable(model, "quantize_apply")
    if not any(isinstance(layer, QuantizeAnnotate) for layer in model.layers):
        raise ValueError(
            "quantize_apply: no layer of the model is annotated. Mark some with qr.annotate_layer, "
            "all with qr.annotate_model, or use qr.quantize_model(model)."
        )
    return _apply(model, scheme)


_KERAS3_HINT = (
    "TFMOT works on tf_keras (Keras 2): set TF_USE_LEGACY_KERAS=1 before importing TensorFlow, or "
    "import tf_keras, and build or load the model with it."
)


def check_quantizable(model: Any, verb: str) -> None:
    """Raises a clear error for a model that TFMOT cannot take, before anything is done."""
    if is_keras3(model):
        raise TypeError(f"{verb}: this is a Keras 3 model ({type(model).__name__}). {_KERAS3_HINT}")
    if not isinstance(model, keras.Model):
        raise TypeError(f"{verb}: {type(model).__name__} is no tf_keras model. {_KERAS3_HINT}")
    if not isinstance(model, keras.Sequential) and not model._is_graph_network:
        raise ValueError(
            f"{verb}: {type(model).__name__} is a subclassed model, whose layers cannot be seen. "
            "Write it with the Functional API: x = tf_keras.Input(shape); "
            "tf_keras.Model(x, your_model.call(x))."
        )
    if not model.built:
        raise ValueError(
            f"{verb}: the model is not built, so its shapes are unknown. Call "
            "model.build(input_shape), or give the first layer an input_shape."
        )
    _refuse_quantized(model, verb)


def _refuse_quantized(model: Any, verb: str) -> None:
    if isinstance(model, keras.Model) and model.built and is_quantized(model):
        raise ValueError(
            f"{verb}: the model is quantized already. Start from the float model, or go on "
            "training this one."
        )


def _given_scheme(spec: Any, base_scheme: Any, settings: dict[str, Any]) -> RoundingScheme:
    if not isinstance(spec, RoundingScheme):
        return RoundingScheme(base_scheme, spec=spec, **settings)
    if base_scheme is not None or settings:
        given = [*(["base_scheme"] if base_scheme is not None else []), *sorted(settings)]
        raise TypeError(f"quantize_apply: the RoundingScheme says all; do not give {given} too.")
    return spec


def _annotated(model: Any, spec: LayerSpec | None, skipped: Iterable[Any]) -> Any:
    """A copy of a model, sharing nothing with it, whose layers are marked, but for some."""
    skipped_names = {layer.name for layer in skipped}

    def mark(layer: Any) -> Any:
        marked = isinstance(layer, QuantizeAnnotate) or layer.name in skipped_names
        return layer if marked else annotate_layer(layer, spec)

    marked = keras.models.clone_model(_copied(model), clone_function=mark)
    marked.set_weights(model.get_weights())
    return marked


def _copied(model: Any) -> Any:
    """A copy of a model whose layers are copies too."""

    def copy(layer: Any) -> Any:
        return type(layer).from_config(layer.get_config())

    with tfmot.quantization.keras.quantize_scope():
        return keras.models.clone_model(model, clone_function=copy)


def _apply(annotated: Any, scheme: RoundingScheme) -> Any:
    with tfmot.quantization.keras.quantize_scope(), trusting():
        quantized = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    set_weight_ranges(quantized)
    return mend_saving(quantized)


def set_weight_ranges(model: Any) -> None:
    """Sets the ranges of quantized weights from the weights themselves."""
    for tensor in quantized_tensors(model):
        if tensor.variable is not None and tensor.is_ours:
            tensor.quantizer.set_range(tensor.weights, tensor.quantizer.measure(tensor.variable))
