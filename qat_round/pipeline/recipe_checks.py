"""What has to hold for a recipe: of packages and data before training, of the file after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat_round.edge import budget
from qat_round.edge.device_metrics import MICRO
from qat_round.export.onnx_qdq import require_onnx
from qat_round.files.data_files import Data, read_data
from qat_round.models.inputs import check_inputs, model_inputs
from qat_round.pipeline.recipe_schema import ANY_DROP, CheckPart, Recipe
from qat_round.report.write_report import require_report
from qat_round.training.epochs import check_labels, with_classes
from qat_round.verify.metrics import why_no_score
from qat_round.verify.micro_runner import require
from qat_round.verify.parity import Parity

_HAIR = 1e-9  # points; what float64 loses in a difference of accuracies


def check_extras(recipe: Recipe) -> str:
    """Looks for the packages that a recipe needs beside the package's own.

    Returns:
        Why there will be no HTML page although none was declined; empty if there will be one.

    Raises:
        ImportError: that names the key and the extra.
    """
    report = recipe.report
    if report.vela:
        require("ethosu", "[report] vela")
    if report.micro or recipe.check.arena_bytes:
        key = "[report] micro" if report.micro else "[check] arena_bytes"
        require("tflite_micro", key)
    if recipe.export.onnx:
        for module in ("tf2onnx", "onnxruntime"):
            require_onnx(module, "[export] onnx")
    try:
        if report.html:
            require_report()
    except ImportError as error:
        if "report.html" in recipe.written:
            raise
        return f"no report is written. {error}"
    return ""


def data_of(recipe: Recipe, model: Any) -> tuple[Data, Data]:
    """What is trained and what is tested with, as a model takes it.

    Args:
        recipe: with `[data]`, `[train]` and `[check]`.
        model: the float model.

    Raises:
        FileNotFoundError, ValueError, TypeError: for data that cannot be read, or that do not fit;
            for an accuracy that is to be checked where there is none.
    """
    part = recipe.data
    shape = model.inputs[0].shape[1:] if len(model.inputs) == 1 else None
    names = (part.inputs or None, part.labels or None, shape, model.input_names)
    train = read_data(part.train, *names, part.scale, part.offset)
    if part.test:
        return _checked(recipe, model, train, read_data(part.test, *names, part.scale, part.offset))
    if train.samples < 2:
        raise ValueError("[data] train has one sample only; give more, or [data] test.")
    kept = train.samples - max(1, train.samples // 10)
    return _checked(recipe, model, train.part(0, kept), train.part(kept))


def _checked(recipe: Recipe, model: Any, train: Data, test: Data) -> tuple[Data, Data]:
    for verb, data in (("[data] train", train), ("[data] test", test)):
        check_inputs(model, model_inputs(model, data.inputs, verb), verb)
    loss = recipe.train.loss
    train = with_classes(model, train, loss)
    if recipe.train.epochs or not why_no_score(model, train):
        loss = check_labels(model, train, loss, "[data] train")
    test = with_classes(model, test, loss)
    if not why_no_score(model, test):
        loss = check_labels(model, test, loss, "[data] test")
    _check_accuracy_is_known(recipe.check, why_no_score(model, test), loss)
    return train, test


def _check_accuracy_is_known(check: CheckPart, why_not: str, loss: str) -> None:
    if loss == "mean_squared_error":
        why_not = why_not or f"the loss is {loss}, which knows no accuracy"
    if why_not and check.max_accuracy_drop < ANY_DROP:
        raise ValueError(
            f"[check] max_accuracy_drop = {check.max_accuracy_drop:g} cannot be checked: "
            f"{why_not}. Leave the key out, or give test data with the number of each one's class."
        )


def failures(
    recipe: Recipe,
    parity: Parity,
    figures: Mapping[str, Any],
    devices: Mapping[str, Mapping[str, Any]],
    tflite: bytes,
) -> list[str]:
    """What does not hold of a file, each in a sentence; empty if it may ship.

    Args:
        recipe: whose `[check]` and `[report]` are asked.
        parity: of the file and the model.
        figures: as `qat_round.verify.metrics.figures` gives them.
        devices: as `qat_round.edge.device_metrics.device_figures` gives them.
        tflite: the file.
    """
    check, found = recipe.check, []
    if not parity.ok:
        found.append(
            f"The file is {parity.max_steps:.3g} steps from the model, and has "
            f"{parity.float_operator_count} operators in float."
        )
    drop = 100.0 * (figures.get("accuracy_float", 0.0) - figures.get("accuracy_device", 0.0))
    if drop > check.max_accuracy_drop + _HAIR:
        found.append(f"Accuracy: {drop:.2f} points lost, {check.max_accuracy_drop:g} are allowed.")
    for name, device in devices.items():
        if "refused" in device:
            found.append(f"{name}: {device['refused']}")
    arena = devices.get(MICRO, {}).get("arena_bytes", 0)
    if 0 < check.arena_bytes < arena:
        over = arena - check.arena_bytes
        found.append(f"TFLite-Micro's arena: {arena:,} bytes, {over:,} too many.")
    if check.flash_bytes or check.macs:
        limits = {"flash": check.flash_bytes or None, "ops": check.macs or None}
        found += budget(tflite, **limits).advice
    return found
