"""Where Keras 3 keeps weights in its files, and which `tf_keras` variables they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.keras3 import Home, snake_case

_HEADS = ("query_dense", "key_dense", "value_dense", "output_dense")


def leaves(path: str, layer: Any) -> Iterator[tuple[str, list]]:
    """The layers inside a layer that own variables.

    Args:
        path: path of the layer in a Keras 3 weights file.
        layer: the `tf_keras` layer, built.

    Yields:
        (path of the inner layer in the file, its variables).
    """
    inside = list(_inside(layer))
    for attribute, inner in inside:
        yield from leaves(f"{path}/{attribute}", inner)
    if not inside and layer.weights and not _holds_model(layer):
        yield path, layer.weights


def _holds_model(layer: Any) -> bool:
    """Whether it wraps a model, whose layers have homes of their own."""
    return isinstance(layer, keras.layers.Wrapper) and isinstance(layer.layer, keras.Model)


def _inside(layer: Any) -> Iterable[tuple[str, Any]]:
    kinds = keras.layers
    if isinstance(layer, kinds.Bidirectional):
        return [("forward_layer", layer.forward_layer), ("backward_layer", layer.backward_layer)]
    if isinstance(layer, kinds.MultiHeadAttention):
        return [(head, getattr(layer, f"_{head}")) for head in _HEADS]
    if isinstance(layer, kinds.StackedRNNCells):
        words = [snake_case(type(cell).__name__) for cell in layer.cells]
        counts = [words[:i].count(word) for i, word in enumerate(words)]
        homes = [f"{w}_{n}" if n else w for w, n in zip(words, counts, strict=True)]
        return [(f"cells/{h}", cell) for h, cell in zip(homes, layer.cells, strict=True)]
    if isinstance(layer, kinds.RNN):
        return [("cell", layer.cell)]
    if isinstance(layer, kinds.Wrapper) and not _holds_model(layer):
        return [("layer", layer.layer)]
    return []


class WeightFile:
    """The `model.weights.h5` of a `.keras` archive, or of `model.save_weights`."""

    def __init__(self, file: Any):
        self._file = file

    def pairs(self, home: Home) -> Iterator[tuple[list, list[np.ndarray]]]:
        """Variables and arrays of each layer at a home."""
        for path, variables in leaves(home.path, home.layer):
            yield variables, [np.asarray(dataset) for dataset in self._datasets(path)]

    def replace(self, home: Home) -> None:
        """Overwrites what lies at a home with the layer's weights."""
        for path, variables in leaves(home.path, home.layer):
            for dataset, variable in zip(self._datasets(path), variables, strict=False):
                dataset[...] = variable.numpy()

    def _datasets(self, path: str) -> list[Any]:
        group = self._file.get(f"{path}/vars", {})
        return [group[key] for key in sorted(group, key=int)]


class LegacyWeights:
    """The `model_weights` group of an `.h5` file: flat lists of named arrays per outer layer."""

    def __init__(self, group: Any):
        self._group = group

    def pairs(self, home: Home) -> Iterator[tuple[list, list[np.ndarray]]]:
        """Variables and arrays of each layer at a home."""
        arrays = self._named(home)
        for _, variables in leaves(home.path, home.layer):
            yield variables, arrays[: len(variables)]
            arrays = arrays[len(variables) :]

    def _named(self, home: Home) -> list[np.ndarray]:
        """The arrays of a layer, found by its name in their paths."""
        group = self._group.get(home.outer, None)
        paths = [_text(name) for name in group.attrs["weight_names"]] if group is not None else []
        paths = [path for path in paths if home.layer.name in path.split("/")[:-1]]
        return [np.asarray(group[path]) for path in paths if "seed_generator" not in path]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def load_weights(homes: Iterable[Home], source: WeightFile | LegacyWeights) -> None:
    """Gives every layer its weights.

    Args:
        homes: the layers, built, and their places.
        source: the file.

    Raises:
        ValueError: if the file lacks a layer's weights or has them in another shape.
    """
    pairs: list[tuple] = []
    for home in homes:
        for variables, arrays in source.pairs(home):
            arrays = _with_count(arrays, variables)
            _check(home, arrays, variables)
            pairs.extend(zip(variables, arrays, strict=True))
    keras.backend.batch_set_value(pairs)
    for home in homes:
        if isinstance(home.layer, keras.layers.Normalization):
            home.layer.finalize_state()


def _with_count(arrays: list[np.ndarray], variables: Any) -> list[np.ndarray]:
    """`Normalization` of `tf_keras` also counts what it has seen."""
    if len(variables) == len(arrays) + 1 and variables[-1].name.startswith("count"):
        return [*arrays, np.zeros((), variables[-1].dtype.as_numpy_dtype)]
    return arrays


def _check(home: Home, arrays: Any, variables: Any) -> None:
    found = [tuple(array.shape) for array in arrays]
    wanted = [tuple(variable.shape) for variable in variables]
    if found != wanted:
        raise ValueError(
            f"The weights of layer '{home.layer.name}' at '{home.path}' in the file have shapes "
            f"{found}; the layer needs {wanted}. The file is not complete, or was written by "
            "another version of Keras in another layout: load it with Keras 3 and hand over the "
            "model object."
        )
