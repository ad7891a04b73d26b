"""Commands that make: quantize, calibrate, train, export."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import click

from qat_round.cli.frame import common_options, emit, qat_round
from qat_round.cli.options import (
    data_options,
    quantize_options,
    read_samples,
    refuse_together,
    settings_of,
)
from qat_round.cli.progress import working

_METHODS = ["minmax", "percentile", "mse", "entropy"]
_LOSSES = ["auto", "crossentropy", "binary_crossentropy", "mean_squared_error"]
IO = ["float32", "int8", "uint8", "int16"]
TEXTS = ["name", "description", "version", "author", "license"]
_OUTPUT = click.option("-o", "--output", required=True, type=click.Path(), help="File to write.")


@qat_round.command()
@click.argument("model", type=click.Path())
@_OUTPUT
@quantize_options
@common_options
def quantize(model: str, output: str, **given: Any) -> None:
    """Quantize the float MODEL: a .keras file that is ready to be calibrated and trained."""
    from qat_round import api

    with working("quantizing"):
        quantized = api.quantize_model(model, **settings_of(given))
    _save(quantized, output)
    emit({"output": output, "layers": len(quantized.layers)}, f"wrote {output}")


@qat_round.command()
@click.argument("model", type=click.Path())
@_OUTPUT
@data_options
@click.option(
    "--method", type=click.Choice(_METHODS), help="By default mse below 8 bits, else minmax."
)
@common_options
def calibrate(model: str, output: str, method: str | None, **given: Any) -> None:
    """Find every range of the quantized MODEL from data."""
    from qat_round import api

    quantized = api.load_model(model, compile=False)
    data = read_samples(quantized, given)
    with working(f"calibrating with {data.samples} samples"):
        api.calibrate(quantized, data.inputs, method=method, verbose=0)
    _save(quantized, output)
    emit({"output": output, "samples": data.samples}, f"wrote {output}")


@qat_round.command()
@click.argument("model", type=click.Path())
@_OUTPUT
@data_options
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--learning-rate", type=float, default=3e-4, show_default=True)
@click.option("--loss", type=click.Choice(_LOSSES), default="auto")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@common_options
def train(model: str, output: str, **given: Any) -> None:
    """Train the quantized MODEL; interrupted, the same command goes on where it was."""
    from qat_round import api
    from qat_round.files.data_files import file_hash
    from qat_round.training.epochs import train_epochs

    loaded = api.load_model(model, compile=False)
    data = read_samples(loaded, given)
    keys = ("epochs", "batch_size", "learning_rate", "loss", "seed")
    settings = {key: given[key] for key in keys}
    target = pathlib.Path(output)
    state = target.parent / f".{target.stem}.training"
    mark = f"{file_hash(model)} {data.hash} {sorted(settings.items())}"
    with working("training") as progress:
        trained, history = train_epochs(
            lambda: api.load_model(model, compile=False),
            data,
            **settings,
            state=state,
            fingerprint=mark,
            told=progress.told,
            moved=progress.moved,
        )
    _save(trained, output)
    state.unlink(missing_ok=True)
    losses = [round(epoch["loss"], 6) for epoch in history]
    emit({"output": output, "losses": losses}, f"wrote {output}; losses {losses}")


@qat_round.command()
@click.argument("model", type=click.Path())
@_OUTPUT
@click.option("--io", type=click.Choice(IO), help="Of inputs and outputs; int8 by default.")
@click.option("--batch-size", type=click.IntRange(1), help="Fix the batch size.")
@click.option("--lift-activations", is_flag=True, help="Write those below 8 bits with 8.")
@click.option("--c-array", is_flag=True, help="Write C source and header beside it.")
@click.option("--c-name", help="Name of the array; by default that of the file.")
@click.option("--alignment", type=click.IntRange(1), help="Of the array, bytes; 16 by default.")
@click.option("--metadata", multiple=True, metavar="KEY=TEXT", help=f"{', '.join(TEXTS)}.")
@click.option("--float16", is_flag=True, help="Weights in float16, no integers; float models too.")
@common_options
def export(model: str, output: str, **given: Any) -> None:
    """Export the quantized MODEL: .tflite, or by the ending .onnx (extra [onnx]).

    Writes a manifest beside it: OUTPUT.json, with versions, hashes and what is quantized how.
    """
    _refuse_unused(output, given)
    if not (given["float16"] or output.endswith(".onnx")):
        given["io"] = given["io"] or "int8"
    texts = _texts(given["metadata"])
    from qat_round.files.atomic_write import check_writable, write_files
    from qat_round.files.manifest import noted

    check_writable(output)
    with working("converting"), noted() as notes:
        content, tensors = _converted(model, output, given)
    if texts:
        content = _with_metadata(content, {"name": pathlib.Path(output).stem, **texts})
    contents = {output: content} | (_c_files(content, output, given) if given["c_array"] else {})
    result = {"output": output, "bytes": len(content), "manifest": f"{output}.json", "notes": notes}
    if given["c_array"]:
        result["c"] = [path for path in contents if path != output]
    manifest = _manifest(model, contents, given, {"tensors": tensors, "notes": notes})
    write_files(contents | {f"{output}.json": manifest})
    emit(result, "\n".join([f"wrote {output}: {len(content):,} bytes", *notes]))


def _manifest(
    model: str, contents: dict[str, bytes], given: dict[str, Any], facts: dict[str, Any]
) -> bytes:
    from qat_round.files.data_files import file_hash
    from qat_round.files.manifest import manifest_of

    files = {
        pathlib.Path(path).suffix[1:] or "file": (pathlib.Path(path).name, content)
        for path, content in contents.items()
    }
    settings = {key: value for key, value in given.items() if value}
    return manifest_of(files, sources={"model": file_hash(model)}, settings=settings, **facts)


def _refuse_unused(output: str, given: dict[str, Any]) -> None:
    """Refuses options that would do nothing."""
    of_tflite = {option: given[key] for key, option in _OF_TFLITE.items()}
    if output.endswith(".onnx"):
        refuse_together("an output that ends in .onnx", of_tflite)
    if given["float16"]:
        refuse_together("--float16", {o: of_tflite[o] for o in ("--io", "--lift-activations")})
    if not given["c_array"]:
        named = {"--c-name": given["c_name"], "--alignment": given["alignment"]}
        refuse_together("an export without --c-array", named)


_OF_TFLITE = {
    "io": "--io",
    "batch_size": "--batch-size",
    "c_array": "--c-array",
    "metadata": "--metadata",
    "float16": "--float16",
    "lift_activations": "--lift-activations",
}


def _texts(given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=")[::2] for text in given]
    wrong = [key for key, _ in pairs if key not in TEXTS]
    if wrong:
        raise click.UsageError(f"--metadata has no {wrong[0]!r}; it has {', '.join(TEXTS)}.")
    return dict(pairs)


def _converted(model: str, output: str, given: dict[str, Any]) -> tuple[bytes, list[Any]]:
    """The file's bytes, and what is quantized how."""
    from qat_round import api
    from qat_round.report.measure import bits_by_layer

    if given["float16"]:
        return api.export_float16(model, batch_size=given["batch_size"]), []
    loaded = api.load_model(model, compile=False)
    if output.endswith(".onnx"):
        return api.export_onnx(loaded), bits_by_layer(loaded)
    content = api.export_tflite(
        loaded,
        io=given["io"],
        lift_activations=given["lift_activations"],
        batch_size=given["batch_size"],
    )
    return content, bits_by_layer(loaded)


def _with_metadata(content: bytes, texts: dict[str, Any]) -> bytes:
    from qat_round import api

    return api.add_metadata(content, **texts)


def _c_files(content: bytes, output: str, given: dict[str, Any]) -> dict[str, bytes]:
    from qat_round.export.c_source import c_texts

    stem = pathlib.Path(output).with_suffix("")
    alignment = {} if given["alignment"] is None else {"alignment": given["alignment"]}
    texts = c_texts(content, stem.name, given["c_name"], **alignment)
    return {f"{stem}.{end}": text.encode() for end, text in zip("ch", texts, strict=True)}


def _save(model: Any, output: str) -> None:
    from qat_round.files.keras_file import save_model

    if not output.endswith(".keras"):
        raise click.UsageError(f"the output {output!r} has to end in .keras.")
    save_model(model, output)
