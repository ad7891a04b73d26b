"""Models that stock TFMOT quantized and trained, to be trained further by our rounders."""

from __future__ import annotations

from typing import Any

from qat_round._compat import (
    InputQuantizeLayer,
    QuantizeLayer,
    QuantizeWrapper,
    QuantizeWrapperV2,
    keras,
    tfmot,
    trusting,
)
from qat_round.layers.tfmot_wrapper import AdoptedWrapper, RoundingWrapper
from qat_round.models.tfmot_configs import RoundingConfig, swap
from qat_round.quantizers.model_spec import ModelSpec, as_model_spec
from qat_round.quantizers.quantized_tensors import (
    quantized_tensors,
    require_quantized,
    tensors_of_layer,
)
from qat_round.quantizers.quantizer import RoundingQuantizer
from qat_round.quantizers.spec import LayerSpec


def adopt(model: Any, spec: ModelSpec | LayerSpec | None = None, **settings: Any) -> Any:
    """A copy of a model that stock TFMOT quantized, with our quantizers in place of TFMOT's.

    Weights and ranges are kept, so that predictions are what they were; from here on training
    rounds as `spec` says. It saves and loads as `.keras`, which stock quantized models do not.

    Args:
        model: from TFMOT's `quantize_model` or `quantize_apply`, whatever the scheme; not changed.
        spec: a ModelSpec or LayerSpec; patterns match the layers' names without "quant_".
        **settings: the arguments of `qr.quantize_model`, instead of `spec`.

    Returns:
        A new model, to be compiled (an optimizer's state is not taken over).

    Raises:
        ValueError: if the model is not quantized, or has our quantizers already.

    Example:
        >>> float_model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
        >>> stock = tfmot.quantization.keras.quantize_model(float_model)
        >>> adopted = adopt(stock, rounder="sine")
        >>> bool((adopted.predict([[1.0, 2.0, 3.0]], verbose=0)
        ...       == stock.predict([[1.0, 2.0, 3.0]], verbose=0)).all())
        True
    """
    require_quantized(model, "adopt")
    if any(isinstance(layer, RoundingWrapper) for layer in model.layers):
        raise ValueError("adopt: the model has quantizers of qat_round already; go on training it.")
    chosen = as_model_spec(spec, **settings)
    chosen.check_matches((_name(layer), _class_names(layer)) for layer in model.layers)

    def swapped(layer: Any) -> Any:
        return _swapped(layer, chosen.for_layer(_name(layer), _class_names(layer)))

    with tfmot.quantization.keras.quantize_scope(), trusting():
        adopted = keras.models.clone_model(model, clone_function=swapped)
    _copy_weights(model, adopted)
    _copy_ranges(model, adopted)
    return adopted


def _name(layer: Any) -> str:
    return layer.layer.name if isinstance(layer, QuantizeWrapper) else layer.name


def _class_names(layer: Any) -> list[str]:
    inner = layer.layer if isinstance(layer, QuantizeWrapper) else layer
    return [cls.__name__ for cls in type(inner).__mro__]


def _swapped(layer: Any, spec: LayerSpec) -> Any:
    """The same layer, not built, with our quantizers."""
    if isinstance(layer, QuantizeLayer):
        quantizer = layer.quantizer
        ours = quantizer if spec.activations is None else swap(quantizer, spec.activations)
        return InputQuantizeLayer(ours, name=layer.name)
    copy = type(layer).from_config(layer.get_config())
    if not isinstance(layer, QuantizeWrapperV2):
        return copy
    config = RoundingConfig(copy.quantize_config, spec)
    return AdoptedWrapper(copy.layer, config, name=layer.name, trainable=layer.trainable)


def _copy_weights(model: Any, adopted: Any) -> None:
    """The float weights, by their names within each layer."""
    pairs: list[Any] = []
    for old, new in zip(model.layers, adopted.layers, strict=True):
        given = {_variable_name(v): v for v in old.weights}
        kept = [v for v in new.weights if not _is_state(new, v)]
        pairs += [(v, given[_variable_name(v)].numpy()) for v in kept]
    keras.backend.batch_set_value(pairs)


def _is_state(layer: Any, variable: Any) -> bool:
    """Whether a variable is a quantizer's, or TFMOT's step counter."""
    if isinstance(layer, (QuantizeLayer, QuantizeWrapper)):
        own = {id(v) for tensor in tensors_of_layer(layer) for v in tensor.weights.values()}
        return id(variable) in own or variable.name.split(":")[0].endswith("optimizer_step")
    return False


def _variable_name(variable: Any) -> str:
    return variable.name.split(":")[0].split("/")[-1]


def _copy_ranges(model: Any, adopted: Any) -> None:
    old = {tensor.path: tensor.weights for tensor in quantized_tensors(model)}
    for tensor in quantized_tensors(adopted):
        given = old.get(tensor.path)
        if given is None or not isinstance(tensor.quantizer, RoundingQuantizer):
            continue
        ends = [given[end].numpy() for end in ("min_var", "max_var")]
        tensor.quantizer.set_range(tensor.weights, ends)
