"""Loading runs no code: pickles, Lambdas, and what a config names are refused."""

from __future__ import annotations

import copy
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.files.data_files import read_data
from tests.models import nets

# Loading runs no code.


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Code that does run makes its file here."""
    monkeypatch.chdir(tmp_path)


class Bomb:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("exploded"),))


def test_pickles_in_data_are_refused(tmp_path):
    np.savez(tmp_path / "bomb.npz", x=np.array([Bomb()], object))
    (tmp_path / "bomb.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.npz", "bomb.npy"):
        with pytest.raises(ValueError, match="is no whole"):
            read_data(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_lambdas_in_files_are_refused(tmp_path, ending):
    path = tmp_path / f"lambda{ending}"
    layers = [keras.layers.Dense(2, input_shape=(3,)), keras.layers.Lambda(lambda x: x * 2.0)]
    keras.Sequential(layers).save(path)
    with pytest.raises(ValueError, match="ambda"):
        qr.quantize_model(path)


def exploding(x):
    pathlib.Path("exploded").touch()
    return x


def lambda_net(kind: str, code):
    inputs = keras.Input((3,))
    bomb = keras.layers.Lambda(code, name="bomb")
    if kind == "sequential":
        return keras.Sequential([inputs, keras.layers.Dense(2), bomb])
    return keras.Model(inputs, bomb(keras.layers.Dense(2)(inputs)))


CODE = {
    "lambda": lambda x: (__import__("pathlib").Path("exploded").touch(), x)[1],
    "named": exploding,  # Keras saves its byte code all the same
}
SAVED = {"m.keras": "m.keras", "m.h5": "m.h5", "hdf5.keras": "m.h5", "folder": "folder"}


@pytest.fixture
def bomb(request):
    """A file with a Lambda that would make the file "exploded"."""
    name, kind, code = request.param
    lambda_net(kind, CODE[code]).save(SAVED[name])
    pathlib.Path(SAVED[name]).rename(name)
    pathlib.Path("exploded").unlink()
    return name


BOMBS = [
    (name, kind, code)
    for name in SAVED
    for kind in ("sequential", "functional")
    for code in CODE
    if name != "folder"
]


@pytest.mark.parametrize("bomb", BOMBS, indirect=True, ids="-".join)
@pytest.mark.parametrize("read", [qr.load_model, qr.quantize_model, qr.coverage, qr.export_float16])
def test_code_in_files_is_not_run(bomb, read):
    with pytest.raises(ValueError, match=r"safe_mode=False"):
        read(bomb)
    assert not pathlib.Path("exploded").exists()


SAVED_MODELS = [("folder", kind, "lambda") for kind in ("sequential", "functional")]


@pytest.mark.parametrize("bomb", SAVED_MODELS, indirect=True, ids="-".join)
def test_code_in_a_saved_models_config_is_not_run(bomb):
    """What its graph does is TensorFlow's: it was traced when it was saved."""
    qr.load_model(bomb)
    with pytest.raises(ValueError, match="bomb"):
        qr.quantize_model(bomb)
    assert not pathlib.Path("exploded").exists()


@pytest.mark.parametrize("bomb", BOMBS, indirect=True, ids="-".join)
def test_code_is_run_where_that_was_asked_for(bomb):
    qr.load_model(bomb, safe_mode=False)
    assert pathlib.Path("exploded").exists()
    overrides = {"bomb": qr.FLOAT}
    assert qr.quantize_model(bomb, safe_mode=False, overrides=overrides) is not None


def save_with_function(path: pathlib.Path, module: str, name: str) -> None:
    """A `.keras` whose Lambda names a function, as Keras serializes one."""
    lambda_net("functional", exploding).save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    config = json.loads(parts["config.json"])
    entry = next(e for e in config["config"]["layers"] if e["class_name"] == "Lambda")
    function = {"class_name": "function", "module": module, "config": name}
    function["registered_name"] = name
    entry["config"] |= {"function": function, "function_type": "function", "module": None}
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("tf_keras.src.utils.io_utils", "os.system"), ("builtins", "exec")],
)
def test_functions_of_modules_are_not_looked_up_for_a_file(module, name, tmp_path):
    """Keras would import the module and hand the function to a Lambda."""
    save_with_function(tmp_path / "m.keras", module, name)
    for read in (qr.load_model, qr.quantize_model):
        with pytest.raises(ValueError, match=rf"{name}.*safe_mode=False"):
            read(tmp_path / "m.keras")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("symbol", ["io.gfile.rmtree", "compat.v1.gfile.DeleteRecursively"])
def test_operators_that_do_more_than_compute_are_refused(symbol, ending, tmp_path):
    """Keras calls a recorded operator with the constants that the file has for it."""
    (tmp_path / "victim").mkdir()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, tf.nn.relu6(keras.layers.Dense(2)(inputs)))
    config = model.get_config()
    evil = copy.deepcopy(config["layers"][-1])
    evil["name"] = evil["config"]["name"] = "evil"
    evil["config"]["function"] = symbol
    evil["inbound_nodes"] = [["_CONSTANT_VALUE", -1, str(tmp_path / "victim"), {}]]
    config["layers"].append(evil)
    model.get_config = lambda: config
    model.save(tmp_path / f"m{ending}")
    for read in (qr.load_model, qr.quantize_model):
        with pytest.raises(ValueError, match=rf"{symbol}.*safe_mode=False"):
            read(tmp_path / f"m{ending}")
    assert (tmp_path / "victim").exists()


def test_operators_that_compute_are_loaded(tmp_path):
    x = inputs = keras.Input((4,))
    x = tf.nn.relu6(tf.math.square(x) * 2.0 + tf.cast(tf.shape(x)[0], tf.float32))
    x = keras.backend.clip(tf.concat([x, tf.compat.v1.div(x, 2.0)], -1)[:, 1:], 0.0, 1.0)
    model = keras.Model(inputs, tf.linalg.matmul(x, x, transpose_b=True))
    for ending in (".keras", ".h5"):
        model.save(tmp_path / f"m{ending}")
        assert len(qr.load_model(tmp_path / f"m{ending}").layers) == len(model.layers)


class Doubling(keras.Model):
    def call(self, x):
        return 2.0 * x

    def get_config(self):
        return {}


def test_models_of_modules_that_are_loaded_are_known_and_none_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "foreign.py").write_text("raise RuntimeError('it was imported')")
    path = tmp_path / "m.keras"
    model = Doubling()
    model(nets.vectors())
    model.save(path)
    assert type(qr.load_model(path)) is Doubling
    monkeypatch.setattr(Doubling, "__module__", "foreign")
    model.save(path)
    with pytest.raises(ValueError, match=r"'Doubling' of the module 'foreign'.*safe_mode=False"):
        qr.load_model(path)


def test_functions_that_were_registered_are_known(tmp_path):
    path = tmp_path / "m.keras"
    save_with_function(path, "builtins", "exploding")
    with pytest.raises(ValueError, match="calls the function 'exploding'"):
        qr.load_model(path)
    assert qr.load_model(path, custom_objects={"exploding": exploding}) is not None
    with keras.utils.custom_object_scope({"exploding": exploding}):
        assert qr.load_model(path) is not None


def test_unknown_classes_in_files_are_refused(tmp_path):
    class Unknown(keras.layers.Layer):
        pass

    model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,)), Unknown()])
    model.save(tmp_path / "unknown.keras")
    for read in (qr.quantize_model, qr.load_model):
        with pytest.raises((ValueError, TypeError), match="Unknown"):
            read(tmp_path / "unknown.keras")
