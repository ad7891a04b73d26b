"""Fixtures that cost seconds, made once: data, a trained network, and what comes of it."""

from __future__ import annotations

import functools
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

import qat_round as qr
from qat_round.cli.main import main
from tests.models import nets

ROOT = pathlib.Path(__file__).parents[1]
collect_ignore = ["scripts"]  # programs, one of which sets up devices when it is imported


def git_status() -> str:
    """Changed and new files of this checkout; nothing where there is no checkout."""
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=all"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


class CleanCheckout:
    """Fails a run of tests that leaves files in the checkout, or changes some."""

    def __init__(self) -> None:
        self.before, self.after = git_status(), ""

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        self.after = git_status()
        if self.after != self.before and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.after != self.before:
            terminalreporter.section("this run changed `git status`", red=True)
            terminalreporter.write_line(f"before:\n{self.before}\nafter:\n{self.after}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # once, not in each process of pytest-xdist
        config.pluginmanager.register(CleanCheckout())


@pytest.fixture(scope="session")
def pictures():
    return nets.pictures()


@pytest.fixture(scope="session")
def float_net(pictures):
    """A trained float network, to be quantized; tests leave it as it is."""
    model = nets.ready(nets.conv_net(), rate=3e-3)
    model.fit(*pictures, epochs=3, verbose=0)
    return model


@pytest.fixture(scope="session")
def tuned(float_net, pictures):
    """rounder name -> the network quantized by it, calibrated and fine-tuned; not to be changed."""

    @functools.cache
    def make(rounder: str):
        model = qr.quantize_model(float_net, rounder)
        qr.calibrate(model, pictures[0][:128])
        nets.ready(model, rate=1e-4).fit(*pictures, epochs=1, verbose=0)
        return model

    return make


@pytest.fixture(scope="session")
def converted(tuned):
    """(rounder name, io) -> the tuned network's `.tflite`."""

    @functools.cache
    def make(rounder: str, io: str = "int8") -> bytes:
        return qr.export_tflite(tuned(rounder), io=io)

    return make


@pytest.fixture(scope="session")
def low(float_net, pictures):
    """The float network in 2 and 4 bits, calibrated; not to be changed."""
    return qr.calibrate(qr.quantize_model(float_net, recipe="w2a4"), pictures[0][:128], "mse")


@pytest.fixture(scope="module")
def quantized():
    """Quantized, never calibrated; every test leaves it so."""
    return qr.quantize_model(nets.dense_net(), "sine")


@pytest.fixture(scope="module")
def calibrated():
    return qr.calibrate(qr.quantize_model(nets.dense_net()), nets.vectors())


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, float_net, pictures):
    """A folder with a float model, data, a recipe for two epochs, and what `run` made of it."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        float_net.save("net.keras")
        np.savez("data.npz", x=pictures[0], y=pictures[1])
        assert main(["init", "net.keras"]) == 0
        text = pathlib.Path("recipe.toml").read_text()
        text = text.replace("epochs = 3", "epochs = 2").replace("html = true", "html = false")
        pathlib.Path("recipe.toml").write_text(text)
        assert main(["run", "recipe.toml"]) == 0
    return folder


@pytest.fixture(scope="module")
def place(finished_run, tmp_path_factory):
    """A copy of it, to which the tests of a file may add."""
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("place") / "run")


@pytest.fixture
def here(place, monkeypatch):
    """The same, as the working folder."""
    monkeypatch.chdir(place)
    return place
