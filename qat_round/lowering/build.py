"""The integer plan: from any float model to one whose every operator TFLite keeps in integers.

A float graph is lowered to layers that TFLite can compute in integers, planned (which tensor has
which grid), and built once, each layer in its wrapper.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from qat_round._compat import keras, tf
from qat_round.frontend.batch_norm import fold_batch_norms
from qat_round.frontend.build import make_layer, set_weights
from qat_round.frontend.graph import Graph, Part, Ref, map_refs
from qat_round.frontend.to_functional import read_graph, rewritten
from qat_round.layers import integer_layers
from qat_round.layers.int16_layers import WideActivation
from qat_round.layers.ops import Affine, MatMul, Reduce
from qat_round.layers.shared_grid import GridClip
from qat_round.layers.tfmot_wrapper import GridInput
from qat_round.layers.wrapper import GridWrapper
from qat_round.lowering import (  # noqa: F401
    masks,
    rules_activations,
    rules_attention,
    rules_einsum,
    rules_merging,
    rules_norms,
    rules_recurrent,
    rules_wrapped,
)
from qat_round.lowering.converter_forms import for_converter
from qat_round.lowering.lower import lower
from qat_round.lowering.operator_table import is_grid_clip, is_wide_curve
from qat_round.lowering.plan import Plan, spec_of
from qat_round.quantizers.layer_quantizers import LayerQuantizers
from qat_round.quantizers.model_spec import ModelSpec
from qat_round.quantizers.sparsity import note_patterns

__all__ = ["Plan", "build", "lower", "plan"]

PREFIX = "quant_"
integer_layers.AFFINES.add(Affine)
integer_layers.PRODUCTS.add(MatMul)
integer_layers.REDUCTIONS.add(Reduce)


def plan(
    model: Any,
    spec: ModelSpec,
    safe_mode: bool = True,
    preserve: Sequence[str] = (),
    folded: bool = False,
) -> Plan:
    """What will be quantized in a model, and what stands in the way.

    Args:
        model, spec, safe_mode, preserve: as in `qr.quantize_model`; preserve as it was read.
        folded: whether batch norms go into the layers in front before all else.
    """
    source = read_graph(model, safe_mode=safe_mode)
    spec.check_matches(_known_layers(source))
    equal = rewritten(source)
    graph = lower(fold_batch_norms(equal) if folded else equal, lambda part: spec_of(spec, part))
    return Plan(graph, spec, source, preserve)


def _known_layers(graph: Graph) -> Iterator[tuple[str, list[str]]]:
    """Names and class names by which a user may call the layers."""
    for part in graph.parts.values():
        yield part.name, part.origin.class_names


def build(planned: Plan) -> Any:
    """The quantized model of a plan: every layer made and wrapped once, every weight set once."""
    graph = planned.graph
    inputs = map_refs(
        lambda ref: keras.layers.InputLayer.from_config(dict(graph.part(ref).config)).output,
        graph.inputs,
    )
    layers = _wrapped(planned)
    tensors = {
        ref: _quantized_input(planned, graph.nodes[ref.node].part, tensor)
        for ref, tensor in zip(tf.nest.flatten(graph.inputs), tf.nest.flatten(inputs), strict=True)
    }
    _call_all(graph, layers, tensors)
    outputs = map_refs(tensors.__getitem__, graph.outputs)
    model = keras.Model(inputs, outputs, name=graph.name)
    set_weights(graph.parts, {name: wrapper.float_weights() for name, wrapper in layers.items()})
    for wrapper in layers.values():
        note_patterns(wrapper)
    return model


def _call_all(graph: Graph, layers: dict[str, Any], tensors: dict[Ref, Any]) -> None:
    for name, node in graph.nodes.items():
        if Ref(name) in tensors:
            continue
        args, kwargs = map_refs(tensors.__getitem__, (node.args, dict(node.kwargs)))
        outputs = layers[node.part](*args[:1], **_by_name(layers[node.part], args), **kwargs)
        tensors.update({Ref(name, i): t for i, t in enumerate(tf.nest.flatten(outputs))})


def _by_name(wrapper: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """All arguments but the first, by the names that the wrapped layer has for them."""
    names = list(inspect.signature(wrapper.layer.call).parameters)
    return dict(zip(names[1:], args[1:], strict=False))


def _wrapped(planned: Plan) -> dict[str, Any]:
    parts = planned.graph.parts
    return {
        name: GridWrapper(make_layer(_as_made(parts[name], config)), config, name_prefix=PREFIX)
        for name, config in planned.layers.items()
    }


def _as_made(part: Part, config: LayerQuantizers) -> Part:
    """The part as the layer that is made: sigmoid and tanh of 16 bits as what the converter takes.

    A clip to its grid's own ends does nothing else: no operator is made for it.
    """
    if config.output is not None and config.output.is_wide and is_wide_curve(part):
        return dataclasses.replace(part, cls=WideActivation)
    if config.output is None or config.why or not is_grid_clip(part):
        return part if config.why else for_converter(part)
    wanted = ("name", "dtype", "low", "high")
    base = {key: part.config[key] for key in wanted if key in part.config}
    return dataclasses.replace(part, cls=GridClip, config=base)


def _quantized_input(planned: Plan, part: str, tensor: Any) -> Any:
    quantizer = planned.inputs.get(part)
    if quantizer is None:
        return tensor
    return GridInput(quantizer, name=f"quantize_{part}")(tensor)
