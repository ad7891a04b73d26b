"""TFLite metadata: what a file says of itself, for people and for code generators.

It is a flatbuffer of its own (identifier M001) in a buffer of the model, under the name
"TFLITE_METADATA"; Android's tools and MediaPipe read it. Positions of the fields are those of
metadata_schema.fbs in tflite-support 0.4.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from qat_round._compat import read_flatbuffer, tflite_schema, write_flatbuffer
from qat_round._validate import nearest
from qat_round.files.atomic_write import check_writable, write_file
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile, damaged, read_bytes

_ENTRY, _IDENTIFIER = "TFLITE_METADATA", b"M001"
_TEXTS = {"name": 0, "description": 1, "version": 2, "author": 4, "license": 5}
_GRAPHS, _INPUTS, _OUTPUTS, _PARSER = 3, 2, 3, 7
_MODEL_FIELDS, _GRAPH_FIELDS, _TENSOR_FIELDS = 8, 9, 7


def add_metadata(
    tflite: bytes | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    name: str,
    description: str = "",
    version: str = "",
    author: str = "",
    license: str = "",  # noqa: A002 : the schema's own word
    tensors: Mapping[str, str] | None = None,
) -> bytes:
    """Puts TFLite metadata into a file; what was there is replaced.

    The file computes as before and grows by what is said. Inputs and outputs get the names of the
    file's signature.

    Args:
        tflite: the file's bytes, or its path.
        path: where to write it as well.
        name, description, version, author, license: of the model.
        tensors: {name of an input or output: what it is}.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: for a damaged file, or a tensor that is no input and no output.
        OSError: if the path cannot be written.
    """
    if path is not None:
        check_writable(path)
    runner = Runner(TFLiteFile(tflite))
    said = dict(tensors or {})
    _check_names(said, [*runner.inputs, *runner.outputs])
    texts = {
        "name": name,
        "description": description,
        "version": version,
        "author": author,
        "license": license,
    }
    sides = [
        [(end, said.get(end, "")) for end in _in_file_order(runner, which)]
        for which in ("inputs", "outputs")
    ]
    content = _with_entry(read_bytes(tflite), _written(texts, *sides))
    if path is not None:
        write_file(path, content)
    return content


def read_metadata(tflite: bytes | str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of itself: {"name", "description", ..., "tensors"}; empty if nothing.

    Args:
        tflite: the file's bytes, or its path.

    Raises:
        ValueError: for a damaged file.
    """
    content = TFLiteFile(tflite).content
    model = read_flatbuffer(content)
    with damaged(content):
        for entry in model.metadata or ():
            if _text(entry.name) == _ENTRY:
                return _read(bytes(np.asarray(model.buffers[entry.buffer].data, np.uint8)))
    return {}


def _check_names(given: Mapping[str, str], known: list[str]) -> None:
    wrong = [name for name in given if name not in known]
    if wrong:
        raise ValueError(
            f"add_metadata: {wrong[0]!r} is no input and no output of the file; it has {known}."
            f"{nearest(wrong[0], known)}"
        )


def _in_file_order(runner: Runner, which: str) -> list[str]:
    """Names of the signature in the order of the file's own list, which metadata follow."""
    details, order = getattr(runner, which), runner.end_indices(which)
    return sorted(details, key=lambda name: order.index(details[name]["index"]))


def _with_entry(tflite: bytes, metadata: bytes) -> bytes:
    schema, model = tflite_schema(), read_flatbuffer(tflite)
    kept = [entry for entry in model.metadata or () if _text(entry.name) != _ENTRY]
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    entry.name, entry.buffer = _ENTRY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*kept, entry]
    return write_flatbuffer(model)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


Tensors = list[tuple[str, str]]
"""Name and description of each."""


def _written(texts: Mapping[str, str], inputs: Tensors, outputs: Tensors) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    sides = {_INPUTS: inputs, _OUTPUTS: outputs}
    vectors = {
        slot: _vector(
            builder,
            [_table(builder, _TENSOR_FIELDS, _strings(builder, dict(enumerate(t)))) for t in side],
        )
        for slot, side in sides.items()
    }
    graphs = _vector(builder, [_table(builder, _GRAPH_FIELDS, vectors)])
    said = _strings(builder, {_TEXTS[key]: text for key, text in texts.items()})
    parser = _strings(builder, {_PARSER: "1.0.0"})
    whole = _table(builder, _MODEL_FIELDS, {**said, _GRAPHS: graphs, **parser})
    builder.Finish(whole, file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _strings(builder: Any, texts: Mapping[int, str]) -> dict[int, int]:
    """Offsets of the texts that say anything, by their position in the table."""
    return {slot: builder.CreateString(text) for slot, text in texts.items() if text}


def _vector(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _table(builder: Any, fields: int, offsets: Mapping[int, int]) -> int:
    builder.StartObject(fields)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return int(builder.EndObject())


def _read(metadata: bytes) -> dict[str, Any]:
    import flatbuffers
    from flatbuffers.table import Table

    start = flatbuffers.encode.Get(flatbuffers.packer.uoffset, metadata, 0)
    model = Table(bytearray(metadata), start)
    found: dict[str, Any] = {key: _string(model, slot) for key, slot in _TEXTS.items()}
    graph = next(iter(_tables(model, _GRAPHS)), None)
    ends = [] if graph is None else [t for s in (_INPUTS, _OUTPUTS) for t in _tables(graph, s)]
    return {**found, "tensors": {_string(end, 0): _string(end, 1) for end in ends}}


def _string(table: Any, slot: int) -> str:
    at = table.Offset(4 + 2 * slot)
    return bytes(table.String(at + table.Pos)).decode() if at else ""


def _tables(table: Any, slot: int) -> list[Any]:
    """The tables of a vector."""
    at = table.Offset(4 + 2 * slot)
    if not at:
        return []
    first = table.Vector(at)
    places = range(first, first + 4 * table.VectorLen(at), 4)
    return [type(table)(table.Bytes, table.Indirect(place)) for place in places]
