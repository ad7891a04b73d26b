"""The model as ONNX with QuantizeLinear and DequantizeLinear, by tf2onnx (extra [onnx])."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._compat import exporting, tf
from .export import check_bits, check_ranges, check_writable, write_file
from .model_data import model_inputs
from .parity import OutputParity, compare
from .tensors import quantized_tensors, require_quantized

_OPSET = 17


def export_onnx(
    model: Any, path: str | os.PathLike[str] | None = None, opset: int = _OPSET
) -> bytes:
    """Converts a quantized model to ONNX: activations as QuantizeLinear and DequantizeLinear.

    Weights are float constants that lie on their grids; `qr.encodings(model)` has the scales.

    Args:
        model: from `qr.quantize_model`, calibrated or trained, with 8-bit activations.
        path: where to write the file as well.
        opset: ONNX's, 13 or more.

    Returns:
        The bytes of the `.onnx`.

    Raises:
        ImportError: without the extra.
        ValueError: for a model that is not quantized, or whose ranges were never set.
        OSError: if the path cannot be written.
    """
    _require("tf2onnx", "export_onnx")
    require_quantized(model, "export_onnx")
    if path is not None:
        check_writable(path)
    check_ranges(model)
    check_bits(model)
    content = _converted(model, opset)
    if path is not None:
        write_file(path, content)
    return content


@dataclasses.dataclass(frozen=True)
class OnnxParity:
    """How far onnxruntime is from Keras.

    Args:
        outputs: one OutputParity for each output.
        operators: operator -> how many.
    """

    outputs: tuple[OutputParity, ...]
    operators: dict[str, int]

    @property
    def max_steps(self) -> float:
        """Largest distance of any output, in steps of its grid."""
        return max(output.max_steps for output in self.outputs)


def verify_onnx(model: Any, onnx: bytes | str | os.PathLike[str], inputs: Any) -> OnnxParity:
    """Compares an `.onnx`, run by onnxruntime, with the quantized Keras model (extra [onnx]).

    onnxruntime rounds halves to even where TFLite rounds them up, so that single values may be a
    step apart.

    Args:
        model: the quantized model.
        onnx: the file's bytes or path.
        inputs: real-valued inputs.

    Raises:
        ImportError: without the extra.
        ValueError: for inputs that do not fit.
    """
    _require("onnxruntime", "verify_onnx")
    import collections

    import onnxruntime

    arrays = [np.asarray(a, np.float32) for a in model_inputs(model, inputs, "verify_onnx")]
    content = onnx if isinstance(onnx, bytes) else pathlib.Path(onnx).read_bytes()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    theirs = session.run(list(model.output_names), dict(zip(names, arrays, strict=True)))
    ours = tf.nest.flatten(model(arrays if len(arrays) > 1 else arrays[0], training=False))
    steps = [
        _step(model, name, y.numpy()) for name, y in zip(model.output_names, ours, strict=True)
    ]
    outputs = [
        compare(name, y.numpy(), z, step)
        for name, y, z, step in zip(model.output_names, ours, theirs, steps, strict=True)
    ]
    import onnx as onnx_package

    graph = onnx_package.load_from_string(content).graph
    return OnnxParity(tuple(outputs), dict(collections.Counter(n.op_type for n in graph.node)))


def _require(module: str, verb: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{verb} needs {module!r}: pip install 'qat_round[onnx]'.")


def _converted(model: Any, opset: int) -> bytes:
    import tf2onnx

    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for name, tensor in zip(model.input_names, model.inputs, strict=True)
    ]

    @tf.function(input_signature=specs, autograph=False)
    def serve(*inputs: Any) -> dict[str, Any]:
        outputs = tf.nest.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))
        return dict(zip(model.output_names, outputs, strict=True))

    with exporting(), warnings.catch_warnings(), _old_names():
        warnings.simplefilter("ignore")
        proto, _ = tf2onnx.convert.from_function(serve, input_signature=specs, opset=opset)
    for output, name in zip(proto.graph.output, sorted(model.output_names), strict=False):
        _rename(proto.graph, output.name, name)
    return bytes(proto.SerializeToString())


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
        node.input[:] = [new if name == old else name for name in node.input]
    for output in graph.output:
        if output.name == old:
            output.name = new


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


def _step(model: Any, name: str, ours: np.ndarray) -> float:
    steps = [
        float(np.max(t.scale_and_zero_point()[0]))
        for t in quantized_tensors(model)
        if t.layer.name == name and t.variable is None
    ]
    return steps[-1] if steps else float(np.ptp(ours)) / 255.0 or 1.0
