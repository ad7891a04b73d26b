"""A full disk, and one that cannot be written: one line, status 2, the old files as they were."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

import qat_round as qr
from qat_round.cli.main import main
from tests.models import nets
from tests.scripts import small_run

PAGE = 4096  # bytes; what a tmpfs gives at a time
OLD = b"old"
NET = "net.tflite"


class Disk:
    """A small tmpfs, mounted at a folder."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    def leave(self, pages: int) -> None:
        """Fills the disk until that many pages are free."""
        filler = self.folder / "filler"
        filler.unlink(missing_ok=True)
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(PAGE))
            except OSError:
                file.truncate(max(0, file.seek(0, 2) - pages * PAGE))

    def files(self) -> dict[str, bytes]:
        """What is on it, but for the filler."""
        found = {p for p in self.folder.rglob("*") if p.is_file() and p.name != "filler"}
        return {str(p.relative_to(self.folder)): small_run.content(p) for p in found}


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    made = Disk(folder)
    made.mount("size=512k")
    yield made
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    small_run.make(folder, folder / "out")
    assert main(["run", str(folder / "recipe.toml")]) == 0
    return folder


def commands(place: pathlib.Path, folder: pathlib.Path) -> dict[str, list[str]]:
    """Every command that writes a file, and the name of the file."""
    data = ["--data", str(place / "data.npz")]
    ready = str(place / "calibrated.keras")
    return {
        "q.keras": ["quantize", str(place / "net.keras"), "-o", str(folder / "q.keras")],
        "c.keras": ["calibrate", ready, "-o", str(folder / "c.keras"), *data],
        "t.keras": ["train", ready, "-o", str(folder / "t.keras"), *data, "--epochs", "1"],
        NET: ["export", ready, "-o", str(folder / NET)],
        "half.tflite": ["export", ready, "-o", str(folder / "half.tflite"), "--float16"],
        "net.onnx": ["export", ready, "-o", str(folder / "net.onnx")],
        "recipe.toml": ["init", str(place / "net.keras"), "-o", str(folder / "recipe.toml")],
        "report.html": ["report", str(place / "out/net.json"), "-o", str(folder / "report.html")],
        "curves.svg": ["methods", "--curves", str(folder / "curves.svg")],
    }


NAMES = list(commands(pathlib.Path(), pathlib.Path()))
NEEDS = {"net.onnx": "tf2onnx", "report.html": "jinja2", "curves.svg": "matplotlib"}


def refused(argv: list[str], capsys) -> str:
    """The one line with which a command ends."""
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("pages", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_full_disk_each_command_leaves_the_old_file(name, pages, disk, place, capsys):
    pytest.importorskip(NEEDS.get(name, "numpy"))
    (disk.folder / name).write_bytes(OLD)
    disk.leave(pages)
    argv = commands(place, disk.folder)[name] + (["--force"] if name == "recipe.toml" else [])
    if pages and main([*argv, "--quiet"]) == 0:  # it is smaller than a page
        assert (disk.folder / name).stat().st_size <= PAGE
        return
    error = refused(argv, capsys)
    assert "No space left" in error
    assert {p.name: p.read_bytes() for p in disk.folder.glob("*.*")} == {name: OLD}
    assert not list(disk.folder.glob(".*"))


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_can_be_written_each_command_says_so(name, disk, place, capsys):
    """Root may write whatever the modes of a folder say, so the disk is made read-only."""
    pytest.importorskip(NEEDS.get(name, "numpy"))
    disk.mount("ro")
    error = refused(commands(place, disk.folder)[name], capsys)
    assert "Read-only" in error
    assert disk.files() == {}
    subprocess.run(["umount", str(disk.folder)], check=True)


def test_a_file_in_the_place_of_a_folder_is_named(place, capsys):
    argv = commands(place, place / "data.npz")[NET]
    assert "Not a directory" in refused(argv, capsys)
    small_run.write_recipe(place, place / "data.npz")
    assert "data.npz" in refused(["run", str(place / "recipe.toml")], capsys)


def test_the_library_raises_an_oserror_and_leaves_the_old_file(disk, place):
    model = qr.calibrate(qr.quantize_model(nets.dense_net()), nets.vectors())
    (disk.folder / NET).write_bytes(OLD)
    disk.leave(0)
    with pytest.raises(OSError, match="No space left"):
        qr.export_tflite(model, disk.folder / NET)
    assert (disk.folder / NET).read_bytes() == OLD
    assert not list(disk.folder.glob(".*"))


@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_goes_on_when_there_is_room(disk, place, capsys):
    """Two pages more each time, until it ends: it stops at every file that it writes."""
    small_run.write_recipe(place, disk.folder)
    argv = ["run", str(place / "recipe.toml")]
    whole = {path.name: small_run.content(path) for path in (place / "out").glob("net.*")}
    stops = 0
    for pages in range(0, 120, 2):
        disk.leave(pages)
        if main(argv) == 0:
            break
        error = capsys.readouterr().err
        assert "No space left" in error
        stops += 1
        found = disk.files()
        assert set(found) <= {*whole, ".net.training"}
        assert all(found[name] == whole[name] for name in set(found) & set(whole))
    assert stops >= 3
    found = disk.files()
    assert {n: c for n, c in found.items() if n not in (".net.training", "net.json")} == {
        n: c for n, c in whole.items() if n != "net.json"
    }
