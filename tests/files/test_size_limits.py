"""Files that declare more than they hold, or are damaged, are refused in bounded time."""

from __future__ import annotations

import io
import pathlib
import random
import subprocess
import sys
import warnings
import zipfile

import hostile
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.files.data_files import read_data
from qat_round.files.inspect import inspected
from qat_round.files.size_limits import declared_shape
from tests.models import nets

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
slow = pytest.mark.slow


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
