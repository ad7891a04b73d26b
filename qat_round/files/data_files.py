"""Data for the command line: `.npz`, `.npy`, a folder of images, or `module:function`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qat_round._validate import nearest
from qat_round.files.size_limits import check_image, check_sizes

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_INPUT_KEYS = ("x", "inputs", "x_train", "x_test")
_LABEL_KEYS = ("y", "labels", "y_train", "y_test")
_SHOWN = 5  # broken images that are named
SCALE = 1.0 / 255.0
"""What pixels of image folders are multiplied by unless something else is asked for."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Samples, as a model takes them.

    Args:
        inputs: one array, or a dict of arrays by input name.
        labels: one for each sample, or None.
        classes: names of the classes, of an image folder; else empty.
        hash: sha256 of all that was read, in hex.
    """

    inputs: Any
    labels: np.ndarray | None
    classes: tuple[str, ...]
    hash: str

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(next(iter(_named(self.inputs).values())))

    def part(self, start: int, stop: int | None = None) -> Data:
        """Some of the samples."""
        inputs = {name: array[start:stop] for name, array in _named(self.inputs).items()}
        labels = None if self.labels is None else self.labels[start:stop]
        return dataclasses.replace(self, inputs=_as_given(inputs), labels=labels)

    def taken(self, order: np.ndarray) -> Data:
        """The samples in another order."""
        inputs = {name: array[order] for name, array in _named(self.inputs).items()}
        labels = None if self.labels is None else self.labels[order]
        return dataclasses.replace(self, inputs=_as_given(inputs), labels=labels)


def read_data(
    source: str | os.PathLike[str],
    inputs: str | None = None,
    labels: str | None = None,
    shape: Sequence[int | None] | None = None,
    input_names: Sequence[str] = (),
    scale: float = SCALE,
    offset: float = 0.0,
) -> Data:
    """Reads samples, and labels if there are any.

    Args:
        source: path of an `.npz` or `.npy` file or of a folder of images (one folder inside for
            each class, or images alone, which then have no labels), or "module:function", which is
            called without arguments and gives inputs or (inputs, labels).
        inputs, labels: the names of the arrays in an `.npz`; found by themselves if they are called
            "x" or "inputs", "y" or "labels". `labels` may be the path of an `.npy` file.
        shape: of one image (height, width, channels).
        input_names: the model's inputs; an `.npz` that has an array for each needs no `inputs`.
        scale, offset: what a folder's pixels, 0 to 255, become: pixel * scale + offset. 0..1 as it
            is; 1 / 127.5 and -1 give -1..1.

    Returns:
        A Data.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: for a file that cannot be read, a missing array, broken images (each named), or
            a scale or offset for what is no folder of images.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "digits.npz")
        >>> np.savez(path, x=np.zeros((4, 8)), y=np.arange(4))
        >>> data = read_data(path)
        >>> data.inputs.shape, data.labels.tolist()
        ((4, 8), [0, 1, 2, 3])
    """
    path = pathlib.Path(source)
    if not path.is_dir() and (scale, offset) != (SCALE, 0.0):
        raise ValueError(
            f"data: scale and offset are for a folder of images, and {str(source)!r} is none; "
            "leave them out, and give the numbers as the model takes them."
        )
    if path.is_dir():
        data = _folder(path, shape, scale, offset)
    elif not path.exists() and ":" in str(source) and not _looks_like_path(str(source)):
        data = _called(str(source))
    elif not path.exists():
        raise FileNotFoundError(f"data: there is no file or folder {str(source)!r}.")
    elif path.suffix == ".npz":
        data = _npz(path, inputs, labels, input_names)
    elif path.suffix == ".npy":
        data = Data(_npy(path), None, (), _hash(path))
    else:
        raise ValueError(
            f"data: {str(source)!r} is no .npz, no .npy, no folder of images and no "
            "module:function; give one of these."
        )
    if data.labels is None and labels is not None and labels.endswith(".npy"):
        data = dataclasses.replace(data, labels=_npy(pathlib.Path(labels)))
    return _checked(data, str(source))


def _looks_like_path(source: str) -> bool:
    return "/" in source or "\\" in source or source.endswith((".npz", ".npy"))


def _checked(data: Data, source: str) -> Data:
    counts = {name: len(array) for name, array in _named(data.inputs).items() if array.ndim}
    if data.labels is not None:
        counts["labels"] = len(data.labels)
    if len(set(counts.values())) > 1:
        raise ValueError(f"data: {source!r} has different numbers of samples: {counts}.")
    if not counts or not min(counts.values()):
        raise ValueError(f"data: {source!r} holds no samples.")
    return data


def _npz(
    path: pathlib.Path, inputs: str | None, labels: str | None, input_names: Sequence[str]
) -> Data:
    try:
        check_sizes(path)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: _array(file, name) for name in file.files}
    except Exception as error:  # whatever NumPy and zipfile make of damage
        raise ValueError(f"data: {str(path)!r} is no whole .npz file: {error}") from error
    digest = _hash(path)
    label_key = None if labels and labels.endswith(".npy") else labels
    found = _pick(arrays, label_key, _LABEL_KEYS, path, needed=label_key is not None)
    if inputs is None and input_names and all(name in arrays for name in input_names):
        return Data(_as_given({name: arrays[name] for name in input_names}), found, (), digest)
    return Data(_pick(arrays, inputs, _INPUT_KEYS, path, needed=True), found, (), digest)


def _array(file: Any, name: str) -> np.ndarray:
    """A member of an `.npz`; NumPy gives plain bytes of one that is no array."""
    found = file[name]
    if not isinstance(found, np.ndarray):
        raise ValueError(f"its member {name!r} is no array")
    return found


def _pick(
    arrays: Mapping[str, np.ndarray],
    key: str | None,
    guesses: Sequence[str],
    path: pathlib.Path,
    needed: bool,
) -> Any:
    found = next((k for k in ([key] if key else guesses) if k in arrays), None)
    if found is not None:
        return arrays[found]
    if not needed:
        return None
    wanted = repr(key) if key else f"any of {list(guesses)}"
    raise ValueError(
        f"data: {str(path)!r} has no array {wanted}; it has {list(arrays)}."
        f"{nearest(key or guesses[0], list(arrays))} Name it with --inputs or --labels."
    )


def _npy(path: pathlib.Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"data: there is no file {str(path)!r}.")
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # whatever NumPy and zipfile make of damage
        raise ValueError(f"data: {str(path)!r} is no whole .npy file: {error}") from error


def _called(source: str) -> Data:
    module_name, _, name = source.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ValueError(f"data: {source!r}: the module cannot be imported: {error}.") from error
    except AttributeError:
        raise ValueError(f"data: the module {module_name!r} has no function {name!r}.") from None
    given = function()
    pair = isinstance(given, tuple) and len(given) == 2
    inputs, labels = given if pair else (given, None)
    named = {key: np.asarray(value) for key, value in _named(inputs).items()}
    labels = None if labels is None else np.asarray(labels)
    digest = hashlib.sha256()
    for array in [*named.values(), *([] if labels is None else [labels])]:
        digest.update(str((array.dtype, array.shape)).encode() + np.ascontiguousarray(array).data)
    return Data(_as_given(named), labels, (), digest.hexdigest())


def _folder(
    folder: pathlib.Path, shape: Sequence[int | None] | None, scale: float, offset: float
) -> Data:
    if shape is None or len(shape) != 3 or not all(shape):
        raise ValueError(
            f"data: the images in {str(folder)!r} cannot be used: the model's input is of shape "
            f"{shape}, not (height, width, channels)."
        )
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not _hidden(p))
    groups = [folder / name for name in classes] or [folder]
    paths = [(p, i) for i, group in enumerate(groups) for p in sorted(group.iterdir())]
    paths = [(p, i) for p, i in paths if p.suffix.lower() in IMAGES and not _hidden(p)]
    if not paths:
        raise ValueError(f"data: {str(folder)!r} holds no images ({', '.join(IMAGES)}).")
    images = _images([p for p, _ in paths], [int(n or 0) for n in shape])
    images *= scale
    images += offset
    labels = np.array([i for _, i in paths]) if classes else None
    told = "".join(f"{p}{_hash(p)}" for p, _ in paths)
    told += "" if (scale, offset) == (SCALE, 0.0) else f"{scale} {offset}"
    digest = hashlib.sha256(told.encode()).hexdigest()
    return Data(images, labels, tuple(classes), digest)


def _hidden(path: pathlib.Path) -> bool:
    return path.name.startswith(".")


def _images(paths: Sequence[pathlib.Path], shape: Sequence[int]) -> np.ndarray:
    images, broken = [], {}
    for path in paths:
        try:
            images.append(_image(path, shape))
        except Exception as error:  # whatever the decoder makes of a broken file
            broken[path] = str(error).splitlines()[0]
    if broken:
        named = ", ".join(map(str, list(broken)[:_SHOWN]))
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise ValueError(
            f"data: {len(broken)} of {len(paths)} images cannot be read: {named}{more} "
            f"({next(iter(broken.values()))}). Mend or remove them."
        )
    return np.stack(images)


def _image(path: pathlib.Path, shape: Sequence[int]) -> np.ndarray:
    """Pixels in 0..255, resized."""
    from qat_round._compat import tf

    content = path.read_bytes()
    check_image(content)
    pixels = tf.io.decode_image(content, channels=shape[2], expand_animations=False)
    return np.asarray(tf.image.resize(pixels, shape[:2]), np.float32)


def file_hash(path: str | os.PathLike[str]) -> str:
    """sha256 of a file, or of all files of a folder, in hex."""
    path = pathlib.Path(path)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        return hashlib.sha256("".join(_hash(p) for p in inside).encode()).hexdigest()
    return _hash(path)


def _hash(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _named(inputs: Any) -> dict[str, Any]:
    return dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}


def _as_given(named: dict[str, Any]) -> Any:
    return next(iter(named.values())) if len(named) == 1 else named
