"""Commands that look: methods, coverage, verify, inspect, report."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from . import qat_round
from .frame import CheckFailed, common_options, emit
from .options import data_options, quantize_options, read_samples, settings_of
from .progress import working


@qat_round.command()
@click.option("--curves", type=click.Path(), help="Draw value and gradient of each as SVG or PNG.")
@common_options
def methods(curves: str | None) -> None:
    """The rounding methods, with their settings."""
    from ..rounding import get, names
    from ..tables import as_text

    found = {name: get(name) for name in names()}
    rows = [(name, repr(r), (type(r).__doc__ or "").splitlines()[0]) for name, r in found.items()]
    if curves:
        from ..report.plots import draw_curves

        draw_curves(found, curves)
    result = {"methods": {name: r.get_config() for name, r in found.items()}}
    emit(result, as_text("Rounding methods", ("name", "settings", "what it does"), rows, 140))


@qat_round.command()
@click.argument("model", type=click.Path())
@quantize_options
@common_options
def coverage(model: str, **given: Any) -> None:
    """What will become of each layer of MODEL; status 1 if one stays in float."""
    from .. import api

    settings = settings_of(given)
    settings.pop("unsupported", None)
    with working("reading the model"):
        found = api.coverage(model, **settings)
    rows = [dataclasses.asdict(row) for row in found.layers]
    emit({"ok": found.ok, "integer_macs": found.integer_macs, "layers": rows}, found.table())
    if not found.ok:
        raise CheckFailed(f"{len(found.float_layers)} layers stay in float: "
                          f"{', '.join(found.float_layers)}.")  # fmt: skip


@qat_round.command()
@click.argument("model", type=click.Path())
@click.argument("tflite", type=click.Path())
@data_options
@click.option("--allow-float", is_flag=True, help="Tolerate operators in float.")
@click.option("--layers", is_flag=True, help="Name the first layer where they part.")
@click.option(
    "--kernels",
    type=click.Choice(["default", "builtin", "reference"]),
    default="default",
    show_default=True,
    help="Of TFLite: with XNNPACK, without it, or the reference kernels.",
)
@common_options
def verify(
    model: str, tflite: str, allow_float: bool, layers: bool, kernels: str, **given: Any
) -> None:
    """Compare TFLITE with the quantized MODEL it came from; status 1 if they differ."""
    from .. import api
    from ..tflite_file import read_bytes

    content, loaded = read_bytes(tflite), _quantized(model)
    inputs = read_samples(loaded, given).inputs
    with working("comparing"):
        parity = api.verify_tflite(
            loaded, content, inputs, allow_float=allow_float, kernels=kernels
        )
    result, text = parity.to_dict(), parity.table()
    if layers:
        found = api.compare_layers(loaded, content, inputs)
        result, text = result | {"layers": found.to_dict()}, f"{text}\n{found.table()}"
    emit(result, text)
    if not parity.ok:
        raise CheckFailed(f"{tflite} does not answer as {model} does.")


def _quantized(path: str) -> Any:
    from .. import api
    from ..tensors import require_quantized

    model = api.load_model(path, compile=False)
    require_quantized(model, "verify")
    return model


@qat_round.command(name="inspect")
@click.argument("tflite", type=click.Path())
@click.option("--tensors", is_flag=True, help="List every tensor too.")
@common_options
def inspect_file(tflite: str, tensors: bool) -> None:
    """What is in a TFLITE file: operators, types, sizes."""
    from ..inspect_file import inspected

    found = inspected(tflite)
    emit(found.to_dict(), found.table(tensors))


@qat_round.command()
@click.argument("manifests", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", default="report.html", show_default=True, type=click.Path())
@common_options
def report(manifests: tuple[str, ...], output: str) -> None:
    """Compare runs: one HTML page of several MANIFESTS (the .json files that `run` writes)."""
    from ..report import write_comparison

    write_comparison(output, manifests)
    emit({"report": output, "runs": list(manifests)}, f"wrote {output}")
