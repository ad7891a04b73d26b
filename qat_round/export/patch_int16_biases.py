"""int16x8 files put right: 16-bit activations, 8-bit weights, 64-bit biases.

TFLite's converter stores the biases of such operators in 32 bits, but its int16 kernels read 64:
the file loads, and answers wrongly by thousands of steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import builtin_operator_names, tflite_schema
from qat_round.files.tflite_file import LINEAR, operator_name


def widen_biases(file: Any) -> None:
    """Puts the biases of a file's int16 operators into 64 bits.

    Args:
        file: from `_compat.read_flatbuffer`; changed.
    """
    for tensor in list(_narrow_biases(file)):
        narrow = np.frombuffer(np.asarray(file.buffers[tensor.buffer].data, np.uint8), np.int32)
        tensor.buffer = _own_buffer(file, narrow.astype(np.int64))
        tensor.type = tflite_schema().TensorType.INT64


def _own_buffer(file: Any, values: np.ndarray) -> int:
    """A new buffer: converters share equal ones, and others may go on reading 32 bits."""
    buffer = tflite_schema().BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    file.buffers.append(buffer)
    return len(file.buffers) - 1


def _narrow_biases(file: Any) -> Any:
    names, kinds = builtin_operator_names(), tflite_schema().TensorType
    seen: set[int] = set()
    for graph in file.subgraphs:
        for operator in graph.operators:
            places = LINEAR.get(operator_name(file.operatorCodes[operator.opcodeIndex], names))
            inputs = operator.inputs
            if places is None or places.bias >= len(inputs) or inputs[places.bias] < 0:
                continue
            tensor = graph.tensors[inputs[places.bias]]
            wide = graph.tensors[inputs[places.given]].type == kinds.INT16
            if wide and tensor.type == kinds.INT32 and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
