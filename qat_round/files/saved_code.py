"""Looks through a saved model's config for Python code, before Keras makes anything of it.

Keras's safe mode refuses lambdas, which are byte code. But a config may also name any function of
any module, `os.system` too: Keras imports the module, and a `Lambda` layer calls the function. And
it may name any public function of TensorFlow, `tf.io.gfile.rmtree` too, which a recorded operator
calls while the model is made.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qat_round._compat import keras

_OWN = ("keras", "tf_keras")
_FUNCTIONS = (keras.activations, keras.initializers, keras.losses, keras.metrics)
_KINDS = (
    keras.layers.Layer,
    keras.losses.Loss,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
    keras.optimizers.Optimizer,
)
_PARTS = """
math nn linalg strings image signal sparse bitwise ragged random sets quantization dtypes
keras.backend keras.activations keras.ops __operators__ __internal__.ragged
"""
_SAFE_PARTS = frozenset(_PARTS.split())
"""Parts of TensorFlow whose functions compute, and touch neither files nor processes."""
_UNSAFE = frozenset(
    ("load_library", "load_op_library", "py_function", "numpy_function", "py_func", "print")
)
_ADVICE = (
    "Register it with @tf_keras.utils.register_keras_serializable() before, or pass "
    "safe_mode=False if you trust where the file comes from."
)


def refuse_code(path: Path, custom_objects: Mapping[str, Any] | None = None) -> None:
    """Raises a ValueError if a file's config holds a lambda, or names what is not registered.

    Args:
        path: a `.keras` or HDF5 file; all else is left to its reader.
        custom_objects: what is known for this file, beside what is registered.

    Raises:
        ValueError: that names the function, class or layer.
    """
    for config in _configs(path):
        for entry in _entries(config):
            _refuse_lambda(entry, custom_objects)
            _refuse_import(entry, custom_objects)
            _refuse_operator(entry)


def _configs(path: Path) -> list[Any]:
    """The config of the model and of its training, as plain data."""
    import h5py

    found = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found += [archive.read(name) for name in archive.namelist() if name == "config.json"]
    if path.is_file() and h5py.is_hdf5(path):  # it may be both
        with h5py.File(path, "r") as file:
            found += [file.attrs.get(key) for key in ("model_config", "training_config")]
    return [json.loads(text) for text in found if text]


def _entries(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every table in a config that describes an object."""
    left = [config]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            left.extend(part.values())
            if "class_name" in part:
                yield part
        elif isinstance(part, list):
            left.extend(part)


def _refuse_lambda(entry: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> None:
    config = entry.get("config")
    config = config if isinstance(config, Mapping) else {}
    kinds = [value for key, value in config.items() if key.endswith("_type")]
    if entry["class_name"] == "__lambda__" or "lambda" in kinds:
        raise ValueError(
            f"{_shown(entry)} holds a Python lambda, which is not run from a file. Replace it by a "
            "layer, or pass safe_mode=False if you trust where the file comes from."
        )
    named = config.get("function")
    if entry["class_name"] == "Lambda" and not _is_registered(_name(named), custom_objects):
        raise ValueError(f"{_shown(entry)} calls the function {_name(named)!r}. {_ADVICE}")


def _refuse_import(entry: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> None:
    module, name = entry.get("module"), _name(entry)
    is_function = entry["class_name"] == "function"
    known = name if is_function else entry.get("registered_name", entry["class_name"])
    if not module or _is_registered(known, custom_objects):
        return
    if not (_is_function_of_keras(name) if is_function else _is_loaded_class(module, name)):
        raise ValueError(
            f"{_shown(entry)} is {name!r} of the module {module!r}, which is not imported for a "
            f"file. {_ADVICE}"
        )


def _refuse_operator(entry: Mapping[str, Any]) -> None:
    """Refuses an operator of TensorFlow that does more than compute."""
    config = entry.get("config")
    if entry["class_name"] not in ("TFOpLambda", "ClassMethod") or not isinstance(config, Mapping):
        return
    symbol = str(config.get("function", config.get("cls_symbol")))
    part, _, name = symbol.removeprefix("compat.v1.").rpartition(".")
    if name in _UNSAFE or (
        part and part not in _SAFE_PARTS and part.split(".")[0] not in _SAFE_PARTS
    ):
        raise ValueError(
            f"{_shown(entry)} calls tf.{symbol}, which may do more than compute. Pass "
            "safe_mode=False if you trust where the file comes from."
        )


def _is_function_of_keras(name: str) -> bool:
    return any(hasattr(home, name) for home in _FUNCTIONS)


def _is_loaded_class(module: Any, name: str) -> bool:
    """Whether it is a class of Keras, or one of the program's own that is made for Keras.

    Nothing is imported to find out: the module has to be loaded.
    """
    root, *rest = str(module).split(".")
    if root in _OWN:
        home = sys.modules.get(".".join(("tf_keras", *rest)))
        return isinstance(getattr(home, name, None), type)
    found = getattr(sys.modules.get(str(module)), name, None)
    return isinstance(found, type) and issubclass(found, _KINDS)


def _is_registered(name: Any, custom_objects: Mapping[str, Any] | None) -> bool:
    if not isinstance(name, str):
        return False
    return keras.utils.get_registered_object(name, dict(custom_objects or {})) is not None


def _name(entry: Any) -> str:
    """The name of the class or function that an entry asks for."""
    if not isinstance(entry, Mapping):
        return str(entry)
    if entry.get("class_name") == "function" and isinstance(entry.get("config"), str):
        return str(entry["config"])
    return str(entry.get("spec_name", entry.get("class_name")))


def _shown(entry: Mapping[str, Any]) -> str:
    config = entry.get("config")
    named = config.get("name") if isinstance(config, Mapping) else None
    return f"{entry['class_name']} {named!r}" if named else f"{entry['class_name']} in the file"
