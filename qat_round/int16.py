"""int16x8 files put right: 16-bit activations, 8-bit weights, 64-bit biases.

TFLite's converter stores the biases of such operators in 32 bits, but its int16 kernels read 64:
the file loads, and answers wrongly by thousands of steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._compat import builtin_operator_names, read_flatbuffer, tflite_schema, write_flatbuffer

BIAS_OF = {  # operator -> positions of input and bias
    "CONV_2D": (0, 2),
    "DEPTHWISE_CONV_2D": (0, 2),
    "FULLY_CONNECTED": (0, 2),
    "TRANSPOSE_CONV": (2, 3),
}


def with_wide_biases(tflite: bytes) -> bytes:
    """The file, with the biases of its int16 operators in 64 bits.

    Args:
        tflite: a converted file; one without 16-bit activations comes back as it was.
    """
    file = read_flatbuffer(tflite)
    biases = list(_narrow_biases(file))
    if not biases:
        return tflite
    for tensor in biases:
        narrow = np.frombuffer(np.asarray(file.buffers[tensor.buffer].data, np.uint8), np.int32)
        tensor.buffer = _own_buffer(file, narrow.astype(np.int64))
        tensor.type = tflite_schema().TensorType.INT64
    return write_flatbuffer(file)


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
            code = file.operatorCodes[operator.opcodeIndex]
            name = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
            given, bias = BIAS_OF.get(name, (0, len(operator.inputs)))
            if bias >= len(operator.inputs) or operator.inputs[bias] < 0:
                continue
            tensor = graph.tensors[operator.inputs[bias]]
            wide = graph.tensors[operator.inputs[given]].type == kinds.INT16
            if wide and tensor.type == kinds.INT32 and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
