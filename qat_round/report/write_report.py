"""What a person reads of a run: one self-contained HTML page (extra [report])."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from qat_round.edge.device_metrics import MICRO, SAMPLES, device_figures
from qat_round.files.atomic_write import check_writable, write_file
from qat_round.files.manifest import versions
from qat_round.files.tflite_file import TFLiteFile, read_bytes
from qat_round.report import measure, plots
from qat_round.report.page import render, section
from qat_round.verify.compare_layers import compare_layers
from qat_round.verify.parity import Parity
from qat_round.verify.verify_tflite import verify_tflite

_MODULES = ("jinja2", "matplotlib")
_SHOWN = 24  # tensors that get a histogram of their own


def write_report(
    path: str | os.PathLike[str],
    *,
    model: Any,
    tflite: bytes | str | os.PathLike[str],
    inputs: Any,
    parity: Parity | None = None,
    facts: Mapping[str, Any] | None = None,
    vela: str | None = None,
    micro: bool = False,
) -> str:
    """Writes a page about a quantized model and its file (extra [report]).

    Args:
        path: of the HTML file.
        model: the quantized model.
        tflite: its file.
        inputs: some real-valued inputs, a few hundred.
        parity: what `qr.verify_tflite` found; None: it is found here, from `inputs`.
        facts: more to show: "figures" {name: number}, "history" as `run` keeps it, "layers" as
            `qr.coverage` gives them, "devices" where `vela` and `micro` were run already.
        vela: an NPU to compile for, such as "ethos-u55-128" (extra [edge]).
        micro: whether to run the file on TFLite-Micro (extra [edge]).

    Returns:
        The page.

    Raises:
        ImportError: without the extra.
        OSError: if it cannot be written.
    """
    require_report()
    check_writable(path)
    content, given = read_bytes(tflite), dict(facts or {})
    parity = parity or verify_tflite(model, content, inputs)
    file = TFLiteFile(content)
    devices = given.get("devices") or device_figures(content, inputs, vela or "", micro)
    sections = [
        _summary(parity, given),
        _parity(model, file, inputs, parity),
        _layers(model, content, inputs),
        _ranges(model, inputs),
        _weights(model),
        *_history(given.get("history", [])),
        _sizes(model, file, given),
        *_devices(devices),
        *_versions(given),
    ]
    ok = bool(given.get("ok", parity.ok))
    verdict = "Passed: the file answers as the model does." if ok else "Not passed: see below."
    text = render(
        f"{pathlib.Path(path).stem}: quantization report", ok, verdict, sections, _version()
    )
    write_file(path, text.encode())
    return text


def _version() -> str:
    return versions().get("qat_round", "")


def can_report() -> bool:
    """Whether the extra's packages are there."""
    return all(importlib.util.find_spec(module) for module in _MODULES)


def require_report() -> None:
    """Raises an ImportError that names the extra, if a package is not there."""
    for module in _MODULES:
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"The report needs {module!r}: pip install 'qat_round[report]'.")


def _summary(parity: Parity, facts: Mapping[str, Any]) -> dict[str, Any]:
    figures = dict(facts.get("figures", {})) or {"file_bytes": parity.file_bytes}
    rows = [[name.replace("_", " "), value] for name, value in figures.items()]
    rows += [["furthest from Keras, steps", parity.max_steps]]
    rows += [["operators in float", parity.float_operator_count]]
    scores = {k: v for k, v in figures.items() if k.startswith(("accuracy_", "mean_squared"))}
    shown = []
    if scores:
        names = [name.rsplit("_", 1)[1] for name in scores]
        unit = next(iter(scores)).rsplit("_", 1)[0].replace("_", " ")
        shown = [(plots.bars(names, list(scores.values()), unit, unit), f"{unit}, by who answers")]
    text = " ".join(facts.get("failed", ()))
    return section("Summary", text, shown, [("Figures", ("figure", "value"), rows)])


def _parity(model: Any, file: TFLiteFile, inputs: Any, parity: Parity) -> dict[str, Any]:
    found = measure.distances(model, file, inputs)
    shown = [
        (plots.steps(counts, f"Histogram of distances, output {name}"), f"Output {name}")
        for name, counts in found.items()
    ]
    kinds = (("", parity.outputs), (" (logits)", parity.logits))
    rows = [
        [p.name + kind, p.step, p.same, p.within_one, p.mean_steps, p.max_steps, p.top1_agreement]
        for kind, outputs in kinds
        for p in outputs
    ]
    columns = ("tensor", "step", "same", "within one", "mean", "furthest", "top-1 agreement")
    text = "How far the file is from the Keras model, in steps of the output's grid."
    return section("Keras against the file", text, shown, [("Parity", columns, rows)])


def _layers(model: Any, tflite: bytes, inputs: Any) -> dict[str, Any]:
    rows_in = {k: v[:128] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:128]
    found = compare_layers(model, tflite, rows_in).to_dict()
    layers = list(found.get("layers", ()))
    columns = [column for column in (layers[0] if layers else ("layer",)) if column != "tensor"]
    rows = [[layer[column] for column in columns] for layer in layers]
    named = [column.replace("_", " ") for column in columns]
    text = f"{found.get('reason', '')}"
    return section("Error by layer", text, (), [("Layers, in the file's order", named, rows)])


def _ranges(model: Any, inputs: Any) -> dict[str, Any]:
    found = measure.activations(model, inputs)
    clipped = measure.shares_outside(found)
    rows = [[n, lo, hi, float(v.min()), float(v.max()), clipped[n]] for n, v, lo, hi in found]
    columns = ("tensor", "range from", "to", "least value", "greatest", "share clipped")
    text = (
        "Values of the model without quantizers, and the range of each grid (orange lines). What "
        "lies outside is clipped; what is empty inside is wasted."
    )
    shown = [(plots.ranges(found[:_SHOWN], "Histograms of activations with their ranges"), text)]
    return section("Ranges", "", shown if found else [], [("Ranges", columns, rows)])


def _weights(model: Any) -> dict[str, Any]:
    found = measure.weight_levels(model)
    text = "Weights in units of their channel's step: which levels of the grid are used."
    shown = [(plots.levels(found[:_SHOWN], "Histograms of weights on their grids"), text)]
    columns = ("tensor", "bits", "rounder", "scales", "largest scale")
    rows = [[row[column] for column in _BITS] for row in measure.bits_by_layer(model)]
    return section(
        "Weights and bits", "", shown if found else [], [("Quantized tensors", columns, rows)]
    )


_BITS = ("tensor", "bits", "rounder", "scales", "largest scale")


def _history(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not history:
        return []
    loss = {"loss": [epoch["loss"] for epoch in history]}
    shown = [(plots.lines(loss, "epoch", "loss", "Training loss by epoch"), "Training loss")]
    knobs = {
        f"{measure.short(path)} {knob}": [epoch["knobs"][path][knob] for epoch in history]
        for path, found in history[-1]["knobs"].items()
        for knob in found
    }
    if knobs:
        first = dict(list(knobs.items())[:8])
        shown.append((plots.lines(first, "epoch", "knob", "Knobs by epoch"), "Knobs"))
    widths = {
        measure.short(path): [
            epoch["ranges"][path][1] - epoch["ranges"][path][0] for epoch in history
        ]
        for path in list(history[-1]["ranges"])[:12]
    }
    if widths:
        drawn = plots.lines(widths, "epoch", "width of the range", "Range widths by epoch")
        shown.append((drawn, "Widths of the first ranges"))
    return [section("Training", "", shown)]


def _sizes(model: Any, file: TFLiteFile, facts: Mapping[str, Any]) -> dict[str, Any]:
    sizes = measure.sizes(file)
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:30]
    names, values = [name for name, _ in largest], [size for _, size in largest]
    shown = [(plots.bars(names, values, "bytes", "Bytes of constants by layer"), "Size by layer")]
    in_float = [list(pair) for pair in file.float_operators().items()] or [["none", 0]]
    tables: list[Any] = [("Operators in float", ("operator", "calls"), in_float)]
    layers = facts.get("layers", ())
    if layers:
        columns = ("name", "layer", "outcome", "macs", "why")
        rows = [[layer[column] for column in columns] for layer in layers]
        tables.append(("What became of each layer", columns, rows))
    return section("Size and layers", "", shown if sizes else [], tables)


def _devices(devices: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tables of what `device_figures` found."""
    tables: list[Any] = []
    for name, figures in devices.items():
        found = dict(figures)
        layers, fallbacks = found.pop("layers", None), found.pop("fallbacks", ())
        title = f"TFLite-Micro, {SAMPLES} samples" if name == MICRO else f"{name}, by Vela"
        rows = [[k.replace("_", " "), v] for k, v in found.items()]
        tables.append((title, ("figure", "value"), rows))
        if layers is not None:
            why = [[reason] for reason in fallbacks or ["none"]]
            tables.append(("Operators left to the CPU", ("why",), why))
            columns = ("name", "operator", "cycles", "macs")
            tables.append(("On the NPU", columns, [[row[c] for c in columns] for row in layers]))
    return [section("Devices", "", (), tables)] if tables else []


def _versions(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [list(pair) for pair in versions().items()]
    rows += [[f"sha256 of {k}", v] for k, v in facts.get("sources", {}).items()]
    return [section("Made by", "", (), [("Versions and sources", ("what", "which"), rows)])]


def write_comparison(
    path: str | os.PathLike[str], manifests: Sequence[str | os.PathLike[str]]
) -> str:
    """Writes a page that compares runs (extra [report]).

    Args:
        path: of the HTML file.
        manifests: those that `qat-round run` wrote.

    Returns:
        The page.

    Raises:
        FileNotFoundError, ValueError: for a manifest that is missing or none.
    """
    require_report()
    check_writable(path)
    runs = {str(manifest): _manifest(manifest) for manifest in manifests}
    keys = list(dict.fromkeys(key for run in runs.values() for key in run["figures"]))
    columns = ("run", "passed", "furthest, steps", *(key.replace("_", " ") for key in keys))
    rows = [
        [name, run["ok"], run["parity"]["max_steps"], *(run["figures"].get(key) for key in keys)]
        for name, run in runs.items()
    ]
    losses = {n: [e["loss"] for e in run["history"]] for n, run in runs.items() if run["history"]}
    drawn = [(plots.lines(losses, "epoch", "loss", "Training loss of each run"), "Training loss")]
    sizes = [run["figures"].get("file_bytes", 0) for run in runs.values()]
    bars = [(plots.bars(list(runs), sizes, "bytes", "File size of each run"), "File size")]
    passed = sum(bool(run["ok"]) for run in runs.values())
    sections = [section("Runs", "", bars + (drawn if losses else []), [("Runs", columns, rows)])]
    verdict = f"{passed} of {len(runs)} passed."
    text = render("Comparison of runs", passed == len(runs), verdict, sections, _version())
    write_file(path, text.encode())
    return text


def _manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"report: there is no manifest {str(path)!r}.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        whole = _is_manifest(found)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(_NO_MANIFEST.format(str(path))) from error
    if not whole:
        raise ValueError(_NO_MANIFEST.format(str(path)))
    return found


def _is_manifest(found: Any) -> bool:
    """Whether what a comparison shows is there, of the types that it needs."""
    figures, steps = found["figures"], found["parity"]["max_steps"]
    losses = [epoch["loss"] for epoch in found["history"]]
    size = figures.get("file_bytes", 0) if isinstance(figures, dict) else None
    return "ok" in found and all(isinstance(n, int | float) for n in (steps, size, *losses))


_NO_MANIFEST = "report: {!r} is no manifest; `qat-round run` writes <name>.json."
