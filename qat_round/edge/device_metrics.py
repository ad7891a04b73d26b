"""The figures of a file on devices as plain data, for manifests and reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat_round.edge.micro import run_micro
from qat_round.edge.npu import check_accelerator, vela

SAMPLES = 16  # that TFLite-Micro is run on
MICRO = "tflite_micro"


def device_figures(
    tflite: bytes, inputs: Any, accelerator: str = "", micro: bool = False
) -> dict[str, dict[str, Any]]:
    """What TFLite-Micro and Vela say of a file.

    Args:
        tflite: the file.
        inputs: real-valued inputs, an array or a dict by the file's input names.
        accelerator: what to compile for, such as "ethos-u55-128"; empty: nothing.
        micro: whether to run it on TFLite-Micro.

    Returns:
        {"tflite_micro" or the accelerator: its figures, or {"refused": why}}.

    Raises:
        ImportError: without the extra [edge].
        ValueError: for an accelerator that Vela does not know.
    """
    found = {}
    if accelerator:
        check_accelerator(accelerator)
    if micro:
        few = (
            {k: v[:SAMPLES] for k, v in inputs.items()}
            if isinstance(inputs, dict)
            else inputs[:SAMPLES]
        )
        found[MICRO] = _tried(lambda: run_micro(tflite, few).to_dict())
    if accelerator:
        found[accelerator] = _tried(lambda: vela(tflite, accelerator).to_dict())
    return found


def _tried(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except ValueError as error:
        return {"refused": str(error)}
