"""Options that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

Command = Callable[..., Any]


def quantize_options(command: Command) -> Command:
    """How to quantize: the arguments of `qr.quantize_model`, or a file."""
    for option in reversed(
        (
            click.option("--rounder", help="Rounding method; see `methods`."),
            click.option("--weight-bits", type=int, help="2 to 16; 8 by default."),
            click.option("--activation-bits", type=int, help="8, or 16 for int16x8."),
            click.option(
                "--float-layer", "float_layers", multiple=True, help="Leave a layer in float."
            ),
            click.option("--unsupported", type=click.Choice(["error", "float"])),
            click.option(
                "--recipe", type=click.Path(), help="Take [quantize] from a recipe instead."
            ),
        )
    ):
        command = option(command)
    return command


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `qr.quantize_model` that were asked for."""
    if given["recipe"]:
        refuse_together("--recipe", {o: given[name] for name, o in _BESIDE_RECIPE.items()})
        from qat_round import api  # noqa: F401
        from qat_round.pipeline.recipe_file import quantize_settings, read_recipe

        return quantize_settings(read_recipe(given["recipe"]).quantize)
    names = ("rounder", "weight_bits", "activation_bits", "unsupported")
    settings = {name: given[name] for name in names if given[name] is not None}
    if given["float_layers"]:
        from qat_round.quantizers.spec import FLOAT

        settings["overrides"] = dict.fromkeys(given["float_layers"], FLOAT)
    return settings


_BESIDE_RECIPE = {
    "rounder": "--rounder",
    "weight_bits": "--weight-bits",
    "activation_bits": "--activation-bits",
    "float_layers": "--float-layer",
    "unsupported": "--unsupported",
}


def refuse_together(option: str, others: Mapping[str, Any]) -> None:
    """Raises a UsageError for options that would be of no effect beside another.

    Args:
        option: the one that says it all.
        others: the value of each other by its name; empty and None are not given.
    """
    given = [name for name, value in others.items() if value]
    if given:
        raise click.UsageError(
            f"{', '.join(given)} would do nothing beside {option}; leave one out."
        )


def data_options(command: Command) -> Command:
    """Where samples come from."""
    return _data_options(command, required=True)


def optional_data_options(command: Command) -> Command:
    """The same, for a command that does something else without."""
    return _data_options(command, required=False)


def _data_options(command: Command, required: bool) -> Command:
    for option in reversed(
        (
            click.option(
                "--data",
                required=required,
                help=".npz, .npy, folder of images, or module:function.",
            ),
            click.option("--inputs", help="Name of the inputs in an .npz."),
            click.option("--labels", help="Name of the labels in an .npz, or an .npy."),
            click.option("--samples", type=click.IntRange(1), help="Use the first so many only."),
            click.option(
                "--scale", type=float, help="Of an image folder: pixel * scale + offset; 1/255."
            ),
            click.option("--offset", type=float, help="See --scale; 0 unless it is given."),
        )
    ):
        command = option(command)
    return command


def read_samples(model: Any, given: Mapping[str, Any]) -> Any:
    """The data that was asked for, as the model takes it."""
    from qat_round.files.data_files import read_data

    shape = model.inputs[0].shape[1:] if len(model.inputs) == 1 else None
    pixels = {key: given[key] for key in ("scale", "offset") if given[key] is not None}
    names = (given["inputs"], given["labels"], shape, model.input_names)
    data = read_data(given["data"], *names, **pixels)
    return data.part(0, given["samples"]) if given["samples"] else data
