"""Files and Keras 3 objects as live `tf_keras` models; nothing in a file is run."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat_round._compat import is_keras3, keras, loading, tf
from qat_round.files.saved_code import refuse_code
from qat_round.files.size_limits import check_sizes
from qat_round.frontend.keras3 import Translation, translate
from qat_round.frontend.keras3_trace import functional
from qat_round.frontend.keras3_weights import LegacyWeights, WeightFile, load_weights

_KINDS = "a `.keras` file, an `.h5` file, or a SavedModel folder written by tf_keras"


class ReferenceMissingError(Exception):
    """The original cannot be run here, so that nothing can be compared with it."""


@dataclass(frozen=True)
class Source:
    """A live `tf_keras` model and a way to run what it came from.

    Attributes:
        model: the `tf_keras` model, perhaps nested or subclassed.
        reference: runs the original on a structure of tensors; raises `ReferenceMissingError` where
            Keras 3 cannot load the file.
    """

    model: Any
    reference: Callable[[Any], Any]


def open_model(model: Any, *, safe_mode: bool = True) -> Source:
    """Finds out what it is and makes it a `tf_keras` model.

    Args:
        model: a `tf_keras` or Keras 3 model, or the path of a saved one.
        safe_mode: whether `Lambda` layers from files and configs are refused.

    Returns:
        The live model and its reference.

    Raises:
        TypeError: if it is neither a model nor a path.
        ValueError: if it is a path of something else than a Keras model.
    """
    if isinstance(model, (str, os.PathLike)):
        return _open_path(Path(model), safe_mode)
    if is_keras3(model):
        return Source(translate_object(model, safe_mode).model, _keras3_reference(model))
    if isinstance(model, keras.Model):
        return Source(model, lambda inputs: model(inputs, training=False))
    raise TypeError(
        f"Cannot take in a {type(model).__name__}; give a tf_keras or Keras 3 model, or the path "
        f"of {_KINDS}."
    )


def translate_object(model: Any, safe_mode: bool) -> Translation:
    """A Keras 3 object through its config and its weights file, whatever its backend."""
    if not getattr(model, "built", True) or not hasattr(model, "get_config"):
        raise ValueError(_unbuilt(model))
    with functional(model) as graph, tempfile.TemporaryDirectory() as folder:
        translation = translate(_config(graph), safe_mode=safe_mode)
        path = Path(folder) / "model.weights.h5"
        graph.save_weights(path)
        _load_weights(translation, path)
    return translation


def _unbuilt(model: Any) -> str:
    return (
        f"Model '{model.name}' is not built: its input shape is not known. Start it with "
        "`keras.Input(shape=...)`, or call `model.build(input_shape)`."
    )


def _config(model: Any) -> dict[str, Any]:
    try:
        return json.loads(model.to_json())
    except Exception as error:
        raise ValueError(
            f"Keras 3 model '{model.name}' has no config that can be read: {error}. Every layer "
            "needs get_config(); hand over a Functional or Sequential model."
        ) from error


def _load_weights(translation: Translation, path: Path) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        load_weights(translation.homes, WeightFile(file))


def _keras3_reference(model: Any) -> Callable[[Any], Any]:
    def run(inputs: Any) -> Any:
        arrays = tf.nest.map_structure(lambda tensor: tensor.numpy(), inputs)
        if isinstance(getattr(model, "input", None), list) and not isinstance(arrays, list):
            arrays = [arrays]
        outputs = model(arrays, training=False)
        return tf.nest.map_structure(_array, outputs)

    return run


def _array(tensor: Any) -> Any:
    import keras as keras3

    return keras3.ops.convert_to_numpy(tensor)


def _open_path(path: Path, safe_mode: bool) -> Source:
    if not path.exists():
        raise ValueError(f"There is no file or folder '{path}'. Give the path of {_KINDS}.")
    try:
        return _open_existing(path, safe_mode)
    except (ValueError, TypeError, OSError):
        raise
    except Exception as error:  # whatever the readers of zip, JSON and HDF5 make of damage
        raise ValueError(f"'{path}' is damaged, or no Keras model: {error}") from error


def _open_existing(path: Path, safe_mode: bool) -> Source:
    if path.is_dir():
        return _open_folder(path, safe_mode)
    check_sizes(path)
    if zipfile.is_zipfile(path):
        return _open_archive(path, safe_mode)
    if _is_hdf5(path):
        return _open_hdf5(path, safe_mode)
    raise ValueError(f"'{path}' is not a Keras model. Give the path of {_KINDS}.")


def _is_hdf5(path: Path) -> bool:
    import h5py

    return h5py.is_hdf5(path)


def _open_folder(path: Path, safe_mode: bool) -> Source:
    if not (path / "saved_model.pb").exists():
        raise ValueError(f"Folder '{path}' holds no SavedModel. Give the path of {_KINDS}.")
    if not (path / "keras_metadata.pb").exists():
        raise ValueError(
            f"SavedModel '{path}' holds no Keras layers, only a graph (written by `export`, or not "
            "by Keras). Its layers cannot be found again: save the model as `.keras` instead."
        )
    with loading(safe_mode):
        return _same(keras.models.load_model(path, compile=False))


def _same(model: Any) -> Source:
    return Source(model, lambda inputs: model(inputs, training=False))


def _open_archive(path: Path, safe_mode: bool) -> Source:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if not {"config.json", "metadata.json", "model.weights.h5"} <= names:
            raise ValueError(f"'{path}' is an archive, but not of a Keras model. Give {_KINDS}.")
        version = json.loads(archive.read("metadata.json")).get("keras_version", "3")
        if version.startswith("2."):
            return _same(_tf_keras_file(path, safe_mode))
        translation = translate(json.loads(archive.read("config.json")), safe_mode=safe_mode)
        with tempfile.TemporaryDirectory() as folder:
            _load_weights(translation, Path(archive.extract("model.weights.h5", folder)))
    return Source(translation.model, _file_reference(path, safe_mode))


def _tf_keras_file(path: Path, safe_mode: bool) -> Any:
    try:
        with loading(safe_mode):
            if safe_mode:
                refuse_code(path)
            return keras.models.load_model(path, compile=False, safe_mode=safe_mode)
    except Exception as error:
        raise ValueError(
            f"tf_keras cannot load '{path}': {error} If it holds classes of yours, register them "
            "with @tf_keras.utils.register_keras_serializable() before; a Lambda layer needs "
            "safe_mode=False."
        ) from error


def _open_hdf5(path: Path, safe_mode: bool) -> Source:
    import h5py

    with h5py.File(path, "r") as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "3")
        if config is None:
            raise ValueError(
                f"'{path}' holds weights but no model config. Save the whole model with "
                "`model.save('name.keras')`, not `model.save_weights(...)`."
            )
        if str(version).startswith("2."):
            return _same(_tf_keras_file(path, safe_mode))
        translation = translate(json.loads(config), safe_mode=safe_mode)
        load_weights(translation.homes, LegacyWeights(file["model_weights"]))
    return Source(translation.model, _file_reference(path, safe_mode))


def _file_reference(path: Path, safe_mode: bool) -> Callable[[Any], Any]:
    """Runs the file in Keras 3; by now its config is known to hold nothing but known layers."""

    def run(inputs: Any) -> Any:
        return _keras3_reference(_load_in_keras3(path, safe_mode))(inputs)

    return run


def _load_in_keras3(path: Path, safe_mode: bool) -> Any:
    try:
        import keras as keras3

        return keras3.saving.load_model(path, compile=False, safe_mode=safe_mode)
    except Exception as error:
        raise ReferenceMissingError(f"Keras 3 cannot load '{path}': {error}") from error
