"""Where the quantizers sit: which tensors have a grid of their own, and which operators are one.

A tensor is *open* if it never exists in the file, because its maker and its only reader are one
operator there (convolution, batch norm, ReLU), or because the reader's scale is forced on it
(concatenation). Open tensors are not quantized; all others are, or are on their input's grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from qat_round._compat import keras, tf
from qat_round.frontend.graph import Graph, Node, Origin, Part, Ref
from qat_round.lowering.advice import why_not
from qat_round.lowering.boundary import edge_parts
from qat_round.lowering.int16_joins import is_wide
from qat_round.lowering.operator_table import (
    Kind,
    Weight,
    is_grid_clip,
    is_relu,
    is_wide_curve,
    kind_of,
)
from qat_round.lowering.register_layer import kind_of_custom, registered
from qat_round.numerics.grid import MOST_BITS, WIDE_BITS
from qat_round.quantizers.layer_quantizers import KEEPS, NONE, OWN, LayerQuantizers
from qat_round.quantizers.model_spec import ModelSpec
from qat_round.quantizers.quantizer import RoundingQuantizer
from qat_round.quantizers.ranges import Fixed
from qat_round.quantizers.sparsity import preserving
from qat_round.quantizers.spec import FLOAT, LayerSpec, TensorSpec

_L = keras.layers

_COMMON: dict[str, Any] = {"bits": 8, "rounder": "ste"}
_WEIGHTS = _COMMON | {"range": "last_value", "symmetric": True, "narrow_range": True}
_OUTPUTS = _COMMON | {"range": "moving_average"}
_INPUTS = _COMMON | {"range": "all_values", "off_ties": True}


class Plan:
    """What to quantize in a graph.

    Args:
        graph: a graph of layers as `lower` gives.
        spec: the user's ModelSpec.
        source: the graph as it was read, before any rewrite.
        preserve: which patterns of the weights last, as `sparsity.patterns` gives.

    Attributes:
        inputs: {input part: its RoundingQuantizer}, without those that stay as they are.
        layers: {part: its LayerQuantizers}.
        refused: {part: why TFLite cannot compute it in integers}.
    """

    def __init__(self, graph: Graph, spec: ModelSpec, source: Graph, preserve: Sequence[str] = ()):
        self.graph = graph
        self.preserve = preserve
        self.source = source
        self.spec = spec
        self._consumers = graph.consumers()
        self._calls = _calls_by_part(graph)
        self._edges = edge_parts(graph)
        self._kinds = {name: self._kind(part) for name, part in graph.parts.items()}
        ends = {graph.nodes[ref.node].part for ref in tf.nest.flatten(graph.inputs)}
        self.inputs = {name: q for name in ends if (q := self._input(name)) is not None}
        self.refused: dict[str, str] = {}
        self.layers = {name: self._layer(p) for name, p in graph.parts.items() if name not in ends}

    def refused_layers(self) -> dict[Origin, str]:
        """The user's layers that stand in the way, and why."""
        parts = self.graph.parts
        return {parts[name].origin: why for name, why in self.refused.items()}

    def layer_spec(self, part: Part) -> LayerSpec:
        """The user's spec for a layer, with the bits of the part where it has its own."""
        found = spec_of(self.spec, part, part.name in self._edges)
        if part.bits is None or found.activations is None:
            return found
        asked = dataclasses.replace(found.activations, bits=part.bits)
        return LayerSpec(found.weights, asked, state_bits=found.state_bits)

    def _kind(self, part: Part) -> Kind | None:
        kind = self._own_kind(part)
        if kind is not None and kind.joins and self._has_one_maker(part):
            return dataclasses.replace(kind, grid=KEEPS, joins=False)
        return kind

    def _own_kind(self, part: Part) -> Kind | None:
        if self.layer_spec(part) == FLOAT:
            return None
        kind = kind_of_custom(part) if registered(part.cls) else kind_of(part)
        return None if self._lacks_wide(part, kind) else kind

    def _lacks_wide(self, part: Part, kind: Kind | None) -> bool:
        """Whether 16 bits are asked for where TFLite's converter has 8 only."""
        if kind is None or not is_wide(self.layer_spec(part)):
            return False
        return kind.joins or (kind.fixed is not None and not is_wide_curve(part))

    def _has_one_maker(self, part: Part) -> bool:
        """Whether all that is joined is on one grid already: that of one layer, called often."""
        calls = self._calls[part.name]
        makers = {self.graph.part(ref).name for _, node in calls for ref in node.refs}
        if len(makers) != 1:
            return False
        maker = self.graph.parts[makers.pop()]
        kind = self._own_kind(maker)
        return kind is not None and kind.grid == OWN and not kind.joins

    def _layer(self, part: Part) -> LayerQuantizers:
        kind, spec = self._kinds[part.name], self.layer_spec(part)
        if spec == FLOAT:
            return self._in_float(part, "asked for (qr.FLOAT)")
        if not self._is_float(part):
            return LayerQuantizers()
        if kind is None:
            lacks_wide = self._lacks_wide(part, kind_of(part))
            self.refused[part.name] = _NOT_WIDE if lacks_wide else why_not(part)
            return self._in_float(part, self.refused[part.name])
        weights = self._weights(part, kind, spec)
        if kind.grid != OWN:
            return LayerQuantizers(weights, grid=kind.grid)
        if self._is_open(part) or spec.activations is None:
            return LayerQuantizers(weights, grid=NONE)
        output = _output(kind, spec.activations, repeated=len(self._calls[part.name]) > 1)
        if output.range.follows_data and self._reads_input(part):
            output.symmetric = True  # else evenly spaced inputs land on ties, one by one
        return LayerQuantizers(weights, output, OWN)

    def _in_float(self, part: Part, why: str) -> LayerQuantizers:
        """A layer that stays in float; what integer layers read of it is put on a grid first."""
        calls = self._calls[part.name]
        readers = [n for name, _ in calls for n in self._consumers.get(Ref(name), []) if n]
        found = next((p for p in map(self._part_of, readers) if self._needs_grid(p)), None)
        spec = None if found is None else self.layer_spec(found).activations
        if spec is None or not self._is_float(part) or any(len(n.specs) > 1 for _, n in calls):
            return LayerQuantizers(why=why)
        return LayerQuantizers({}, _output(Kind(), spec, len(calls) > 1), OWN, why)

    def _part_of(self, call: str) -> Part:
        return self.graph.parts[self.graph.nodes[call].part]

    def _needs_grid(self, part: Part) -> bool:
        """Whether an integer layer is an operator of its own that has to be given integers."""
        kind = self._kinds[part.name]
        is_part_of_another = (
            is_relu(part) or is_grid_clip(part) or part.cls is _L.BatchNormalization
        )
        return kind is not None and not kind.joins and not is_part_of_another

    def _reads_input(self, part: Part) -> bool:
        """Whether it is an affine of the model's input, such as a Rescaling with an offset."""
        ends = {ref.node for ref in tf.nest.flatten(self.graph.inputs)}
        calls = [node for _, node in self._calls[part.name]]
        pointwise = part.cls is keras.layers.DepthwiseConv2D and part.config["kernel_size"] == 1
        return pointwise and any(ref.node in ends for call in calls for ref in call.refs)

    def _weights(self, part: Part, kind: Kind, spec: LayerSpec) -> dict[str, RoundingQuantizer]:
        asked = {weight: spec.weight(weight.attribute) for weight in kind.weights}
        found = {w.attribute: _weight(w, s) for w, s in asked.items() if s is not None}
        if not part.weights:
            return found
        values = part.weights[0]  # of a layer that has a kernel, the kernel
        return {k: preserving(q, self.preserve, k, values) for k, q in found.items()}

    def _input(self, name: str) -> RoundingQuantizer | None:
        part, spec = self.graph.parts[name], self.layer_spec(self.graph.parts[name]).activations
        tensor = Ref(self._calls[name][0][0])
        if spec is None or not self.graph.spec(tensor).floating or self._only_indices(tensor):
            return None
        settings = wide(_INPUTS | spec.given())
        readers = [self.graph.nodes[n] for n in self._consumers.get(tensor, []) if n]
        if readers and all(self._joins(node) for node in readers):
            return None
        return RoundingQuantizer(**settings) if part else None

    def _only_indices(self, tensor: Ref) -> bool:
        """Whether a float input is read as whole numbers, by embeddings alone."""
        readers = [self.graph.nodes[n] for n in self._consumers.get(tensor, []) if n]
        embedding = keras.layers.Embedding
        return bool(readers) and all(self.graph.parts[n.part].cls is embedding for n in readers)

    def _is_float(self, part: Part) -> bool:
        return all(spec.floating for _, node in self._calls[part.name] for spec in node.specs)

    def _is_open(self, part: Part) -> bool:
        return all(self._is_fused(part, name, node) for name, node in self._calls[part.name])

    def _is_fused(self, part: Part, name: str, node: Node) -> bool:
        readers = self._consumers.get(Ref(name), [])
        if len(node.specs) != 1 or len(readers) != 1 or not readers[0]:
            return False
        reader = self.graph.nodes[readers[0]]
        after = self.graph.parts[reader.part]
        if self._kinds[after.name] is None:
            return False
        kind = self._kinds[part.name] or Kind()
        linear = part.config.get("activation") in (None, "linear")
        if after.cls is keras.layers.BatchNormalization:
            return kind.is_linear and linear
        if is_relu(after) or is_grid_clip(after):
            return self._takes_relu(part, node) and linear
        return self._joins(reader) and kind.fixed is None

    def _takes_relu(self, part: Part, node: Node) -> bool:
        maker = part
        if part.cls is keras.layers.BatchNormalization:
            maker = self.graph.part(node.args[0])
        kind = self._kinds[maker.name]
        return kind is not None and kind.takes_relu

    def _joins(self, node: Node) -> bool:
        kind = self._kinds[node.part]
        return kind is not None and kind.joins


def spec_of(spec: ModelSpec, part: Part, at_edge: bool = False) -> LayerSpec:
    """The spec of a part: what the user says of the layer behind it, over what is registered."""
    origin = part.origin
    found = spec.for_layer(origin.name, origin.class_names, at_edge)
    own = registered(origin.cls)
    return found if own is None or found == FLOAT else own.over(found)


def _calls_by_part(graph: Graph) -> Mapping[str, list[tuple[str, Node]]]:
    calls: dict[str, list[tuple[str, Node]]] = {name: [] for name in graph.parts}
    for name, node in graph.nodes.items():
        calls[node.part].append((name, node))
    return calls


def _weight(weight: Weight, spec: TensorSpec) -> RoundingQuantizer:
    settings: dict[str, Any] = _WEIGHTS | {"per_axis": weight.axis is not None} | spec.given()
    settings["bits"] = max(settings["bits"], weight.least_bits)
    if weight.as_constant and settings["bits"] > MOST_BITS:
        settings["per_axis"] = False  # a file's constants have 8 bits
    if settings["per_axis"]:
        axis = -1 if weight.axis is None else weight.axis
        settings |= {"axis": axis, "as_constant": weight.as_constant}
    return RoundingQuantizer(**settings)


def _output(kind: Kind, spec: TensorSpec, repeated: bool) -> RoundingQuantizer:
    """A layer's output; one that is called often, on values that differ, must not average ends."""
    settings = _OUTPUTS | ({"range": "all_values"} if repeated else {}) | spec.given()
    if kind.fixed is not None:
        fixed = _WIDE_UNIT if settings["bits"] == WIDE_BITS else kind.fixed
        settings |= {"range": Fixed(*fixed), "symmetric": False, "narrow_range": False}
    return RoundingQuantizer(**wide(settings))


def wide(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of 16 bits with the zero point 0, which TFLite's int16 kernels ask for."""
    if settings["bits"] != WIDE_BITS:
        return settings
    return settings | {"symmetric": True, "narrow_range": True, "off_ties": False}


_WIDE_UNIT = (-32767 / 32768, 32767 / 32768)
"""The ends of what TFLite's int16 sigmoid and tanh give, for either."""

_NOT_WIDE = (
    "TFLite's converter has no 16-bit activations for this layer; use activation_bits=8, "
    "or take it out of the model (give logits instead of a closing softmax)"
)


__all__ = ["KEEPS", "Plan"]
