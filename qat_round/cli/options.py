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
        from .. import api  # noqa: F401
        from ..recipe_file import quantize_settings, read_recipe

        return quantize_settings(read_recipe(given["recipe"]).quantize)
    names = ("rounder", "weight_bits", "activation_bits", "unsupported")
    settings = {name: given[name] for name in names if given[name] is not None}
    if given["float_layers"]:
        from ..spec import FLOAT

        settings["overrides"] = dict.fromkeys(given["float_layers"], FLOAT)
    return settings


def data_options(command: Command) -> Command:
    """Where samples come from."""
    for option in reversed(
        (
            click.option(
                "--data",
                required=True,
                help=".npz, .npy, folder of images, or module:function.",
            ),
            click.option("--inputs", help="Name of the inputs in an .npz."),
            click.option("--labels", help="Name of the labels in an .npz, or an .npy."),
            click.option("--samples", type=click.IntRange(1), help="Use the first so many only."),
        )
    ):
        command = option(command)
    return command


def read_samples(model: Any, given: Mapping[str, Any]) -> Any:
    """The data that was asked for, as the model takes it."""
    from ..data_files import read_data

    shape = model.inputs[0].shape[1:] if len(model.inputs) == 1 else None
    data = read_data(given["data"], given["inputs"], given["labels"], shape, model.input_names)
    return data.part(0, given["samples"]) if given["samples"] else data
