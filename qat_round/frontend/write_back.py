"""Trained weights back into the model that intake was given.

Layers are found by name. A quantized model calls them `quant_<name>` and keeps the float weights
beside the quantizers' own variables; a layer that was split, widened or folded on the way is put
together again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qat_round._compat import is_keras3, keras
from qat_round.frontend.batch_norm import unfold, unfold_affine
from qat_round.frontend.build import build
from qat_round.frontend.graph import Graph, Part, Ref
from qat_round.frontend.keras3_trace import functional
from qat_round.frontend.keras3_weights import WeightFile
from qat_round.frontend.load import translate_object
from qat_round.frontend.read import part_names, read
from qat_round.frontend.trace import is_functional, trace
from qat_round.layers.ops import Affine

_PREFIX = "quant_"
_NORM = keras.layers.BatchNormalization

Found = Callable[[str], dict[str, np.ndarray]]
JOINERS: dict[type, Callable[[Part, Found], Sequence[np.ndarray]]] = {}
"""For layers that quantization takes apart: from the part and a function that gives the weights of
its piece `<part>_<suffix>` by name, to the layer's own weights in order."""


def write_back(model: Any, original: Any) -> None:
    """Copies trained float weights into the original, layer by layer, by name.

    Args:
        model: the trained model: one from `to_functional`, or a quantized one made of it.
        original: the `tf_keras` or Keras 3 model that was handed to intake; it is changed.

    Raises:
        TypeError: if the original is not a model.
        ValueError: if a layer of the original is not in the model, or has other weights there.

    Example:
        >>> original = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        >>> from qat_round.frontend.to_functional import to_functional
        >>> trained = to_functional(original)
        >>> trained.layers[1].kernel.assign([[1.0], [2.0]]).shape.as_list()
        [2, 1]
        >>> write_back(trained, original)
        >>> original.get_weights()[0].tolist()
        [[1.0], [2.0]]
    """
    if is_keras3(original):
        _write_keras3(model, original)
    elif isinstance(original, keras.Model):
        _write(model, original)
    else:
        raise TypeError(
            f"write_back writes into a tf_keras or Keras 3 model; given {type(original).__name__}. "
            "For a file, load it with Keras first, write back, and save it."
        )


def _write(model: Any, original: Any) -> None:
    live = original if is_functional(original) else trace(original)
    graph = read(live)
    layers = part_names(live)
    arrays = _collect(model, graph)
    pairs: list[tuple] = []
    for name, values in arrays.items():
        pairs.extend(zip(layers[name].weights, values, strict=True))
    keras.backend.batch_set_value(pairs)


def _write_keras3(model: Any, original: Any) -> None:
    import h5py

    with functional(original) as graph, tempfile.TemporaryDirectory() as folder:
        translation = translate_object(graph, safe_mode=False)
        _write(model, translation.model)
        path = Path(folder) / "model.weights.h5"
        graph.save_weights(path)
        with h5py.File(path, "r+") as file:
            weights = WeightFile(file)
            for home in translation.homes:
                weights.replace(home)
        graph.load_weights(path)


def _collect(model: Any, graph: Graph) -> dict[str, Any]:
    """For each layer of the original its new weights."""
    trained = _float_layers(model)
    names = _variable_names(graph)
    wanted = {name: part for name, part in graph.parts.items() if _is_trained(part)}
    arrays = {name: _arrays(names[name], part, trained) for name, part in wanted.items()}
    _restore_norms(graph, arrays, trained)
    lost = [name for name, values in arrays.items() if values is None]
    lost += _folded_away(graph, trained)
    if lost:
        raise ValueError(
            f"The model has no weights for {len(lost)} layers of the original: {lost[:8]}. It must "
            "come from this very model, and with preprocessing not folded "
            "(fold_preprocessing=False)."
        )
    return arrays


def _is_trained(part: Part) -> bool:
    """Whether the layer's weights are the model's own (preprocessing is constant)."""
    return bool(part.weights) and not issubclass(part.cls, keras.layers.Normalization)


def _folded_away(graph: Graph, trained: Mapping) -> list[str]:
    """Preprocessing of the original, if the model has none: it is in the next layer's weights."""
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    constants = [name for name, part in graph.parts.items() if issubclass(part.cls, kinds)]
    found = any(isinstance(inner, (Affine, *kinds)) for inner, _ in trained.values())
    return [] if found else constants


def _float_layers(model: Any) -> dict[str, tuple[Any, list]]:
    """Float layer and all variables near it, by the float layer's name."""
    found = {}
    for layer in model.layers:
        inner = getattr(layer, "layer", layer) if layer.name.startswith(_PREFIX) else layer
        found[layer.name.removeprefix(_PREFIX)] = (inner, list(layer.weights))
    return found


def _variable_names(graph: Graph) -> dict[str, list[tuple[str, ...]]]:
    """Names of every layer's variables, in the order of its weights."""
    return {layer.name: [_path(v) for v in layer.weights] for layer in build(graph).layers}


def _path(variable: Any) -> tuple[str, ...]:
    return tuple(variable.name.split(":")[0].split("/"))


def _arrays(names: list, part: Part, trained: Mapping) -> list[np.ndarray] | None:
    halves = (f"{part.name}_depthwise", f"{part.name}_pointwise")
    if part.cls in JOINERS and part.name not in trained:
        return _joined(part, trained)
    if part.name in trained:
        inner, variables = trained[part.name]
        if issubclass(part.cls, _NORM) and not isinstance(inner, _NORM):
            return None
    elif all(half in trained for half in halves):
        variables = [v for half in halves for v in trained[half][1]]
        names = [("depthwise_kernel",), ("kernel",), ("bias",)][: len(part.weights)]
    else:
        return None
    return _matched(part, names, variables)


def _joined(part: Part, trained: Mapping) -> list[np.ndarray] | None:
    """The weights of a layer that was taken apart, from its pieces."""

    def found(suffix: str) -> dict[str, np.ndarray]:
        _, variables = trained[f"{part.name}_{suffix}"]
        return {_path(v)[-1]: v.numpy() for v in variables}

    try:
        values = JOINERS[part.cls](part, found)
    except KeyError:
        return None
    return [np.reshape(v, old.shape) for v, old in zip(values, part.weights, strict=True)]


def _matched(part: Part, names: list, variables: list) -> list[np.ndarray] | None:
    """For each wanted weight the variable whose name ends most like it."""
    values, free = [], list(variables)
    for name, old in zip(names, part.weights, strict=True):
        fits = [v for v in free if _path(v)[-1] == name[-1] and _size(v) == old.size]
        if not fits:
            raise ValueError(
                f"Layer '{part.name}' of the model has no weight '{name[-1]}' of {old.size} "
                f"numbers; it has {['/'.join(_path(v)) for v in variables]}."
            )
        best = max(fits, key=lambda v: _common_end(_path(v), name))
        free = [v for v in free if v is not best]
        values.append(best.numpy().reshape(old.shape))
    return values


def _size(variable: Any) -> int:
    return int(np.prod(variable.shape, dtype=np.int64))


def _common_end(a: tuple, b: tuple) -> int:
    same = [x == y for x, y in zip(reversed(a), reversed(b), strict=False)]
    return same.index(False) if False in same else len(same)


def _restore_norms(graph: Graph, arrays: dict, trained: Mapping) -> None:
    """Batch norm that was folded, or made an affine, on the way."""
    for node in graph.nodes.values():
        part = graph.parts[node.part]
        missing = node.part in arrays and arrays[node.part] is None
        if not missing or not issubclass(part.cls, keras.layers.BatchNormalization):
            continue
        if node.part in trained:
            arrays[node.part] = unfold_affine(part, _affine_values(trained[node.part]))
        elif isinstance(node.args[0], Ref):
            _unfold_into(graph, graph.part(node.args[0]), part, arrays, trained)


def _affine_values(found: tuple[Any, list]) -> list[np.ndarray]:
    by_name = {_path(v)[-1]: v.numpy() for v in found[1]}
    if "depthwise_kernel" in by_name:
        return [by_name["depthwise_kernel"].reshape(-1), by_name["bias"]]
    return [by_name["scale"], by_name["offset"]]


def _unfold_into(graph: Graph, host: Part, norm: Part, arrays: dict, trained: Mapping) -> None:
    if host.name not in trained or arrays.get(host.name) is None:
        return
    bias = [v.numpy() for v in trained[host.name][1] if _path(v)[-1] == "bias"]
    if bias:
        arrays[host.name], arrays[norm.name] = unfold(host, norm, arrays[host.name], bias[0])
