"""How much memory a file would take by what it declares, looked at before it is read.

A few kilobytes can declare terabytes: an archive of zeros, an HDF5 array that was never written, an
image of one colour.
"""

from __future__ import annotations

import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Sequence
from typing import Any

_FACTOR, _SLACK = 100, 2**28  # weights and pixels hardly shrink; zeros do by 1,000
_LARGEST_TEXT = 2**24  # of JSON, which takes up to 20 times as much when it is read
_MOST_PIXELS, _MOST_VALUES = 2**27, 2**30


def check_sizes(path: str | os.PathLike[str]) -> None:
    """Refuses a `.keras`, `.npz` or `.h5` file that declares far more than it can hold.

    Args:
        path: the file; a folder, or a file of another kind, passes.

    Raises:
        ValueError: if it declares more than 100 times its own size and 256 MB, or a JSON text of
            more than 16 MB.
        zipfile.BadZipFile, OSError: for a damaged file.
    """
    if pathlib.Path(path).is_dir():
        return
    if zipfile.is_zipfile(path):
        _check_archive(path)
    elif _is_hdf5(path):
        _check(path, _in_hdf5(path))


def _check_archive(path: str | os.PathLike[str]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check(path, sum(member.file_size for member in members))
        for member in members:
            if member.filename.endswith(".json") and member.file_size > _LARGEST_TEXT:
                raise ValueError(
                    f"{str(path)!r} holds {member.filename!r} of {member.file_size:,} bytes; no "
                    f"model is described by more than {_LARGEST_TEXT:,}."
                )
            if member.filename.endswith(".h5"):
                with archive.open(member) as inside:
                    _check(path, _in_hdf5(inside))


def _check(path: str | os.PathLike[str], declared: int) -> None:
    size = os.path.getsize(path)
    if declared > _FACTOR * size + _SLACK:
        raise ValueError(
            f"{str(path)!r} has {size:,} bytes and declares {declared:,}, more than "
            f"{_FACTOR} times as many: it is damaged, or made to fill the memory. If it is yours, "
            "write it without compression (numpy.savez)."
        )


def _is_hdf5(path: str | os.PathLike[str]) -> bool:
    import h5py

    return bool(h5py.is_hdf5(path))


def _in_hdf5(file: Any) -> int:
    """Bytes of all arrays by their shapes."""
    import h5py

    sizes = []

    def add(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            sizes.append(int(found.size or 0) * found.dtype.itemsize)

    with h5py.File(file, "r") as opened:
        opened.visititems(add)
    return sum(sizes)


def check_values(name: str, shape: Sequence[int]) -> None:
    """Refuses a tensor of a `.tflite` of more than 2^30 values: none can be part of a file.

    Raises:
        ValueError: if it has more.
    """
    values = math.prod(max(int(n), 1) for n in shape)
    if values > _MOST_VALUES:
        raise ValueError(f"the tensor {name!r} declares {values:,} values, of shape {list(shape)}")


def check_image(content: bytes) -> None:
    """Refuses a PNG, GIF, BMP or JPEG image of more than 2^27 pixels by its header.

    Raises:
        ValueError: if it is larger.
        struct.error: if the header is cut off.
    """
    width, height = declared_shape(content)
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"an image of {width} x {height} pixels; at most {_MOST_PIXELS:,} are read"
        )


def declared_shape(content: bytes) -> tuple[int, int]:
    """(width, height); (0, 0) of a format that is not known."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pair(">II", content[16:24])
    if content.startswith(b"GIF"):
        return _pair("<HH", content[6:10])
    if content.startswith(b"BM"):
        return _pair("<ii", content[18:26])
    if content.startswith(b"\xff\xd8"):
        from qat_round._compat import tf

        height, width, *_ = tf.io.extract_jpeg_shape(content).numpy()
        return int(width), int(height)
    return 0, 0


def _pair(layout: str, content: bytes) -> tuple[int, int]:
    width, height = struct.unpack(layout, content)
    return abs(width), abs(height)
