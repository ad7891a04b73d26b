"""What TFLite does with each layer: which weights it keeps in integers, and its output's scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from qat_round._compat import keras
from qat_round.frontend.graph import Graph, Part, Ref
from qat_round.layers import ops, ops_time
from qat_round.layers.int16_layers import CURVES, Regrid
from qat_round.layers.ops_math import Divide, Elementwise, L2Normalize
from qat_round.quantizers.layer_quantizers import AVERAGES, KEEPS, OWN

_L = keras.layers


@dataclasses.dataclass(frozen=True)
class Weight:
    """One quantized weight of a layer.

    Args:
        attribute: where the layer has it.
        axis: the axis of the channels (several trailing ones count as one); None for one scale.
        as_constant: whether the converter finds its integers only from a constant; see
            `RoundingQuantizer`.
        least_bits: what the operator takes: products and sums with a constant, 8.
    """

    attribute: str
    axis: Any = -1
    as_constant: bool = False
    least_bits: int = 2


@dataclasses.dataclass(frozen=True)
class Kind:
    """What TFLite does with a layer.

    Args:
        grid: the output's: "own", "keeps" or "averages" (see `layer_quantizers`).
        weights: its quantized weights.
        fixed: (lo, hi) of the output's range where the operator's scale is fixed.
        takes_relu: whether a ReLU behind it becomes part of the operator.
        is_linear: whether a batch norm behind it becomes part of its weights.
        joins: whether all its inputs and its output share one scale (concatenation).
    """

    grid: str = OWN
    weights: tuple[Weight, ...] = ()
    fixed: tuple[float, float] | None = None
    takes_relu: bool = False
    is_linear: bool = False
    joins: bool = False


def _linear(*weights: Weight) -> Kind:
    return Kind(weights=weights, takes_relu=True, is_linear=True)


_PROBABILITY = (0.0, 255.0 / 256.0)
_SIGNED_UNIT = (-1.0, 127.0 / 128.0)
_MOVED = Kind(grid=KEEPS)
_PLAIN = Kind()

_KINDS: dict[type, Kind] = (
    {
        _L.Conv2D: _linear(Weight("kernel")),
        _L.Conv1D: _linear(Weight("kernel", as_constant=True)),
        _L.DepthwiseConv2D: _linear(Weight("depthwise_kernel", axis=(-2, -1))),
        _L.DepthwiseConv1D: _linear(Weight("depthwise_kernel", axis=(-2, -1), as_constant=True)),
        _L.Conv2DTranspose: _linear(Weight("kernel", axis=-2, as_constant=True)),
        _L.Conv1DTranspose: Kind(  # a squeeze comes between it and a ReLU
            weights=(Weight("kernel", axis=-2, as_constant=True),), is_linear=True
        ),
        _L.Dense: _linear(Weight("kernel", as_constant=True)),
        _L.Embedding: Kind(grid=KEEPS, weights=(Weight("embeddings", axis=None),)),
        _L.BatchNormalization: Kind(takes_relu=True),
        _L.Add: Kind(takes_relu=True),
        _L.Concatenate: Kind(joins=True),
        _L.Maximum: Kind(joins=True),
        _L.Minimum: Kind(joins=True),
        L2Normalize: Kind(fixed=_SIGNED_UNIT),
        _L.Softmax: Kind(fixed=_PROBABILITY),
        _L.AveragePooling1D: Kind(grid=AVERAGES),
        _L.AveragePooling2D: Kind(grid=AVERAGES),
        ops.MatMul: _PLAIN,
        Regrid: _PLAIN,
        ops.Pad: _MOVED,
        ops.Slice: _MOVED,
        ops.DepthToSpace: _MOVED,
        ops.Unmask: _MOVED,
        ops_time.Stack: Kind(joins=True),
        ops_time.Unstack: _MOVED,
        ops_time.Split: _MOVED,
        ops_time.MergeTime: _MOVED,
        ops_time.SplitTime: _MOVED,
    }
    | dict.fromkeys(
        (
            _L.Subtract,
            _L.Multiply,
            _L.LeakyReLU,
            Divide,
            Elementwise,
            _L.GlobalAveragePooling1D,
            _L.GlobalAveragePooling2D,
        ),
        _PLAIN,
    )
    | dict.fromkeys(
        (
            _L.MaxPooling1D,
            _L.MaxPooling2D,
            _L.GlobalMaxPooling1D,
            _L.GlobalMaxPooling2D,
            _L.Flatten,
            _L.Reshape,
            _L.Permute,
            _L.RepeatVector,
            _L.ZeroPadding1D,
            _L.ZeroPadding2D,
            _L.Cropping1D,
            _L.Cropping2D,
            _L.UpSampling1D,
            _L.Dropout,
            _L.SpatialDropout1D,
            _L.SpatialDropout2D,
            _L.GaussianNoise,
            _L.GaussianDropout,
            _L.AlphaDropout,
            _L.ActivityRegularization,
        ),
        _MOVED,
    )
)

_ACTIVATIONS: dict[str, Kind] = {
    "linear": _MOVED,
    "relu": _PLAIN,
    "gelu": _PLAIN,
    "exponential": _PLAIN,
    "softmax": Kind(fixed=_PROBABILITY),
    "sigmoid": Kind(fixed=_PROBABILITY),
    "tanh": Kind(fixed=_SIGNED_UNIT),
}


def kind_of(part: Part) -> Kind | None:
    """What TFLite does with a layer in integers; None if it cannot.

    Example:
        >>> kind_of(Part("pool", keras.layers.AveragePooling2D, {})).grid
        'averages'
    """
    special = _SPECIAL.get(part.cls)
    if special is not None:
        return special(part.config)
    return next((_KINDS[cls] for cls in part.cls.__mro__ if _computes_as(part.cls, cls)), None)


def _computes_as(cls: type, base: type) -> bool:
    """Whether a class is a known one, or a subclass of it that leaves its `call` alone."""
    return base in _KINDS and getattr(cls, "call", None) is getattr(base, "call", None)


def _activation(config: Mapping[str, Any]) -> Kind | None:
    name = config["activation"]
    return _ACTIVATIONS.get(name) if isinstance(name, str) else None


def _reduce(config: Mapping[str, Any]) -> Kind:
    return _PLAIN if config["kind"] in ("mean", "sum") else _MOVED


def _resize(config: Mapping[str, Any]) -> Kind | None:
    return {"nearest": _MOVED, "bilinear": Kind(grid=AVERAGES)}.get(config["interpolation"])


def _dot(config: Mapping[str, Any]) -> Kind | None:
    """Without the lengths, which are taken out before (see `rules_merging`)."""
    return None if config.get("normalize") else _PLAIN


def _clip(config: Mapping[str, Any]) -> Kind:
    """A clip is nothing but a range that does not move: the grid's ends do the clipping."""
    low, high = config.get("low"), config.get("high")
    if low is not None and high is not None and low <= 0.0 <= high and low < high:
        return Kind(fixed=(low, high))
    return Kind(grid=AVERAGES)  # the ends are rounded to the input's grid


def _relu(config: Mapping[str, Any]) -> Kind | None:
    plain = not config.get("negative_slope") and not config.get("threshold")
    return _PLAIN if plain else None


def _affine(config: Mapping[str, Any]) -> Kind | None:
    """A product or a sum with a constant; both at once are two operators (see `lower`)."""
    given = [key for key in ("scale", "offset") if config.get(key) is not None]
    weights = tuple(Weight(word, axis=None, least_bits=8) for word in given)
    return Kind(weights=weights, takes_relu=True) if len(given) == 1 else None


_SPECIAL: dict[type, Callable[[Mapping[str, Any]], Kind | None]] = {
    _L.Activation: _activation,
    _L.UpSampling2D: _resize,
    _L.Resizing: _resize,
    _L.Dot: _dot,
    ops.Reduce: _reduce,
    ops.Clip: _clip,
    ops.Affine: _affine,
    _L.ReLU: _relu,
}


def is_grid_clip(part: Part) -> bool:
    """Whether the layer clips to an interval around 0, as the ends of a grid do by themselves."""
    return part.cls is ops.Clip and _clip(part.config).fixed is not None


def is_relu(part: Part) -> bool:
    """Whether the layer is a ReLU that TFLite can make part of the operator in front."""
    if part.cls is keras.layers.Activation:
        return part.config["activation"] == "relu"
    if part.cls is not keras.layers.ReLU:
        return False
    config = part.config
    plain = not config.get("negative_slope") and not config.get("threshold")
    return plain and config.get("max_value") in (None, 6.0)


def has_host(
    graph: Graph, name: str, consumers: Mapping[Ref, list[str]], calls: Mapping[str, int]
) -> bool:
    """Whether a batch norm's call follows a linear layer that feeds nothing else.

    A layer that is called several times may be followed by one batch norm each time.
    """
    source = graph.nodes[name].args[0]
    if not isinstance(source, Ref) or len(consumers[source]) != 1:
        return False
    host = graph.part(source)
    kind = kind_of(host)
    linear = host.config.get("activation") in (None, "linear")
    if kind is None or not kind.is_linear or not linear:
        return False
    return calls[host.name] == 1 or _follows_everywhere(graph, name, host.name, consumers)


def _follows_everywhere(
    graph: Graph, name: str, host: str, consumers: Mapping[Ref, list[str]]
) -> bool:
    """Whether a batch norm is all that reads a layer that is called several times."""
    norm = graph.nodes[name].part
    if graph.parts[norm].cls is not keras.layers.BatchNormalization:
        return False
    readers = [consumers.get(Ref(call), []) for call, n in graph.nodes.items() if n.part == host]
    return all(len(by) == 1 and by[0] and graph.nodes[by[0]].part == norm for by in readers)


def is_wide_curve(part: Part) -> bool:
    """Whether a part is an activation that TFLite has at 16 bits."""
    return part.cls is keras.layers.Activation and part.config["activation"] in CURVES
