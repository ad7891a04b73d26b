"""The model as ONNX with QuantizeLinear and DequantizeLinear, by tf2onnx (extra [onnx]).

What is converted is the model's `.tflite`, so that the ONNX file holds the very integers of weights
and biases, and onnxruntime computes in integers what TFLite does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from qat_round._compat import read_flatbuffer, tflite_schema, write_flatbuffer
from qat_round.export.patch_low_bit_weights import unpacked
from qat_round.export.tflite import export_tflite
from qat_round.files.atomic_write import check_writable, write_file
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.quantizers.quantized_tensors import quantized_tensors, require_quantized

_OPSET = 17
_BITS = 8


def export_onnx(
    model: Any, path: str | os.PathLike[str] | None = None, opset: int = _OPSET
) -> bytes:
    """Converts a quantized model to ONNX with QuantizeLinear and DequantizeLinear.

    Weights are int8 constants, biases int32 ones, each with its scales; weights of fewer than 8
    bits are the same numbers in int8. Inputs and outputs are float.

    Args:
        model: from `qr.quantize_model`, calibrated or trained, with 8-bit activations.
        path: where to write the file as well.
        opset: ONNX's, 13 or more.

    Returns:
        The bytes of the `.onnx`.

    Raises:
        ImportError: without the extra.
        ValueError: for a model that is not quantized, whose ranges were never set, whose
            activations have 16 bits, or with operators that tf2onnx lacks (each named).
        OSError: if the path cannot be written.
    """
    require_onnx("tf2onnx", "export_onnx")
    require_quantized(model, "export_onnx")
    if path is not None:
        check_writable(path)
    _check_bits(model)
    content = _converted(model, opset)
    if path is not None:
        write_file(path, content)
    return content


def require_onnx(module: str, verb: str) -> None:
    """Raises an ImportError that names the extra, if a package is not there."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{verb} needs {module!r}: pip install 'qat_round[onnx]'.")


def _check_bits(model: Any) -> None:
    wide = [t.path for t in quantized_tensors(model) if t.variable is None and t.bits > _BITS]
    if wide:
        raise ValueError(
            f"export_onnx: ONNX's QuantizeLinear has activations of {_BITS} bits, but "
            f"{', '.join(wide[:3])}{' and more' if wide[3:] else ''} have 16. Use "
            "activation_bits=8, qr.LayerSpec(state_bits=8) for recurrent layers, or "
            "export_tflite."
        )


def _converted(model: Any, opset: int) -> bytes:
    import tf2onnx

    tflite = _without_int4(export_tflite(model))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _old_names():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder) / "model.tflite"
        path.write_bytes(tflite)
        proto, _ = tf2onnx.convert.from_tflite(str(path), opset=opset)
    _spell_out_gelu(proto.graph)
    _check_operators(proto.graph)
    for old, new in _names(model, tflite).items():
        _rename(proto.graph, old, new)
    return bytes(proto.SerializeToString())


def _without_int4(tflite: bytes) -> bytes:
    """The file with its INT4 weights as INT8, which tf2onnx knows: the same whole numbers."""
    types = tflite_schema().TensorType
    file = read_flatbuffer(tflite)
    for tensor in (t for graph in file.subgraphs for t in graph.tensors if t.type == types.INT4):
        buffer = file.buffers[tensor.buffer]
        buffer.data = unpacked(buffer.data, int(np.prod(tensor.shape))).view(np.uint8)
        tensor.type = types.INT8
    return write_flatbuffer(file)


def _spell_out_gelu(graph: Any) -> None:
    """Writes x (1 + erf(x / sqrt(2))) / 2 where tf2onnx left TFLite's operator."""
    nodes = [part for node in graph.node for part in _without_gelu(node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _without_gelu(node: Any) -> list[Any]:
    if node.op_type != "TFL_GELU":
        return [node]
    from onnx.helper import make_node

    (x,), (y,) = node.input, node.output
    numbers = {"root": 0.5**0.5, "one": 1.0, "half": 0.5}
    named = {name: f"{y}_{name}" for name in (*numbers, "scaled", "erf", "more", "double")}
    constants = [
        make_node("Constant", [], [named[name]], value_float=value)
        for name, value in numbers.items()
    ]
    return [
        *constants,
        make_node("Mul", [x, named["root"]], [named["scaled"]]),
        make_node("Erf", [named["scaled"]], [named["erf"]]),
        make_node("Add", [named["erf"], named["one"]], [named["more"]]),
        make_node("Mul", [x, named["more"]], [named["double"]]),
        make_node("Mul", [named["double"], named["half"]], [y]),
    ]


def _check_operators(graph: Any) -> None:
    """Raises a ValueError that names what tf2onnx left as TFLite has it."""
    left = sorted({n.op_type.removeprefix("TFL_") for n in graph.node if "TFL_" in n.op_type})
    if left:
        raise ValueError(
            f"export_onnx: tf2onnx does not translate TFLite's {', '.join(left)}. Leave the layers "
            "that need them out of the part that is exported, or use the .tflite."
        )


def _names(model: Any, tflite: bytes) -> dict[str, str]:
    """Names of inputs and outputs in the file -> in the model."""
    file = TFLiteFile(tflite)
    runner = Runner(file)
    ends = ((model.input_names, runner.inputs), (model.output_names, runner.outputs))
    return {
        file.tensors[details[name]["index"]].name: name for names, details in ends for name in names
    }


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
        node.input[:] = [new if name == old else name for name in node.input]
    for end in (*graph.input, *graph.output):
        if end.name == old:
            end.name = new


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """Names of NumPy that tf2onnx 1.17 still uses and NumPy 2 took away."""
    old = {"bool": np.bool_, "object": object, "cast": None}
    added = [name for name in old if name not in vars(np) and old[name] is not None]
    for name in added:
        setattr(np, name, old[name])
    try:
        yield
    finally:
        for name in added:
            delattr(np, name)
