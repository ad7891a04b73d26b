"""Files made to do harm: archives, arrays and images that grow to gigabytes, names that climb."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

BOMB = 3 << 30  # bytes; more than a reader may take
_BLOCK = 1 << 20
_DEFLATED = 8


def _zeros(count: int, head: bytes = b"") -> bytes:
    """`head` and then zeros, deflated; as quick as the result is short, not the zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begun = packer.compress(head + bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    return begun + block * (count // _BLOCK) + packer.flush()


def hostile_zip(data: bytes, draws: random.Random) -> bytes:
    """The archive, one member of which is there again under a name that climbs out, or grows."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        chosen = draws.choice(old.namelist())
    if draws.random() < 0.5:
        return bomb(data, chosen)
    return climbing(data, chosen, draws.choice(["../../climbed", "/tmp/fuzz_climbed"]))


def bomb(data: bytes, chosen: str) -> bytes:
    """The archive with a member that grows to gigabytes; a few megabytes itself."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", 8) as new:
        for name in old.namelist():
            content = old.read(name)
            if name != chosen:
                new.writestr(name, content)
                continue
            head = content[:200]
            new.writestr(name, _zeros(BOMB, head), zipfile.ZIP_STORED)
            entry = new.filelist[-1]  # what the archive's directory will say of it
            entry.compress_type, entry.file_size = _DEFLATED, BOMB + _BLOCK + len(head)
    return out.getvalue()


def changed(data: bytes, chosen: str, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with another content of one member, packed anew, its checksum right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", 8) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name == chosen and content else content)
    return out.getvalue()


def climbing(data: bytes, chosen: str, target: str) -> bytes:
    """The archive with a member that is there again under another path."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a", 8) as archive:
        archive.writestr(target, archive.read(chosen))
    return out.getvalue()


def hostile_hdf5(data: bytes, draws: random.Random) -> bytes:
    """One of the arrays is declared with 2^34 values, none of them written."""
    import h5py

    out = io.BytesIO(data)
    with h5py.File(out, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, x: names.append(name) if isinstance(x, h5py.Dataset) else None)
        name = draws.choice(sorted(names))
        del file[name]
        file.create_dataset(name, (2**34,), "float32", chunks=(1024,))
    return out.getvalue()


def hostile_png(data: bytes, draws: random.Random) -> bytes:
    """A grey image of 2^16 x 2^16 pixels, whole but for its checksum."""
    side = 1 << draws.randint(15, 16)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = b"\x78\x9c" + _zeros((side + 1) * side)
    return data[:8] + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(word: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + word + body + struct.pack(">I", zlib.crc32(word + body))


def hostile_npy(data: bytes, draws: random.Random) -> bytes:
    """A header that declares more values than there are, and a few terabytes of them."""
    count = draws.choice([10**6, 10**9, 10**12])
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 4), }}".encode()
    return data[:8] + struct.pack("<H", len(text) + 1) + text + b"\n" + data[-512:]
