"""Whole-model verbs: annotate, quantize, load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qat_round._compat import QuantizeScheme
from qat_round.lowering.build import build, plan
from qat_round.models.annotate import (
    _annotated,
    _apply,
    _refuse_quantized,
    check_quantizable,
    set_weight_ranges,
)
from qat_round.models.tfmot_scheme import RoundingScheme
from qat_round.models.unsupported import UnsupportedLayers, why_unmarkable
from qat_round.quantizers.model_spec import ModelSpec, as_model_spec
from qat_round.quantizers.recipes import batch_norm_of, recipe_spec
from qat_round.quantizers.sparsity import patterns
from qat_round.quantizers.spec import FLOAT, LayerSpec


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
        >>> import tf_keras as keras
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
    planned = plan(model, spec, safe_mode, preserve, folded)
    if planned.refused and unsupported == "error":
        raise UnsupportedLayers(planned.refused_layers())
    quantized = build(planned)
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


def _in_order_of(model: Any, reasons: dict[Any, str]) -> dict[Any, str]:
    names = [layer.name for layer in model.layers] + [layer.name for layer in reasons]
    return dict(sorted(reasons.items(), key=lambda item: names.index(item[0].name)))
