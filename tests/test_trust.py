"""Loading runs no code; two runs are one; checkpoints; TFMOT's own promises with our scheme."""

from __future__ import annotations

import copy
import io
import json
import pathlib
import pickle
import random
import subprocess
import sys
import warnings
import zipfile

import nets
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round.files.data_files import read_data
from qat_round.files.inspect import inspected
from qat_round.files.size_limits import declared_shape
from qat_round.quantizers.quantized_tensors import quantized_tensors

TOOLS = pathlib.Path(__file__).parents[1] / "tools"
tq = tfmot.quantization.keras
slow = pytest.mark.slow


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


sys.path.insert(0, str(TOOLS))
import hostile  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The same small net as both versions of Keras save it."""
    import keras as keras3

    folder = tmp_path_factory.mktemp("saved")
    net = [keras.layers.Dense(2, input_shape=(3,))]
    keras.Sequential(net).save(folder / "two.keras")
    keras.Sequential(net).save(folder / "two.h5")
    keras3.Sequential([keras3.Input((3,)), keras3.layers.Dense(2)]).save(folder / "three.keras")
    return folder


@pytest.mark.parametrize("member", ["config.json", "metadata.json", "model.weights.h5"])
@pytest.mark.parametrize("name", ["two.keras", "three.keras"])
def test_a_model_that_grows_to_gigabytes_is_refused(saved, tmp_path, name, member):
    path = tmp_path / name
    path.write_bytes(hostile.bomb((saved / name).read_bytes(), member))
    assert path.stat().st_size < 2**23
    for read in (qr.quantize_model, qr.load_model):
        with pytest.raises(ValueError, match=r"declares 3,22.*more than 100 times as many"):
            read(path)


def test_a_description_of_more_than_16_mb_is_refused(saved, tmp_path):
    path = tmp_path / "long.keras"
    path.write_bytes((saved / "three.keras").read_bytes())
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the name is there twice
        archive.writestr("config.json", b" " * (2**24 + 1))
    with pytest.raises(ValueError, match=r"holds 'config\.json' of 16,777,217 bytes"):
        qr.quantize_model(path)


@pytest.mark.parametrize("name", ["two.keras", "two.h5", "three.keras"])
def test_weights_that_declare_terabytes_are_refused(saved, tmp_path, name):
    data, draws = (saved / name).read_bytes(), random.Random(0)
    if name.endswith(".keras"):
        data = hostile.changed(data, "model.weights.h5", lambda d: hostile.hostile_hdf5(d, draws))
    else:
        data = hostile.hostile_hdf5(data, draws)
    (tmp_path / name).write_bytes(data)
    for read in (qr.quantize_model, qr.load_model):
        with pytest.raises(ValueError, match="declares 68,719"):
            read(tmp_path / name)


def test_data_that_grow_to_gigabytes_are_refused(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.zeros((4, 8), np.float32))
    read_data(path)
    path.write_bytes(hostile.bomb(path.read_bytes(), "x.npy"))
    with pytest.raises(ValueError, match="declares 3,22"):
        read_data(path)


def test_data_of_zeros_are_read_all_the_same(tmp_path):
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, x=np.zeros((2**20, 32), np.float32))
    assert path.stat().st_size * 900 < 2**27
    assert read_data(path).inputs.shape == (2**20, 32)


def test_images_of_billions_of_pixels_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    whole = tf.io.encode_png(np.zeros((4, 4, 3), np.uint8)).numpy()
    (tmp_path / "a" / "huge.png").write_bytes(hostile.hostile_png(whole, random.Random(0)))
    with pytest.raises(ValueError, match=r"huge\.png \(an image of \d+ x \d+ pixels"):
        read_data(tmp_path, shape=(4, 4, 3))


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp"])
def test_the_size_of_an_image_is_read_from_its_header(ending):
    import PIL.Image

    out = io.BytesIO()
    kind = {"jpg": "jpeg"}.get(ending, ending)
    PIL.Image.new("RGB", (31, 17)).save(out, kind)
    assert declared_shape(out.getvalue()) == (31, 17)


@pytest.fixture(scope="module")
def tflite():
    model = qr.calibrate(qr.quantize_model(nets.dense_net()), nets.vectors())
    return qr.add_metadata(qr.export_tflite(model), name="a net")


def damaged(tflite: bytes, change) -> bytes:
    """The file with something changed in its tree, its checksums and offsets right."""
    from qat_round._compat import read_flatbuffer, write_flatbuffer

    tree = read_flatbuffer(tflite)
    change(tree)
    return write_flatbuffer(tree)


def test_a_tflite_that_declares_gigabytes_is_refused(tflite):
    """TFLite's interpreter would work on it for minutes."""

    def enlarge(tree):
        graph = tree.subgraphs[0]
        graph.tensors[graph.operators[0].outputs[0]].shape = np.array([2**31 - 1, 4], np.int32)

    with pytest.raises(ValueError, match="damaged.*declares 8,589,934,588 values"):
        qr.verify_tflite(np.zeros((2, 3)), damaged(tflite, enlarge), nets.vectors(2))


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_a_tflite_without_the_tensors_that_it_names_is_refused(tflite, where):
    def misplace(tree):
        setattr(tree.subgraphs[0], where, [999])

    with pytest.raises(ValueError, match="damaged"):
        inspected(damaged(tflite, misplace))


def test_damaged_metadata_are_refused(tflite):
    def spoil(tree):
        entry = next(e for e in tree.metadata if e.name == b"TFLITE_METADATA")
        tree.buffers[entry.buffer].data = np.full(40, 255, np.uint8)

    with pytest.raises(ValueError, match="damaged"):
        inspected(damaged(tflite, spoil))


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.zeros((4, 8), np.float32))
    path.write_bytes(hostile.changed(path.read_bytes(), "x.npy", lambda content: content[1:]))
    with pytest.raises(ValueError, match="member 'x' is no array"):
        read_data(path)


@slow
def test_damaged_files_give_errors_in_bounded_time_and_memory():
    command = [sys.executable, str(TOOLS / "fuzz.py"), "--seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]


# Determinism.

TRAIN_TWICE = """
import sys, numpy as np, tensorflow as tf, tf_keras as keras, nets, qat_round as qr
keras.utils.set_random_seed(1)
tf.config.experimental.enable_op_determinism()
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[2]))
net = nets.conv_net(); keras.utils.set_random_seed(1)
model = qr.quantize_model(net, "stochastic")
nets.ready(qr.calibrate(model, nets.pictures(64)[0]))
model.fit(*nets.pictures(128), verbose=0, epochs=2)
np.savez(sys.argv[1], *model.get_weights())
"""


def trained(path: pathlib.Path, threads: int) -> list[np.ndarray]:
    command = [sys.executable, "-c", TRAIN_TWICE, str(path), str(threads)]
    here = str(pathlib.Path(__file__).parent)
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=here)
    with np.load(path) as found:
        return [found[name] for name in found.files]


@slow
def test_two_runs_are_identical_random_rounding_included(tmp_path):
    """With as many threads; another number moves the last bits of TensorFlow's own gradients."""
    first, second = trained(tmp_path / "a.npz", 2), trained(tmp_path / "b.npz", 2)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@slow
def test_two_trainings_in_one_process_are_identical():
    found = []
    for _ in range(2):
        net = nets.dense_net()
        keras.utils.set_random_seed(5)
        model = nets.ready(qr.calibrate(qr.quantize_model(net, "stochastic"), nets.vectors()))
        nets.steps(model, nets.vectors(), np.arange(64) % 3, 5)
        found.append(model.get_weights())
    assert not np.array_equal(found[0][-1], nets.dense_net().get_weights()[-1])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


# Checkpoints.


def adopted():
    model = tq.quantize_model(nets.dense_net())
    nets.ready(model).fit(nets.vectors(), np.arange(64) % 3, verbose=0)
    return qr.adopt(model)


MAKE = {"quantized": lambda: qr.quantize_model(nets.dense_net(), "sine"), "adopted": adopted}


@pytest.mark.parametrize("kind", ["quantized", pytest.param("adopted", marks=slow)])
def test_a_checkpoint_in_mid_training_brings_back_the_next_steps(kind, tmp_path):
    rows, labels = nets.vectors(), np.arange(64) % 3
    model = nets.ready(qr.calibrate(MAKE[kind](), rows))
    nets.steps(model, rows, labels, 3)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "mid"))
    expected = nets.steps(model, rows, labels, 3)
    fresh = nets.ready(MAKE[kind]())
    tf.train.Checkpoint(model=fresh).restore(path)
    assert nets.steps(fresh, rows, labels, 3) == expected


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_an_adopted_model_reloads(ending, tmp_path):
    model = adopted()
    rows = nets.vectors()
    model.save(tmp_path / f"adopted{ending}")
    again = qr.load_model(tmp_path / f"adopted{ending}")
    np.testing.assert_array_equal(again(rows, training=False), model(rows, training=False))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_an_annotated_model_reloads_in_every_format(ending, tmp_path):
    annotated = qr.annotate_model(nets.dense_net(), qr.LayerSpec("sine"))
    annotated.save(tmp_path / f"annotated{ending}")
    again = qr.load_model(tmp_path / f"annotated{ending}")
    rows = nets.vectors()
    np.testing.assert_array_equal(again(rows), annotated(rows))
    assert qr.quantize_apply(again).count_params() == qr.quantize_apply(annotated).count_params()


# What TFMOT documents, with our scheme.


def test_tfmots_own_functions_take_our_scheme():
    """quantize_annotate_model, quantize_annotate_layer, quantize_apply(model, scheme)."""
    annotated = tq.quantize_annotate_model(nets.dense_net())
    with tq.quantize_scope():
        model = tq.quantize_apply(annotated, qr.RoundingScheme(rounder="sine"))
    assert {t.quantizer.rounder.name for t in quantized_tensors(model)} == {"sine"}


def test_only_annotated_layers_are_quantized():
    def mark(layer):
        return tq.quantize_annotate_layer(layer) if layer.name == "last" else layer

    annotated = keras.models.clone_model(nets.dense_net(), clone_function=mark)
    model = tq.quantize_apply(annotated, qr.RoundingScheme())
    kernels = [t.layer.name for t in quantized_tensors(model) if t.variable is not None]
    assert kernels == ["quant_last"]


def test_a_users_quantize_config_is_kept():
    """A QuantizeConfig given with an annotation decides for its layer, as TFMOT documents."""

    @keras.utils.register_keras_serializable(package="test_trust")
    class FourBits(tq.QuantizeConfig):
        def get_weights_and_quantizers(self, layer):
            quantizer = tq.quantizers.LastValueQuantizer(4, False, True, False)
            return [(layer.kernel, quantizer)]

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_weights(self, layer, quantize_weights):
            layer.kernel = quantize_weights[0]

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            return []

        def get_config(self):
            return {}

    def mark(layer):
        config = FourBits() if layer.name == "dense_b" else None
        return tq.quantize_annotate_layer(layer, config)

    annotated = keras.models.clone_model(nets.dense_net(), clone_function=mark)
    with tq.quantize_scope({"FourBits": FourBits}):
        model = tq.quantize_apply(annotated, qr.RoundingScheme())
    by_path = {t.path: t for t in quantized_tensors(model)}
    assert by_path["quant_dense_b/kernel"].bits == 4
    assert by_path["quant_dense_a/kernel"].bits == 8
    assert "quant_dense_b/output" not in by_path


def test_the_float_model_is_untouched_and_the_copy_has_its_weights():
    net = nets.dense_net()
    before = net.get_weights()
    model = tq.quantize_apply(tq.quantize_annotate_model(net), qr.RoundingScheme())
    assert any(np.array_equal(w, before[0]) for w in model.get_weights())
    nets.ready(model).fit(nets.vectors(), np.arange(64) % 3, verbose=0)
    for a, b in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_quantized_model_reloads_under_quantize_scope(tmp_path):
    model = tq.quantize_apply(tq.quantize_annotate_model(nets.dense_net()), qr.RoundingScheme())
    model.save(tmp_path / "model.h5")
    with tq.quantize_scope():
        again = keras.models.load_model(tmp_path / "model.h5")
    rows = nets.vectors()
    np.testing.assert_array_equal(again(rows, training=False), model(rows, training=False))


def test_a_quantized_model_is_cloned_with_equal_quantizers():
    model = tq.quantize_apply(tq.quantize_annotate_model(nets.dense_net()), qr.RoundingScheme())
    with tq.quantize_scope():
        clone = keras.models.clone_model(model)
    ours, theirs = ([t.quantizer for t in quantized_tensors(m)] for m in (model, clone))
    assert ours == theirs
