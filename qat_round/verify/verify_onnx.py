"""Compares an ONNX file, run by onnxruntime, with the quantized model."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from qat_round._compat import tf
from qat_round.export.onnx_qdq import require_onnx
from qat_round.models.emulate_kernels import computing_as
from qat_round.models.inputs import model_inputs
from qat_round.numerics.kernel_sets import ONNXRUNTIME
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.verify.parity import OutputParity, compare


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

    The model computes as onnxruntime does, which rounds sums once, those of weights of fewer than 8
    bits too; a mean and what has no integer operator in onnxruntime are computed in float, so that
    single values may be a step apart.

    Args:
        model: the quantized model.
        onnx: the file's bytes or path.
        inputs: real-valued inputs.

    Raises:
        ImportError: without the extra.
        ValueError: for inputs that do not fit.
    """
    require_onnx("onnxruntime", "verify_onnx")
    import collections

    import onnxruntime

    arrays = [np.asarray(a, np.float32) for a in model_inputs(model, inputs, "verify_onnx")]
    content = onnx if isinstance(onnx, bytes) else pathlib.Path(onnx).read_bytes()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    theirs = session.run(list(model.output_names), dict(zip(names, arrays, strict=True)))
    with computing_as(model, ONNXRUNTIME):
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


def _step(model: Any, name: str, ours: np.ndarray) -> float:
    steps = [
        float(np.max(t.scale_and_zero_point()[0]))
        for t in quantized_tensors(model)
        if t.layer.name == name and t.variable is None
    ]
    return steps[-1] if steps else float(np.ptp(ours)) / 255.0 or 1.0
