"""Recipe files: defaults, and errors with their line."""

from __future__ import annotations

import pathlib

import pytest

from qat_round.cli.main import main
from qat_round.pipeline import recipe_schema
from qat_round.pipeline.recipe_file import RecipeError, read_recipe
from tests.cli.invoke import as_json

# Recipes


GOOD = '[model]\npath = "net.keras"\n\n[data]\ntrain = "data.npz"\n\n[quantize]\nrounder = "sine"\n'


def recipe(tmp_path, text: str) -> pathlib.Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_fills_in_defaults(tmp_path):
    found = read_recipe(recipe(tmp_path, GOOD))
    assert found.train == recipe_schema.TrainPart()
    assert found.quantize == {"rounder": "sine"}


BROKEN = {
    'seed = "x"\n': ("line 1", "whole number"),
    "seed = 1\nmodle = 3\n": ("line 2", "'model'"),
    '[model]\npth = "a"\n': ("line 2", "'path'"),
    "[model]\npath = 3\n": ("line 2", "a string"),
    '[model]\nsafe_mode = true\n[data]\ntrain = "d"\n': ("line 1", "needs path"),
    GOOD + "[train]\nepochs = 2.5\n": ("line 10", "whole number"),
    GOOD + "[train]\nepochs = -1\n": ("line 10", "at least 0"),
    GOOD + "[train]\nlearning_rate = 0\n": ("line 10", "above 0"),
    GOOD + '[export]\nio = "int9"\n': ("line 10", "'int8'"),
    GOOD + '[export]\nname = "a/b"\n': ("line 10", "letters"),
    GOOD + '[train]\nloss = "entropy"\n': ("line 10", "'crossentropy'"),
    GOOD + "weight_bts = 4\n": ("line 9", "'weight_bits'"),
    GOOD + 'weight_bits = "4"\n': ("line 9", "whole number"),
    GOOD + "weight_bits = 40\n": ("line", "40"),
    GOOD.replace("sine", "sinus"): ("line 8", "'sine'"),
    GOOD + '[[quantize.overrides]]\nweights = "sine"\n': ("line", "layers"),
    GOOD + 'recipe = "w4a8"\n': ("line 8", "leave ['rounder'] out"),
    GOOD.replace('rounder = "sine"', 'recipe = "w4a9"'): ("line 8", "'w4a8'"),
    GOOD + '[data2]\nmethod = "mse"\n': ("line 9", "'data'"),
    GOOD + "weight_bits = 8\nactivation_bits = 17\n": ("line 10", "17"),
    GOOD + 'preserve = "sparse"\n': ("line 9", "'sparse'"),
    GOOD
    + '[[quantize.overrides]]\nlayers = "a"\n[[quantize.overrides]]\nlayers = "b"\nweights = 3\n': (
        "line 11",
        "3",
    ),
    GOOD.replace("sine", "ste") + '[train]\nknob = "slope"\n': ("line 10", "they have none"),
    GOOD.replace("sine", "tanh") + '[train]\nknob = "sharpnes"\n': ("line 10", "'sharpness'"),
    GOOD + "[train]\nknob_start = 2\n": ("line 10", "knob = ..."),
    GOOD.replace("sine", "sigmoid") + '[train]\nknob = "slope"\nknob_start = 5\n': (
        "line 9",
        "knob_stop",
    ),
    GOOD.replace("sine", "sigmoid") + '[train]\nknob = "slope"\nknob_stop = 5\nknob_start = -5\n': (
        "line 12",
        "knob_start",
    ),
    GOOD + '[report]\nvela = "ethos-u55-129"\n': ("line 10", "'ethos-u55-128'"),
    GOOD + "[report]\nmicro = true\n[export]\nbatch_size = 2\n": ("line 10", "batch_size is 2"),
    GOOD + "[check]\narena_bytes = 1\n[export]\nbatch_size = 2\n": ("line 10", "batch_size is 2"),
    GOOD + '[export]\nc_name = "int"\n': ("line 10", "'_int'"),
    GOOD + "[export]\nalignment = 3\n": ("line 10", "allowed are [1, 2, 4"),
    GOOD + "[metadata]\nauthors = 3\n": ("line 10", "'author'"),
    "model = 3\n": ("line 1", "[model]"),
    "[model\n": ("no TOML", "line 1"),
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_recipe_is_refused_with_its_line(text, tmp_path):
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe(tmp_path, text))
    assert all(word in str(caught.value) for word in BROKEN[text]), caught.value


def test_a_named_recipe_brings_its_calibration_and_statistics(here, capsys):
    text = pathlib.Path("recipe.toml").read_text()
    start, stop = text.index("\n[quantize]") + 1, text.index("\n[train]") + 1
    text = text[:start] + '[quantize]\nrecipe = "w4a8"\n\n' + text[stop:]
    text = text.replace("net_int8", "net_w4a8").replace("epochs = 2", "epochs = 1")
    pathlib.Path("w4a8.toml").write_text(text)
    found = as_json(capsys, "run", "w4a8.toml")
    assert found["ok"]
    assert found["recipe"]["quantize"] == {"recipe": "w4a8"}
    assert as_json(capsys, "inspect", "out/net_w4a8.tflite")["tensor_types"]["INT4"] == 3


def test_a_recipe_for_a_model_with_float_layers_names_them(here):
    import tf_keras

    model = tf_keras.Sequential(
        [tf_keras.Input((8, 8, 8, 1)), tf_keras.layers.Conv3D(2, 3, name="solid")]
    )
    model.save("solid.keras")
    assert main(["init", "solid.keras", "-o", "solid.toml"]) == 0
    assert read_recipe("solid.toml").quantize["overrides"][0]["layers"] == "solid"


def test_a_recipe_names_layers_whatever_they_are_called():
    from qat_round._compat import read_toml
    from qat_round.pipeline.recipe_init import _quantize
    from qat_round.quantizers.model_spec import _matches

    names = ['say "x"', "back\\slash", "a[0]*?", "two\nlines", "\U0001f600"]
    found = read_toml(_quantize(dict.fromkeys(names, "no\noperator")))["quantize"]["overrides"]
    for name, override in zip(names, found, strict=True):
        assert [n for n in names if _matches(override["layers"], n, ())] == [name]
