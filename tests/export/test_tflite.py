"""Export: integer-only files that answer as Keras does, and files that are whole or not there."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.files.atomic_write import write_file
from qat_round.files.tflite_file import TFLiteFile
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets

METHODS = ("sigmoid", "ramp", "fourier", "expected", "stochastic", "sine", "ste")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_an_integer_only_file_that_agrees(method, tuned, converted, pictures):
    parity = qr.verify_tflite(tuned(method), converted(method), pictures[0])
    assert parity.float_operators == {}
    assert set(parity.tensor_types) == {"INT8", "INT32"}
    assert parity.within_one >= 0.999
    assert parity.max_steps <= 2.001
    assert parity.top1_agreement > 0.99
    assert parity.ok


@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_inputs_and_outputs_have_the_type_asked_for(io, tuned, converted, pictures):
    tflite = converted("sine", io)
    file = TFLiteFile(tflite)
    ends = [file.tensors[index].type for index in (*file.inputs, *file.outputs)]
    assert ends == [io.upper()] * 2
    assert file.float_operators() == {}
    assert qr.verify_tflite(tuned("sine"), tflite, pictures[0][:128]).ok


def test_exporting_leaves_the_model_as_it_was(tuned, converted, pictures):
    model = tuned("sine")
    weights, outputs = model.get_weights(), model(pictures[0][:8], training=False)
    converted("sine")
    assert all(map(np.array_equal, model.get_weights(), weights))
    np.testing.assert_array_equal(model(pictures[0][:8], training=False), outputs)


def test_convolutions_weights_are_per_channel_and_as_in_keras(tuned, converted):
    file = TFLiteFile(converted("sine"))
    convolution = next(op for op in file.operators if op.name == "CONV_2D")
    assert file.tensors[convolution.inputs[1]].scales.shape == (8,)


def with_bits(bits: int):
    """A dense net with weights of so many bits, and its file."""
    model = qr.calibrate(qr.quantize_model(nets.dense_net(), weight_bits=bits), nets.vectors())
    return model, qr.export_tflite(model, io="int8")


@pytest.fixture(scope="module")
def four_bits():
    return with_bits(4)


def test_weights_of_4_bits_are_stored_as_int4_on_the_trained_grid(four_bits):
    model, tflite = four_bits
    file = TFLiteFile(tflite)
    weights = [file.tensors[op.inputs[1]] for op in file.operators]
    assert [tensor.type for tensor in weights] == ["INT4"] * 3
    ours = [t.scale_and_zero_point()[0] for t in quantized_tensors(model) if t.variable is not None]
    for tensor, steps in zip(weights, ours, strict=True):  # one for each channel
        np.testing.assert_allclose(tensor.scales, steps, rtol=1e-6)
    assert qr.verify_tflite(model, tflite, nets.vectors()).ok


@pytest.mark.parametrize("bits", [3, 6])
def test_weights_of_other_bits_keep_the_trained_grid(bits):
    model, tflite = with_bits(bits)
    assert qr.verify_tflite(model, tflite, nets.vectors()).ok


def test_a_layer_left_in_float_is_float_in_the_file():
    rows = nets.vectors()
    model = qr.quantize_model(nets.dense_net(), overrides={"last": qr.FLOAT})
    tflite = qr.export_tflite(qr.calibrate(model, rows))
    parity = qr.verify_tflite(model, tflite, rows)
    assert parity.float_operators == {"FULLY_CONNECTED": 1}
    assert not parity.ok
    assert qr.verify_tflite(model, tflite, rows, allow_float=True).ok


def test_export_writes_the_bytes_that_it_returns(four_bits, tmp_path):
    path = tmp_path / "model.tflite"
    content = qr.export_tflite(four_bits[0], path, io="int8")
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]


def test_a_loaded_models_file_is_the_same(four_bits, tmp_path):
    model, tflite = four_bits
    model.save(tmp_path / "model.keras")
    again = qr.export_tflite(qr.load_model(tmp_path / "model.keras"), io="int8")
    assert qr.verify_tflite(model, again, nets.vectors()).ok
    assert len(again) == len(tflite)


# Writing


def test_a_new_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_an_interrupted_write_leaves_the_old_file_and_nothing_beside(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]
    assert path.read_bytes() == b"old"


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda _: os._exit(9))
    child = os.fork()
    if child == 0:
        write_file(path, b"new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert path.read_bytes() == b"old"


def test_a_written_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    write_file(tmp_path / "model.tflite", b"new")
    ordinary, ours = ((tmp_path / n).stat().st_mode for n in ("ordinary", "model.tflite"))
    assert ours == ordinary


# 16-bit activations, fixed batches


def wide_nets():
    """A net of convolutions, one of dense layers, and one with an addition and averages."""
    layers = nets.layers
    pixels = x = layers.Input((12, 12, 1))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(x)
    y = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same")(x))
    x = layers.AveragePooling2D()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1, activation="relu")(x))
    mixed = nets.keras.Model(pixels, layers.Dense(4)(x))
    for model in (mixed, dense := nets.dense_net()):
        for variable in model.weights:
            if "bias" in variable.name:
                variable.assign(np.linspace(-0.2, 0.3, variable.shape[0]))
    return {"convolutions": nets.conv_net(), "dense": dense, "mixed": mixed}


@pytest.mark.parametrize("net", ["convolutions", "dense", "mixed"])
def test_files_of_16_bits_answer_as_keras_on_grids_of_65535_levels(net):
    rows = nets.vectors() if net == "dense" else nets.pictures(128)[0]
    model = qr.calibrate(qr.quantize_model(wide_nets()[net], activation_bits=16), rows[:64])
    tflite = qr.export_tflite(model, io="int16", batch_size=1)
    file = TFLiteFile(tflite)
    assert file.float_operators() == {}
    assert file.tensors[file.inputs[0]].type == "INT16"
    biases = [
        file.tensors[op.inputs[2]].type
        for op in file.operators
        if len(op.inputs) == 3 and op.inputs[2] >= 0
    ]
    assert set(biases) <= {"INT64"}
    parity = qr.verify_tflite(model, tflite, rows)
    assert parity.max_steps <= 2.01
    assert parity.within_one > 0.97
    assert parity.outputs[0].step < 2e-4


def test_io_has_to_fit_the_bits():
    model = qr.calibrate(qr.quantize_model(nets.dense_net(), activation_bits=16), nets.vectors())
    with pytest.raises(ValueError, match="use io=int16"):
        qr.export_tflite(model, io="int8")


def test_a_fixed_batch_is_in_the_file_and_can_be_verified(tuned, pictures):
    tflite = qr.export_tflite(tuned("ste"), io="int8", batch_size=4)
    file = TFLiteFile(tflite)
    assert file.tensors[file.inputs[0]].shape[0] == 4
    assert qr.verify_tflite(tuned("ste"), tflite, pictures[0][:10]).ok  # 4, 4, and 2 of 4


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_a_batch_size_is_a_whole_number(batch_size, tuned):
    with pytest.raises(ValueError, match="whole number >= 1"):
        qr.export_tflite(tuned("ste"), batch_size=batch_size)


@pytest.mark.parametrize("is_quantized", [True, False], ids=["quantized", "float"])
def test_a_float16_file_answers_as_the_float_model(is_quantized, tuned, float_net, pictures):
    model = tuned("sine") if is_quantized else float_net
    reference = qr.strip(model) if is_quantized else model
    file = TFLiteFile(qr.export_float16(model, batch_size=1))
    assert file.tensor_types()["FLOAT16"] >= 3
    assert "INT8" not in file.tensor_types()
    from qat_round.files.interpreter import Runner

    (name,) = (runner := Runner(file)).inputs
    found = np.concatenate([runner({name: pictures[0][i : i + 1]})[0] for i in range(16)])
    wanted = reference.predict(pictures[0][:16], verbose=0)
    assert np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_a_float16_file_refuses_a_batch_size_below_one(float_net):
    with pytest.raises(ValueError, match="export_float16: batch_size=0"):
        qr.export_float16(float_net, batch_size=0)


def test_tensorflow_gives_a_savedmodel_and_stablehlo_of_it(tuned, pictures, tmp_path):
    model, images = tuned("ste"), tf.constant(pictures[0][:32])
    ours = model(images, training=False).numpy()
    model.export(str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))  # its variables live as long as it
    saved = loaded.serve(images).numpy()
    step = qr.verify_tflite(model, qr.export_tflite(model), pictures[0][:1]).outputs[0].step
    assert np.abs(saved - ours).max() <= 1.001 * step
    infer = tf.function(lambda x: model(x, training=False), jit_compile=True, autograph=False)
    text = infer.experimental_get_compiler_ir(images)(stage="stablehlo")
    assert "stablehlo.convolution" in str(text)
