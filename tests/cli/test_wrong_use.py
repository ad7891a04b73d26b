"""Every kind of wrong use of the command line: one line, status 2."""

from __future__ import annotations

import os

import numpy as np
import pytest

from qat_round.cli.main import main
from qat_round.files.data_files import read_data
from tests.cli.invoke import told, without

# What it refuses: one line, status 2


WRONG = {
    "a missing model": (["coverage", "nix.keras"], "nix.keras"),
    "a missing file": (["inspect", "nix.tflite"], "nix.tflite"),
    "a missing recipe": (["run", "nix.toml"], "qat-round init"),
    "an unknown rounder": (["quantize", "net.keras", "-o", "q.keras", "--rounder", "sin"], "sine"),
    "an unknown option": (["inspect", "--frob"], "--frob"),
    "a missing array": (
        ["calibrate", "out/net_int8.keras", "-o", "c.keras", "--data", "data.npz", "--inputs", "z"],
        "'z'",
    ),
    "missing data": (
        ["calibrate", "out/net_int8.keras", "-o", "c.keras", "--data", "nix.npz"],
        "nix.npz",
    ),
    "a missing module": (
        ["calibrate", "out/net_int8.keras", "-o", "c.keras", "--data", "nix:load"],
        "nix",
    ),
    "a float model": (
        ["verify", "net.keras", "out/net_int8.tflite", "--data", "data.npz"],
        "quant",
    ),
    "a wrong ending": (["quantize", "net.keras", "-o", "q.tflite"], ".keras"),
    "a wrong io": (["export", "out/net_int8.keras", "-o", "q.tflite", "--io", "int16"], "int8"),
    "a C array of ONNX": (["export", "out/net_int8.keras", "-o", "q.onnx", "--c-array"], ".onnx"),
    "a recipe that is there": (["init", "net.keras"], "--force"),
    "io of ONNX": (
        ["export", "out/net_int8.keras", "-o", "q.onnx", "--io", "int8"],
        "--io would do nothing",
    ),
    "io of float16": (
        ["export", "net.keras", "-o", "q.tflite", "--float16", "--io", "int8"],
        "--io would do nothing",
    ),
    "lifting in float16": (
        ["export", "net.keras", "-o", "q.tflite", "--float16", "--lift-activations"],
        "--lift-activations would",
    ),
    "an array's name without array": (
        ["export", "out/net_int8.keras", "-o", "q.tflite", "--c-name", "q"],
        "--c-name would",
    ),
    "a name that C does not take": (
        ["export", "out/net_int8.keras", "-o", "q.tflite", "--c-array", "--c-name", "a-b"],
        "'a_b'",
    ),
    "unknown metadata": (
        ["export", "out/net_int8.keras", "-o", "q.tflite", "--metadata", "nam=x"],
        "'nam'",
    ),
    "a recipe and a rounder": (
        ["quantize", "net.keras", "-o", "q.keras", "--recipe", "recipe.toml", "--rounder", "sine"],
        "--rounder would",
    ),
    "a recipe and a layer": (
        ["coverage", "net.keras", "--recipe", "recipe.toml", "--float-layer", "bn"],
        "--float-layer would",
    ),
    "a scale of arrays": (
        ["calibrate", "out/net_int8.keras", "-o", "c.keras", "--data", "data.npz", "--scale", "2"],
        "leave them out",
    ),
    "a model and its file without data": (
        ["report", "out/net_int8.keras", "out/net_int8.tflite"],
        "--data",
    ),
    "a model without its file": (["report", "a.keras", "--data", "data.npz"], "two files"),
    "manifests and an NPU": (["report", "out/net_int8.json", "--micro"], "--micro would"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_ends_with_status_2_and_one_line(case, here, capsys):
    argv, word = WRONG[case]
    before = sorted(here.rglob("*"))
    assert main(argv) == 2
    assert word in told(capsys)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"TFL3", b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4, os.urandom(512)],
    ids=["empty", "short", "damaged", "random"],
)
def test_a_broken_file_ends_with_status_2(content, here, capsys):
    (here / "broken.tflite").write_bytes(content)
    assert main(["inspect", "broken.tflite"]) == 2
    assert ".tflite" in told(capsys)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_cut_short_ends_with_status_2(share, here, capsys):
    content = (here / "out" / "net_int8.tflite").read_bytes()
    (here / "cut.tflite").write_bytes(content[: int(len(content) * share)])
    assert main(["inspect", "cut.tflite"]) == 2
    assert "damaged" in told(capsys)


def test_a_broken_npz_is_named(here, capsys):
    (here / "cut.npz").write_bytes((here / "data.npz").read_bytes()[:1000])
    argv = ["calibrate", "out/net_int8.keras", "-o", "c2.keras", "--data", "cut.npz"]
    assert main(argv) == 2
    assert "cut.npz" in told(capsys)
    assert not (here / "c2.keras").exists()


def test_broken_images_are_named_and_counted(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"7 of 7 images .*0\.png.* and 2 more"):
        read_data(tmp_path, shape=(4, 4, 1))


def test_a_folder_with_a_broken_image_is_refused_before_training(here, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "ones").mkdir()
    for number in range(3):
        image.new("L", (12, 12), 40 * number).save(tmp_path / "ones" / f"{number}.png")
    whole = (tmp_path / "ones" / "1.png").read_bytes()
    (tmp_path / "ones" / "1.png").write_bytes(whole[: len(whole) // 2])
    argv = ["train", "out/net_int8.keras", "-o", "w.keras", "--data", str(tmp_path)]
    assert main(argv) == 2
    said = told(capsys)
    assert "1 of 3 images cannot be read" in said
    assert "1.png" in said
    assert not (here / "w.keras").exists()


def test_labels_that_do_not_fit_are_refused_before_training(here, capsys):
    data = np.load("data.npz")
    np.savez("wrong.npz", x=data["x"], y=data["y"] + 5)
    argv = ["train", "out/net_int8.keras", "-o", "w.keras", "--data", "wrong.npz"]
    assert main(argv) == 2
    assert "0 to 9" in told(capsys)


def test_data_without_labels_is_refused_for_training(here, capsys):
    np.savez("plain.npz", x=np.load("data.npz")["x"])
    assert main(["train", "out/net_int8.keras", "-o", "w.keras", "--data", "plain.npz"]) == 2
    assert "--labels" in told(capsys)


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/proc"])  # missing; not even root may write
def test_a_folder_that_cannot_be_written_is_named(folder, here, capsys):
    argv = ["export", "out/net_int8.keras", "-o", f"{folder}/model.tflite"]
    assert main(argv) == 2
    assert repr(folder) in told(capsys)


def test_a_full_disk_leaves_the_old_file(here, capsys, monkeypatch):
    (here / "full.tflite").write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["export", "out/net_int8.keras", "-o", "full.tflite"]) == 2
    assert "No space left" in told(capsys)
    assert (here / "full.tflite").read_bytes() == b"old"
    assert not list(here.glob(".full*"))


def test_ctrl_c_says_so_and_leaves_nothing_half_written(here, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert main(["export", "out/net_int8.keras", "-o", "stopped.tflite"]) == 130
    assert "interrupted" in told(capsys)
    assert not list(here.glob("*stopped*"))


def test_an_unexpected_error_shows_its_traceback_with_debug_only(here, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("deep inside")

    monkeypatch.setattr("qat_round.files.inspect.inspected", broken)
    assert main(["inspect", "out/net_int8.tflite"]) == 2
    assert "deep inside" in told(capsys)
    with pytest.raises(RuntimeError, match="deep inside"):
        main(["inspect", "out/net_int8.tflite", "--debug"])


def test_an_extra_that_is_not_installed_is_named(here, capsys, monkeypatch):
    without(monkeypatch, "jinja2")
    assert main(["report", "out/net_int8.json"]) == 2
    assert "pip install 'qat_round[report]'" in told(capsys)
