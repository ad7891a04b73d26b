"""Which kernels may compute a file, and how each of them rounds: the table that inference reads.

XNNPACK, which TFLite runs by default, rounds sums once. TFLite's other kernels scale them down by a
whole number of 31 bits and round twice (see `requantize`), but not all alike. Found by comparing
every integer of files with the kernels' own, scales that are powers of two among them, whose sums
often are halves (LiteRT 2.3 and tflite-micro of October 2026 on x86).
"""

from __future__ import annotations

from typing import NamedTuple

DEFAULT = "default"
KERNEL_SETS = (DEFAULT, "builtin", "reference", "micro")
"""With XNNPACK; TFLite's own without it; its plain reference ones; TFLite-Micro's."""

ONNXRUNTIME = "onnxruntime"
"""Another one, of 8-bit files alone, which `qr.verify_onnx` compares with."""

_NARROW = 8  # bits of activations that XNNPACK computes
_FEW = 4  # bits of weights that are stored as INT4


class Roundings(NamedTuple):
    """How a set of kernels rounds, by kind of operator: a name of `requantize.SCALINGS`.

    Where it is "", the operator rounds as XNNPACK does, which `accumulators` describes.

    Args:
        given: the model's input; "away": x / step, halves away from zero.
        convolution, depthwise, dense, transposed: layers with weights.
        unbiased: dense layers without a bias.
        matrices: products of two tensors that are added up.
        product: of two tensors, or of a tensor and constants, value by value.
        sum, summands: the sum of two tensors, or their difference; and each of the two before.
        subtracted: as `summands`, of a difference.
        kept_mean: means over height and width that keep these axes; "sixteens": of raw levels.
        mean, leaky, moved: means; leaky ReLUs; a tensor that goes to another grid.
        precision: in which the factor of a product or a leaky ReLU is computed, "float" or
            "double".
    """

    given: str = ""
    convolution: str = ""
    depthwise: str = ""
    dense: str = ""
    unbiased: str = ""
    transposed: str = "eights"
    matrices: str = "away"
    product: str = ""
    sum: str = ""
    summands: str = ""
    subtracted: str = "away"
    kept_mean: str = ""
    mean: str = ""
    moved: str = ""
    leaky: str = ""
    precision: str = "float"


_XNNPACK = Roundings()
_TWICE = dict.fromkeys(set(Roundings._fields) - {"precision"}, "away")
_REFERENCE = Roundings(**_TWICE)._replace(dense="once away", unbiased="once away")
_MICRO = Roundings(**_TWICE)._replace(precision="double")
_BUILTIN = Roundings(**_TWICE)._replace(
    given="",
    convolution="up",
    depthwise="eights",
    transposed="eights",
    dense="up",
    unbiased="up",
    summands="once up",
    kept_mean="sixteens",
    moved="up",
)
_ONNXRUNTIME = _XNNPACK._replace(transposed="", matrices="")
_EIGHT_BITS = {
    "default": _XNNPACK,
    "builtin": _BUILTIN,
    "reference": _REFERENCE,
    "micro": _MICRO,
    ONNXRUNTIME: _ONNXRUNTIME,
}
_FEW_BITS = _EIGHT_BITS | {  # XNNPACK has no convolutions with INT4 weights: builtin ones compute
    "default": _XNNPACK._replace(convolution="up", depthwise="eights"),
}
_SHORT = dict.fromkeys(("convolution", "depthwise", "transposed", "matrices"), "15 bits")
_SHORT["kept_mean"] = "away"
_SIXTEEN_BITS = {  # XNNPACK has none at all
    "default": _BUILTIN._replace(**_SHORT, dense="once away"),
    "builtin": _BUILTIN._replace(**_SHORT, dense="once away"),
    "reference": _REFERENCE._replace(**_SHORT),
    "micro": _MICRO._replace(**_SHORT, dense="15 bits", unbiased="15 bits"),
}


def roundings(kernels: str, bits: int = 8, weight_bits: int = 8) -> Roundings:
    """How a set of kernels rounds.

    Args:
        kernels: one of `KERNEL_SETS`, or `ONNXRUNTIME`.
        bits: of the activations.
        weight_bits: of the weights.

    Example:
        >>> roundings("reference").dense
        'once away'
    """
    if bits > _NARROW:
        return _SIXTEEN_BITS[kernels]
    return (_FEW_BITS if weight_bits <= _FEW else _EIGHT_BITS)[kernels]


def check_kernels(kernels: str, verb: str) -> None:
    """Raises a ValueError that names the sets of kernels there are."""
    if kernels not in KERNEL_SETS:
        raise ValueError(
            f"{verb}: kernels={kernels!r} is unknown; allowed are {list(KERNEL_SETS)}."
        )
