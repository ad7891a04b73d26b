"""Which operators a target has, and what each operator of a file costs."""

from __future__ import annotations

import collections
import os
from collections.abc import Collection
from typing import Any

import numpy as np

from qat_round.files.tflite_file import LINEAR, Operator, TensorInfo, TFLiteFile

_MICRO = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D
DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL
FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF
L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR
LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2
PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR
RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH
TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
MICRO_OPERATORS = frozenset(_MICRO.split()) | {"ethos-u"}
"""What tflite-micro 0.dev20261023 registers."""
_BITS = {"INT4": 4, "INT8": 8, "UINT8": 8, "INT16": 16, "FLOAT16": 16, "INT64": 64, "BOOL": 8}


def missing_operators(
    tflite: bytes | str | os.PathLike[str] | TFLiteFile,
    operators: Collection[str] = MICRO_OPERATORS,
) -> dict[str, int]:
    """Operators of a file that a target lacks -> how many calls.

    Args:
        tflite: the file.
        operators: what the target has, such as the names in a firmware's op resolver.

    Example:
        >>> sorted({"ADD", "NO_SUCH"} - MICRO_OPERATORS)
        ['NO_SUCH']
    """
    file = tflite if isinstance(tflite, TFLiteFile) else TFLiteFile(tflite)
    names = [op.name for op in file.operators if op.name not in operators]
    return dict(collections.Counter(names))


def check_operators(file: TFLiteFile, target: str, operators: Collection[str]) -> None:
    """Raises a ValueError that lists what a target lacks."""
    missing = missing_operators(file, operators)
    if missing:
        raise ValueError(
            f"{target} has no {', '.join(f'{op} ({n})' for op, n in missing.items())}. Leave these "
            "layers out, replace them, or run them elsewhere; qr.coverage names the layers."
        )


def tensor_bytes(tensor: TensorInfo) -> int:
    """Size of a tensor, the batch counted as it stands (open sizes as 1)."""
    return -(-_values(tensor.shape) * _BITS.get(tensor.type, 32) // 8)


def layer_of(file: TFLiteFile, operator: Operator) -> str:
    """The name of the Keras layer that an operator's result is called after, as far as it tells."""
    name = file.tensors[operator.outputs[0]].name if operator.outputs else ""
    parts = [part for part in name.split(";")[0].split("/") if part.startswith("quant_")]
    return parts[0].removeprefix("quant_") if parts else name.split(";")[0]


def constants(file: TFLiteFile) -> set[int]:
    """Tensors that are neither inputs nor made by an operator."""
    made = {i for op in file.operators for i in op.outputs}
    used = {i for op in file.operators for i in op.inputs if i >= 0}
    return used - made - set(file.inputs)


def macs(file: TFLiteFile, operator: Operator) -> int:
    """Multiply-accumulates of an operator: each weight once for each position of the output.

    Of a product of two activations (BATCH_MATMUL) as many as if one of them were weights; of LSTM
    and SVDF each weight once for each sample and time step. Other operators have none.
    """
    if operator.name in LINEAR:
        return _linear_macs(file, operator)
    return _OTHER_MACS[operator.name](file, operator) if operator.name in _OTHER_MACS else 0


def _linear_macs(file: TFLiteFile, operator: Operator) -> int:
    places = LINEAR[operator.name]
    output = file.tensors[operator.outputs[0]]
    if operator.name == "TRANSPOSE_CONV":
        output = file.tensors[operator.inputs[places.given]]
    return _size_of(file, operator, places.weights) * _values(output.shape[:-1])


def _product_macs(file: TFLiteFile, operator: Operator) -> int:
    output = file.tensors[operator.outputs[0]].shape
    factor = file.tensors[operator.inputs[0]].shape[-2:]  # rows of the output, and what is summed
    return _values(output) * _values(factor) // max(output[-2], 1)


def _lstm_macs(file: TFLiteFile, operator: Operator) -> int:
    steps = _values(file.tensors[operator.inputs[0]].shape[:2])
    return steps * sum(_size_of(file, operator, at) for at in _LSTM_WEIGHTS)


def _svdf_macs(file: TFLiteFile, operator: Operator) -> int:
    samples = _values(file.tensors[operator.inputs[0]].shape[:1])
    return samples * sum(_size_of(file, operator, at) for at in _SVDF_WEIGHTS)


def _size_of(file: TFLiteFile, operator: Operator, place: int) -> int:
    """How many values an input has; 0 if it is left out."""
    is_there = place < len(operator.inputs) and operator.inputs[place] >= 0
    return _values(file.tensors[operator.inputs[place]].shape) if is_there else 0


def _values(shape: tuple[int, ...]) -> int:
    """How many values there are, open sizes counted as 1."""
    return int(np.prod([max(n, 1) for n in shape], dtype=np.int64))


_LSTM_WEIGHTS = (*range(1, 12), 16)  # of input, state and peepholes for each gate; projection
_SVDF_WEIGHTS = (1, 2)
_OTHER_MACS = {
    "BATCH_MATMUL": _product_macs,
    "SVDF": _svdf_macs,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm_macs,
}


def peak(file: TFLiteFile) -> tuple[int, list[tuple[str, int]]]:
    """The most bytes that activations take at once, and those that are alive then.

    Each tensor lives from the operator that makes it to the last that reads it; what an allocator
    loses by fragmentation, and a kernel's scratch space, are not in it.
    """
    fixed, last = constants(file), {i: len(file.operators) for i in file.outputs}
    for at, op in enumerate(file.operators):
        last.update({i: max(at, last.get(i, 0)) for i in op.inputs})
    alive: set[int] = set(file.inputs)
    best: tuple[int, list[int]] = (0, [])
    for at, op in enumerate(file.operators):
        alive |= {i for i in op.outputs if i >= 0}
        total = sum(tensor_bytes(file.tensors[i]) for i in alive - fixed)
        best = max(best, (total, sorted(alive - fixed)))
        alive = {i for i in alive if last.get(i, -1) > at}
    sizes = [(_shown(file, i), tensor_bytes(file.tensors[i])) for i in best[1]]
    return best[0], sorted(sizes, key=_size, reverse=True)


def _size(pair: Any) -> int:
    return int(pair[1])


def _shown(file: TFLiteFile, tensor: int) -> str:
    made_by = file.producer(tensor)
    return layer_of(file, made_by) if made_by is not None else file.tensors[tensor].name
