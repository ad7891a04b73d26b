"""A Keras 3 config as a live `tf_keras` model, nested as it was; weights come after.

The config is data: classes are looked up by name in `tf_keras`, nothing from it is run. Keras 3
itself is not needed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.frontend.keras3_layers import is_model, live_layer, policy_name
from qat_round.frontend.keras3_operations import names, operation

_OPERATIONS = "keras.src.ops"
_HEAD_MASKS = ("query_mask", "value_mask", "key_mask")
_MODELS = ("Functional", "Sequential", "Model")


@dataclass(frozen=True)
class Home:
    """Where a Keras 3 file keeps a layer's weights.

    Attributes:
        path: path in `model.weights.h5`.
        layer: the `tf_keras` layer.
        outer: name of the outermost model's layer that holds it (or is it).
    """

    path: str
    layer: Any
    outer: str


@dataclass
class Translation:
    """A live model, and where each layer's weights lie in the Keras 3 file.

    Attributes:
        model: the `tf_keras` model.
        homes: where every layer's weights are, in the order of the config.
    """

    model: Any = None
    homes: list[Home] = field(default_factory=list)


def translate(config: Mapping[str, Any], *, safe_mode: bool = True) -> Translation:
    """Makes the `tf_keras` model of a Keras 3 model's config, with fresh weights.

    Args:
        config: {"class_name": "Functional" or "Sequential", "config": {...}}, as in `config.json`.
        safe_mode: whether `Lambda` layers are refused.

    Returns:
        The model and the homes of its layers' weights.

    Raises:
        ValueError: if a layer, operation or argument has no equal in `tf_keras`.
    """
    translation = Translation()
    translator = _Translator(translation.homes, safe_mode)
    translation.model = translator.model(config, "")
    return translation


class _Translator:
    def __init__(self, homes: list[Home], safe_mode: bool):
        self._homes = homes
        self._safe_mode = safe_mode
        self._shared: dict[Any, Any] = {}
        self._outer = ""

    def model(self, entry: Mapping[str, Any], path: str) -> Any:
        config = entry["config"]
        if entry["class_name"] == "Sequential":
            return self._sequential(config, path)
        if entry["class_name"] in _MODELS and "input_layers" in config:
            return self._functional(config, path)
        raise ValueError(
            f"Model '{config.get('name', '?')}' is of class '{entry['class_name']}', a subclass "
            "whose `call` is not in its config. Hand over the model itself instead of its file, "
            "called once on data; if it is part of another model, a Functional one: make "
            "`x = keras.Input(shape=...)` and `keras.Model(x, model.call(x))`."
        )

    def _sequential(self, config: Mapping[str, Any], path: str) -> Any:
        entries = list(config["layers"])
        x = inputs = _sequential_input(entries, config)
        entries = [entry for entry in entries if entry["class_name"] != "InputLayer"]
        for entry, home in zip(entries, _homes(entries, path), strict=True):
            x = self._layer(entry, home)(x)
        return keras.Model(inputs, x, name=config.get("name"))

    def _functional(self, config: Mapping[str, Any], path: str) -> Any:
        entries = config["layers"]
        layered = [entry for entry in entries if not _is_operation(entry)]
        homes = dict(zip(map(_name, layered), _homes(layered, path), strict=True))
        tensors: dict[tuple, Any] = {}
        calls = {}
        for entry in entries:
            name = _name(entry)
            if entry["class_name"] == "InputLayer":
                tensors[name, 0, 0] = _input(entry["config"])
                continue
            made = _operation(entry) if _is_operation(entry) else self._layer(entry, homes[name])
            nodes = enumerate(entry.get("inbound_nodes", []))
            calls.update({(name, index): (made, node) for index, node in nodes})
        _run(calls, tensors)
        nested = {_name(entry) for entry in entries if _kind(entry) == "Functional"}
        # Keras counts the call by which a nested Functional model was made itself, here alone
        aliases = {(n, i + 1, t): tensors[n, i, t] for n, i, t in tensors if n in nested}
        found = tensors | aliases
        ends = [_ends(config[key], found) for key in ("input_layers", "output_layers")]
        return keras.Model(*ends, name=config.get("name"))

    def _layer(self, entry: Mapping[str, Any], home: str) -> Any:
        if home.count("/") == 1:
            self._outer = _name(entry)
        key = entry.get("shared_object_id")
        if key is not None and key in self._shared:
            return self._shared[key]
        if is_model(entry):
            layer = self.model(entry, home)
            if not entry["config"].get("trainable", True):
                layer.trainable = False
        else:
            layer = live_layer(entry, partial(self.model, path=f"{home}/layer"), self._safe_mode)
            self._homes.append(Home(home, layer, self._outer))
        if key is not None:
            self._shared[key] = layer
        return layer


def _name(entry: Mapping[str, Any]) -> str:
    return entry.get("name") or entry["config"]["name"]


def _is_operation(entry: Mapping[str, Any]) -> bool:
    if entry.get("module"):
        return entry["module"].startswith(_OPERATIONS)
    # An `.h5` names no modules: there, only layers have a dtype.
    return "dtype" not in entry["config"] and operation(entry["class_name"]) is not None


def _homes(entries: list, path: str) -> list[str]:
    """Where Keras 3 keeps each layer's weights: by class and count, not by name."""
    counts: dict[str, int] = {}
    homes = []
    for entry in entries:
        word = snake_case(entry["class_name"])
        count = counts.get(word, 0)
        counts[word] = count + 1
        homes.append(f"{path}/layers/{word}_{count}" if count else f"{path}/layers/{word}")
    return [home.lstrip("/") for home in homes]


def snake_case(name: str) -> str:
    """A class name as Keras 3 spells it in its files.

    Example:
        >>> snake_case("Conv2DTranspose")
        'conv2d_transpose'
    """
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _sequential_input(entries: list, config: Mapping[str, Any]) -> Any:
    if entries and entries[0]["class_name"] == "InputLayer":
        return _input(entries[0]["config"])
    shape = config.get("build_input_shape")
    if shape is None:
        raise ValueError(
            f"Sequential model '{config.get('name')}' is not built: its input shape is not known. "
            "Start it with `keras.Input(shape=...)`, or `model.build(input_shape)`, and save again."
        )
    return keras.Input(batch_shape=shape)


def _input(config: Mapping[str, Any]) -> Any:
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    dtype = policy_name(config.get("dtype"), config["name"])
    return keras.Input(batch_shape=shape, dtype=dtype, name=config["name"])


def _operation(entry: Mapping[str, Any]) -> Any:
    fn = operation(entry["class_name"])
    if fn is None:
        raise ValueError(
            f"Operation '{_name(entry)}' (keras.ops, class {entry['class_name']}) has no "
            f"translation. Known are: {', '.join(names())}. Use one of them, or a layer."
        )
    return lambda *args, **kwargs: fn(entry["config"], *args, **kwargs)


def _run(calls: Mapping[tuple, tuple], tensors: dict[tuple, Any]) -> None:
    """Makes every call as soon as its inputs are there."""
    waiting: dict[tuple, list] = {}
    missing = {}
    for key, (_, node) in calls.items():
        wanted = {h for h in _histories(node) if h not in tensors}
        missing[key] = len(wanted)
        for history in wanted:
            waiting.setdefault(history[:2], []).append(key)
    ready = deque(key for key, count in missing.items() if not count)
    while ready:
        key = ready.popleft()
        made, node = calls[key]
        outputs = tf.nest.flatten(_apply(made, node, tensors))
        tensors.update({(*key, i): tensor for i, tensor in enumerate(outputs)})
        for other in waiting.pop(key, []):
            missing[other] -= 1
            if not missing[other]:
                ready.append(other)


def _apply(made: Any, node: Mapping[str, Any], tensors: Mapping) -> Any:
    """One call; a recorded `training` is left out, as Keras 3 overrides it at run time."""
    args = [_live(arg, tensors) for arg in node["args"]]
    kwargs = {key: _live(value, tensors) for key, value in node["kwargs"].items()}
    dropped = {"training", *_HEAD_MASKS, *(["mask"] if _has_mask(args) else [])}
    kwargs = {k: v for k, v in kwargs.items() if v is not None and k not in dropped}
    return made(*args, **kwargs)


def _has_mask(args: list) -> bool:
    """Whether tf_keras passes masks along by itself, where Keras 3 records them as arguments."""
    return any(getattr(x, "_keras_mask", None) is not None for x in tf.nest.flatten(args))


def _kind(value: Any) -> str | None:
    return value.get("class_name") if isinstance(value, Mapping) else None


def _live(value: Any, tensors: Mapping) -> Any:
    """An argument as Keras 3 saves it, as a value."""
    kind = _kind(value)
    if kind == "__keras_tensor__":
        return tensors[tuple(value["config"]["keras_history"])]
    if kind in ("__tensor__", "__numpy__"):
        return np.asarray(value["config"]["value"], value["config"]["dtype"])
    if kind == "__slice__":
        config = value["config"]
        return slice(*(_live(config[key], tensors) for key in ("start", "stop", "step")))
    if kind == "__ellipsis__":
        return Ellipsis
    if isinstance(value, Mapping):
        return {key: _live(item, tensors) for key, item in value.items()}
    return [_live(item, tensors) for item in value] if isinstance(value, list) else value


def _histories(value: Any) -> list[tuple]:
    if _kind(value) == "__keras_tensor__":
        return [tuple(value["config"]["keras_history"])]
    items = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, (Mapping, list)):
        return []
    return [history for item in items for history in _histories(item)]


def _ends(structure: Any, tensors: Mapping) -> Any:
    """The structure of [name, node, tensor] triples with the tensors in their places."""
    if isinstance(structure, Mapping):
        return {key: _ends(value, tensors) for key, value in structure.items()}
    if len(structure) == 3 and isinstance(structure[0], str) and isinstance(structure[1], int):
        return tensors[tuple(structure)]
    return [_ends(value, tensors) for value in structure]
