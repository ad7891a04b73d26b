"""Commands that look: methods, coverage, verify, inspect, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import click

from qat_round.cli.frame import CheckFailed, common_options, emit, qat_round
from qat_round.cli.options import (
    data_options,
    optional_data_options,
    quantize_options,
    read_samples,
    refuse_together,
    settings_of,
)
from qat_round.cli.progress import working


@qat_round.command()
@click.option("--curves", type=click.Path(), help="Draw value and gradient of each as SVG or PNG.")
@common_options
def methods(curves: str | None) -> None:
    """The rounding methods, with their settings."""
    from qat_round._tables import as_text
    from qat_round.rounding import get, names

    found = {name: get(name) for name in names()}
    rows = [(name, repr(r), (type(r).__doc__ or "").splitlines()[0]) for name, r in found.items()]
    if curves:
        from qat_round.report.plots import draw_curves

        draw_curves(found, curves)
    result = {"methods": {name: r.get_config() for name, r in found.items()}}
    emit(result, as_text("Rounding methods", ("name", "settings", "what it does"), rows, 140))


@qat_round.command()
@click.argument("model", type=click.Path())
@quantize_options
@common_options
def coverage(model: str, **given: Any) -> None:
    """What will become of each layer of MODEL; status 1 if one stays in float."""
    from qat_round import api

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
    type=click.Choice(["default", "builtin", "reference", "micro"]),
    default="default",
    show_default=True,
    help="TFLite's with XNNPACK, without it, its reference kernels, or TFLite-Micro's.",
)
@common_options
def verify(
    model: str, tflite: str, allow_float: bool, layers: bool, kernels: str, **given: Any
) -> None:
    """Compare TFLITE with the quantized MODEL it came from; status 1 if they differ."""
    from qat_round import api
    from qat_round.files.tflite_file import read_bytes

    content, loaded = read_bytes(tflite), _quantized(model, "verify")
    inputs = read_samples(loaded, given).inputs
    with working("comparing"), api.lifted(loaded):
        parity = api.verify_tflite(
            loaded, content, inputs, allow_float=allow_float, kernels=kernels
        )
        found = api.compare_layers(loaded, content, inputs) if layers else None
    result, text = parity.to_dict(), parity.table()
    if found is not None:
        result, text = result | {"layers": found.to_dict()}, f"{text}\n{found.table()}"
    emit(result, text)
    if not parity.ok:
        raise CheckFailed(f"{tflite} does not answer as {model} does.")


def _quantized(path: str, verb: str) -> Any:
    from qat_round import api
    from qat_round.quantizers.quantized_tensors import require_quantized

    model = api.load_model(path, compile=False)
    require_quantized(model, verb)
    return model


@qat_round.command(name="inspect")
@click.argument("tflite", type=click.Path())
@click.option("--tensors", is_flag=True, help="List every tensor too.")
@common_options
def inspect_file(tflite: str, tensors: bool) -> None:
    """What is in a TFLITE file: operators, types, sizes."""
    from qat_round.files.inspect import inspected

    found = inspected(tflite)
    emit(found.to_dict(), found.table(tensors))


@qat_round.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILES...")
@click.option("-o", "--output", default="report.html", show_default=True, type=click.Path())
@optional_data_options
@click.option("--vela", metavar="NPU", help="Compile for an NPU, such as ethos-u55-128.")
@click.option("--micro", is_flag=True, help="Run the file on TFLite-Micro.")
@common_options
def report(files: tuple[str, ...], output: str, **given: Any) -> None:
    """Write an HTML page: of a quantized MODEL and its TFLITE, or of several runs.

    With --data the two FILES are MODEL and TFLITE; without, they are the manifests (.json) that
    `run` wrote, which are compared.
    """
    from qat_round.report.write_report import require_report, write_comparison

    if given["data"] is not None:
        if len(files) != 2:
            raise click.UsageError("with --data give two files: MODEL and TFLITE.")
        require_report()
        _page(output, *files, given)
        return
    refuse_together("manifests without --data", {f"--{key}": given[key] for key in given})
    if any(name.endswith((".keras", ".h5", ".tflite")) for name in files):
        raise click.UsageError("a page of a MODEL and its TFLITE needs --data.")
    write_comparison(output, files)
    emit({"report": output, "runs": list(files)}, f"wrote {output}")


def _page(output: str, model: str, tflite: str, given: Mapping[str, Any]) -> None:
    from qat_round import api
    from qat_round.files.data_files import file_hash
    from qat_round.files.tflite_file import read_bytes
    from qat_round.verify.metrics import figures

    content, loaded = read_bytes(tflite), _quantized(model, "report")
    data = read_samples(loaded, given)
    sources = {"model": file_hash(model), "tflite": file_hash(tflite), "data": data.hash}
    found = figures(loaded, content, data)
    with working("measuring"), api.lifted(loaded):
        parity = api.verify_tflite(loaded, content, data.inputs)
        api.write_report(
            output,
            model=loaded,
            tflite=content,
            inputs=data.part(0, 256).inputs,
            parity=parity,
            facts={"figures": found, "sources": sources},
            vela=given["vela"],
            micro=given["micro"],
        )
    emit({"report": output, "ok": parity.ok, "figures": found}, f"wrote {output}")
