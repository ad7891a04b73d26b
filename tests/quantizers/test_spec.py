"""Specs are plain data: they merge, survive files, and refuse what they do not know."""

import copy
import dataclasses
import json
import pickle

import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.model_spec import ModelSpec
from qat_round.quantizers.ranges import Fixed, MovingAverage
from qat_round.quantizers.spec import FLOAT, LayerSpec, TensorSpec, tensor_spec

FULL = TensorSpec(
    bits=4,
    rounder=qr.SigmoidRound(slope=7.0),
    range=MovingAverage(0.5),
    symmetric=True,
    per_axis=False,
    narrow_range=True,
)
MODEL = ModelSpec(
    LayerSpec(weights=FULL, activations="sine"),
    {
        "dense_*": FLOAT,
        keras.layers.Dense: LayerSpec(weights=TensorSpec(bits=2)),
        "last": LayerSpec(weights=None, activations=TensorSpec(range=Fixed(0.0, 6.0))),
        "noisy": LayerSpec(weights="stochastic", activations=TensorSpec(range="fixed")),
    },
)


# TensorSpec.


def test_a_tensor_spec_turns_names_into_objects():
    spec = TensorSpec(bits=4, rounder="sine", range="moving_average")
    assert spec.rounder == qr.SineRound()
    assert spec.range == MovingAverage()
    assert spec.given() == {"bits": 4, "rounder": qr.SineRound(), "range": MovingAverage()}
    assert TensorSpec().given() == {}


def test_over_keeps_what_is_given_and_takes_the_rest():
    spec = TensorSpec(bits=4, symmetric=False).over(FULL)
    assert spec == dataclasses.replace(FULL, bits=4, symmetric=False)
    assert FULL.over(TensorSpec(bits=8)) == FULL
    assert TensorSpec().over(FULL) == FULL


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bits": 1}, ValueError, "bits=1 has to be a whole number from 2 to 16"),
        ({"bits": 17}, ValueError, "bits=17 has to be"),
        ({"rounder": "sin"}, ValueError, "Unknown rounder 'sin'.*Did you mean 'sine'"),
        ({"range": "fix"}, ValueError, "Unknown range 'fix'.*Did you mean 'fixed'"),
        ({"symmetric": "false"}, TypeError, "symmetric='false' has to be True, False or None"),
        ({"per_axis": 1}, TypeError, "per_axis=1 has to be True, False or None"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        TensorSpec(**settings)


def test_a_tensor_spec_is_made_from_a_rounder_a_dict_or_itself():
    sine = TensorSpec(rounder="sine")
    for given in ("sine", {"name": "sine"}, qr.SineRound(), sine, {"rounder": "sine"}):
        assert tensor_spec(given, "weights") == sine
    assert tensor_spec(None, "weights") is None


def test_what_is_no_tensor_spec_is_refused_by_name():
    with pytest.raises(TypeError, match=r"weights=8 is a int; give a rounder's name out of"):
        LayerSpec(weights=8)
    with pytest.raises(ValueError, match=r"weights: TensorSpec has no setting 'bit'.*'bits'\?"):
        LayerSpec(weights={"bit": 4})
    with pytest.raises(ValueError, match="Unknown rounder 'sinus'"):
        LayerSpec(activations="sinus")


# LayerSpec.


def test_a_layer_spec_says_nothing_unless_told():
    assert LayerSpec() == LayerSpec(TensorSpec(), TensorSpec())
    assert LayerSpec(weights="sine").activations == TensorSpec()


def test_layer_specs_merge_part_by_part():
    base = LayerSpec(weights=FULL, activations=TensorSpec(bits=8, rounder="ste"))
    merged = LayerSpec(weights=TensorSpec(bits=2), activations="sine").over(base)
    assert merged.weights == dataclasses.replace(FULL, bits=2)
    assert merged.activations == TensorSpec(bits=8, rounder="sine")
    assert LayerSpec().over(base) == base


def test_float_stays_float_and_can_be_taken_back():
    base = LayerSpec(weights=FULL)
    assert FLOAT.over(base) == FLOAT
    assert LayerSpec().over(FLOAT) == FLOAT
    assert LayerSpec(weights="sine").over(FLOAT).weights == TensorSpec(rounder="sine")


# ModelSpec.


def test_the_last_matching_override_wins_over_the_default_only():
    default = LayerSpec(weights=TensorSpec(bits=8, rounder="sine"), activations="ste")
    spec = ModelSpec(
        default,
        {
            "dense_*": LayerSpec(weights=TensorSpec(bits=4, symmetric=True)),
            "*_1": LayerSpec(weights=TensorSpec(bits=2)),
        },
    )
    assert spec.for_layer("conv", ["Conv2D"]) == default
    assert spec.for_layer("dense_7", ["Dense"]).weights.bits == 4
    last = spec.for_layer("dense_1", ["Dense"])
    assert last.weights == TensorSpec(bits=2, rounder="sine"), "nothing of the one before"
    assert last.activations == default.activations


def test_classes_match_with_the_classes_they_inherit_from():
    spec = ModelSpec(overrides={keras.layers.Dense: FLOAT})
    assert spec.for_layer("any", ["Own", "Dense", "Layer"]) == FLOAT
    assert spec.for_layer("Dense", ["Conv2D", "Layer"]) == LayerSpec()


def test_names_match_by_case_and_pattern():
    spec = ModelSpec(overrides={"conv[12]": FLOAT})
    matches = [spec.for_layer(name, []) == FLOAT for name in ("conv1", "conv2", "conv3", "Conv1")]
    assert matches == [True, True, False, False]


def test_an_override_that_matches_nothing_is_an_error_with_the_nearest_name():
    layers = [("dense_1", ["Dense"]), ("conv", ["Conv2D"])]
    ModelSpec(overrides={"dense_*": FLOAT, keras.layers.Conv2D: FLOAT}).check_matches(layers)
    with pytest.raises(ValueError, match=r"'dense_2' matches no layer. Did you mean 'dense_1'\?"):
        ModelSpec(overrides={"dense_2": FLOAT}).check_matches(layers)
    with pytest.raises(ValueError, match=r"the class LSTM matches no layer.*\['dense_1', 'conv'\]"):
        ModelSpec(overrides={keras.layers.LSTM: FLOAT}).check_matches(layers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSpec("sine"), "ModelSpec: default is 'sine'; give a qr.LayerSpec"),
        (lambda: ModelSpec(overrides={3: FLOAT}), "the key 3 is neither a layer name pattern"),
        (
            lambda: ModelSpec(overrides={"a": "ste"}),
            r"overrides\['a'\] is 'ste'; give a qr.LayerSp",
        ),
        (lambda: ModelSpec(overrides={keras.layers.Dense: None}), r"\[the class Dense\] is None"),
    ],
    ids=["default", "key", "value", "none"],
)
def test_overrides_of_wrong_types_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


# Files.


@pytest.mark.parametrize("spec", [MODEL, ModelSpec()], ids=["full", "empty"])
def test_a_model_spec_survives_json(spec):
    assert ModelSpec.from_config(json.loads(json.dumps(spec.get_config()))) == spec


@pytest.mark.parametrize("spec", [FLOAT, LayerSpec(), MODEL.default, LayerSpec(weights=None)])
def test_a_layer_spec_survives_json(spec):
    assert LayerSpec.from_config(json.loads(json.dumps(spec.get_config()))) == spec


def test_no_config_has_a_null_because_toml_has_none():
    assert "null" not in json.dumps(MODEL.get_config())


def test_a_spec_can_be_written_by_hand_in_toml():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    written = """
        [default]
        weights = { bits = 4, rounder = "sine" }
        activations = { rounder = { name = "sigmoid", slope = 7 } }
        [[overrides]]
        layers = "dense_*"
        weights = false
        activations = false
    """
    right = ModelSpec(
        LayerSpec(TensorSpec(4, "sine"), qr.SigmoidRound(slope=7.0)), {"dense_*": FLOAT}
    )
    assert ModelSpec.from_config(tomllib.loads(written)) == right


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"defaults": {}}, r"ModelSpec has no setting 'defaults'; .*Did you mean 'default'"),
        ({"default": {"weight": {}}}, r"LayerSpec has no setting 'weight'.*'weights'\?"),
        ({"default": {"weights": {"bit": 4}}}, "TensorSpec has no setting 'bit'"),
        ({"overrides": [{"weights": False}]}, "needs the key 'layers'"),
        ({"overrides": [{"layers": "a", "weight": 1}]}, "LayerSpec has no setting 'weight'"),
    ],
)
def test_a_config_with_unknown_parts_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ModelSpec.from_config(config)


def test_specs_are_values():
    for spec in (FULL, MODEL.default, MODEL):
        assert copy.deepcopy(spec) == spec
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert hash(copy.deepcopy(spec)) == hash(spec)
        with pytest.raises(dataclasses.FrozenInstanceError):
            spec.bits = 3
