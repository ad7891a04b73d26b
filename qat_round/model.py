"""Whole-model verbs: annotate, quantize, load."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import integer
from ._compat import (
    QuantizeAnnotate,
    QuantizeScheme,
    is_keras3,
    keras,
    loading,
    tfmot,
    trusting,
)
from .configs import SpecMarker
from .declared_sizes import check_sizes
from .model_spec import ModelSpec, as_model_spec
from .preserve import patterns
from .recipes import batch_norm_of, recipe_spec
from .refusals import UnsupportedLayers, why_unmarkable
from .saved_code import refuse_code
from .scheme import RoundingScheme
from .spec import FLOAT, LayerSpec
from .tensors import is_quantized, quantized_tensors
from .wrapper import mend_saving


def quantize_model(
    model: Any,
    rounder: Any = None,
    *,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    base_scheme: QuantizeScheme | None = None,
    spec: ModelSpec | LayerSpec | None = None,
    unsupported: str = "error",
    preserve: str | Sequence[str] | None = None,
    recipe: str | Mapping[str, Any] | None = None,
    batch_norm: str | None = None,
    safe_mode: bool = True,
    **settings: Any,
) -> Any:
    """A copy of a float model that is quantized while it trains, ready to `compile` and `fit`.

    Args:
        model: a tf_keras or Keras 3 model, Functional, Sequential or nested, subclassed if its
            `call` can be followed; or the path of a `.keras`, `.h5` or SavedModel. Not changed.
        rounder: what `qr.get` takes; for weights and activations; None for "ste".
        weight_bits, activation_bits: 2 to 16; None as the base scheme has it (8).
        base_scheme: None for our own plan, by which the file is the model integer for integer (see
            docs/any_model.md); or a TFMOT scheme, which then says what is quantized, and takes
            Functional and Sequential tf_keras models only.
        spec: a ModelSpec or LayerSpec, instead of rounder, bits and `settings`.
        unsupported: "error" names the layers that TFLite cannot compute in integers; "float" leaves
            them in float. `qr.coverage(model)` says beforehand which they are.
        preserve: "sparsity" for a pruned model, whose zeros stay zero; "clusters" for a clustered
            one, whose kernels keep their number of values, and then have one range for all channels
            (a batch norm with a negative gamma mirrors its channels' integers); or both in a
            tuple. Strip TFMOT's wrappers first.
        recipe: a name of `qr.recipes()`, such as "w4a8", or plain data as in there, instead of
            rounder, bits and spec; `overrides` may go with it.
        batch_norm: "live" norms each batch by its own statistics while training (and wants
            `qr.reestimate_batch_norm` after it below 5 bits); "folded" puts batch norm into the
            layers in front from the start, so that training is what the device computes. None for
            what the recipe says, else live.
        safe_mode: whether `Lambda` layers of files and of Keras 3 models are refused, as in Keras.
        **settings: `weights` and `activations` (a name, a Rounder, a TensorSpec, None for float)
            and `overrides` ({layer name pattern or class: LayerSpec}).

    Returns:
        A new tf_keras model. Weight ranges are set; activation ranges wait for `qr.calibrate`.

    Raises:
        ValueError: for a model that cannot be quantized (with every layer that stands in the way),
            or an unknown or impossible setting.
        TypeError: for a setting of a wrong type.

    Example:
        >>> model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,), name="last")])
        >>> q = quantize_model(model, rounder="sine")
        >>> q.layers[-1].name
        'quant_last'
    """
    named = {"rounder": rounder, "weight_bits": weight_bits, "activation_bits": activation_bits}
    settings |= {name: value for name, value in named.items() if value is not None}
    check_unsupported(unsupported)
    words, norm = patterns(preserve), batch_norm_of(batch_norm, recipe)
    if recipe is not None:
        spec, settings = _by_recipe(recipe, spec, base_scheme, settings), {}
    if base_scheme is None:
        wanted = as_model_spec(spec, **settings)
        return _planned(model, wanted, unsupported, safe_mode, words, norm == "folded")
    if norm == "folded":
        raise ValueError(
            "quantize_model: batch_norm='folded' is for our own plan; leave base_scheme out, or "
            "quantize qr.fold_batch_norm(model)."
        )
    if words:
        raise ValueError(
            f"quantize_model: preserve={preserve!r} is for our own plan; leave base_scheme out, or "
            "give TFMOT's prune- or cluster-preserving scheme and no preserve."
        )
    return _by_scheme(model, RoundingScheme(base_scheme, spec=spec, **settings))


def _by_recipe(recipe: Any, spec: Any, base_scheme: Any, settings: dict[str, Any]) -> ModelSpec:
    extra = [name for name in settings if name != "overrides"]
    extra += [n for n, v in (("spec", spec), ("base_scheme", base_scheme)) if v is not None]
    if extra:
        raise TypeError(
            f"quantize_model: a recipe says it all; do not give {extra} too. To change one, change "
            "qr.recipes()[name] and give that."
        )
    return recipe_spec(recipe, settings.get("overrides", ()))


def check_unsupported(unsupported: str) -> None:
    """Raises a ValueError for another word than "error" and "float"."""
    if unsupported not in ("error", "float"):
        raise ValueError(
            f'unsupported={unsupported!r} is unknown; allowed are "error" and "float".'
        )


def _planned(
    model: Any,
    spec: ModelSpec,
    unsupported: str,
    safe_mode: bool,
    preserve: Sequence[str],
    folded: bool,
) -> Any:
    _refuse_quantized(model, "quantize_model")
    planned = integer.plan(model, spec, safe_mode, preserve, folded)
    if planned.refused and unsupported == "error":
        raise UnsupportedLayers(planned.refused_layers())
    quantized = integer.build(planned)
    set_weight_ranges(quantized)
    return quantized


def _by_scheme(model: Any, scheme: RoundingScheme) -> Any:
    check_quantizable(model, "quantize_model")
    unmarkable = {layer: why for layer in model.layers if (why := why_unmarkable(layer))}
    annotated = _annotated(model, None, unmarkable)
    refused = {layer: why for layer, why in unmarkable.items() if scheme.spec_of(layer) != FLOAT}
    try:
        quantized = _apply(annotated, scheme)
    except UnsupportedLayers as error:
        raise UnsupportedLayers(_in_order_of(model, {**refused, **error.reasons})) from None
    if refused:
        raise UnsupportedLayers(refused)
    return quantized


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


def load_model(path: str | pathlib.Path, *, safe_mode: bool = True, **options: Any) -> Any:
    """A saved model, quantized or annotated or not, as it was: `.keras`, `.h5` or SavedModel.

    As Keras's own `load_model` after `import qat_round`, but that `safe_mode` holds for all
    formats, which in Keras it does for zipped `.keras` files only.

    Args:
        path: the file or folder.
        safe_mode: whether Python code in the file is refused: lambdas, and functions and classes
            that would be found by importing a module that the file names. Register your own, or
            import them before.
        **options: the others of `tf_keras.models.load_model`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a damaged file, or a class that is not known; nothing in it is run.
    """
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"load_model: there is no file or folder {str(path)!r}.")
    try:
        check_sizes(path)
        with loading(safe_mode):
            if safe_mode:
                refuse_code(pathlib.Path(path), options.get("custom_objects"))
            return keras.models.load_model(str(path), safe_mode=safe_mode, **options)
    except (ValueError, TypeError, OSError):
        raise
    except Exception as error:  # whatever the readers of zip, JSON and HDF5 make of damage
        raise ValueError(
            f"load_model: {str(path)!r} is damaged, or no Keras model: {error}"
        ) from error


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


def _in_order_of(model: Any, reasons: dict[Any, str]) -> dict[Any, str]:
    names = [layer.name for layer in model.layers] + [layer.name for layer in reasons]
    return dict(sorted(reasons.items(), key=lambda item: names.index(item[0].name)))


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
