"""Training on several replicas is training on one device, with the same global batch."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess

import numpy as np
import pytest

from tests import scripts

STEPS = 50
STE = {"rounder": "ste", "range": "moving_average", "steps": STEPS}
slow = pytest.mark.slow


def start(out: pathlib.Path, asked: dict, cluster: dict | None = None) -> subprocess.Popen:
    environment = dict(os.environ) | ({} if cluster is None else {"TF_CONFIG": json.dumps(cluster)})
    command = scripts.command("distributed", str(out), json.dumps(asked))
    return subprocess.Popen(
        command, env=environment, cwd=scripts.ROOT, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen, out: pathlib.Path) -> dict:
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told[-2000:]
    with np.load(out) as found:
        return dict(found)


def run(folder: pathlib.Path, strategy: str, **asked) -> dict:
    """What a training gives that is run in a process of its own, or in two."""
    asked["strategy"] = strategy
    if strategy != "workers":
        return finish(start(folder / "out.npz", asked), folder / "out.npz")
    cluster = {"cluster": {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}}
    outs = [folder / f"worker{i}.npz" for i in range(2)]
    tasks = [{"type": "worker", "index": i} for i in range(2)]
    both = [
        start(out, asked, cluster | {"task": task}) for out, task in zip(outs, tasks, strict=True)
    ]
    chief, other = [finish(process, out) for process, out in zip(both, outs, strict=True)]
    for name in variables(chief):
        np.testing.assert_array_equal(chief[name], other[name], name)
    chief["losses"] /= 2  # Keras adds the workers' means up where it shows them, any model's
    return chief


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def variables(found: dict) -> list[str]:
    return [name for name in found if name.startswith("v/")]


def farthest(one: dict, other: dict, part: str) -> float:
    """The largest relative difference of the variables whose name holds a word."""
    names = [name for name in variables(one) if part in name]
    assert names
    floors = [np.max(np.abs(one[name])) + 1e-12 for name in names]
    pairs = zip(names, floors, strict=True)
    return max(float(np.max(np.abs(one[n] - other[n])) / floor) for n, floor in pairs)


def check_equal(one: dict, other: dict, rtol: float = 1e-5) -> None:
    """Losses and ranges of all steps agree, and all replicas have the same.

    A grid that learns has last bits of its own, by which a value near a tie goes to another level:
    there ten steps agree to 1e-5, and all of them to `rtol`.
    """
    assert bool(other["agree"])
    assert one["losses"][0] != one["losses"][-1]
    np.testing.assert_allclose(other["losses"][:10], one["losses"][:10], rtol=1e-5)
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=rtol)
    for part in ("_min", "_max", "_seen"):
        assert farthest(one, other, part) < rtol


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one"), "one", **STE)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """Trained on two replicas, with the model that was saved there."""
    folder = tmp_path_factory.mktemp("mirrored")
    return run(folder, "mirrored", **STE, save=str(folder / "saved.keras")), folder / "saved.keras"


def test_two_replicas_train_as_one_device(one_device, mirrored):
    check_equal(one_device, mirrored[0])


@pytest.mark.parametrize("strategy", ["mirrored", pytest.param("workers", marks=slow)])
def test_weights_at_a_rate_of_their_own_train_as_on_one_device(strategy, one_device, tmp_path):
    fast = run(tmp_path, "one", **STE, pace=4.0)
    assert not np.allclose(fast["losses"], one_device["losses"], rtol=1e-2)
    check_equal(fast, run(tmp_path, strategy, **STE, pace=4.0))


@slow
def test_a_model_of_two_replicas_loads_on_one_device_and_trains_on(mirrored, tmp_path):
    """Step for step as if it had stayed there."""
    trained, path = mirrored
    here = run(tmp_path, "one", load=str(path), steps=5)
    assert here["losses"][0] < trained["losses"][0]
    there = run(tmp_path, "mirrored", load=str(path), steps=5)
    check_equal(here, there)


@slow
def test_what_two_replicas_saved_answers_alike_on_one_device(mirrored):
    import qat_round as qr
    from tests.models import nets

    rows = nets.vectors(128) + np.eye(8, dtype=np.float32)[np.arange(128) % 3]
    outputs = qr.load_model(mirrored[1])(rows[:32], training=False)
    np.testing.assert_array_equal(outputs, mirrored[0]["outputs"])


@slow
def test_two_workers_train_as_one_device(one_device, tmp_path):
    check_equal(one_device, run(tmp_path, "workers", **STE))


@slow
def test_what_two_workers_saved_trains_on_on_one_device(tmp_path):
    path = str(tmp_path / "saved.keras")
    run(tmp_path, "workers", **STE | {"steps": 5}, save=path)
    here = run(tmp_path, "one", load=path, steps=5)
    check_equal(here, run(tmp_path, "mirrored", load=path, steps=5))


@slow
@pytest.mark.parametrize("strategy", ["mirrored", "workers"])
@pytest.mark.parametrize("range_", ["all_values", "last_value", "learned", "pact"])
def test_every_range_agrees(range_, strategy, tmp_path):
    asked = STE | {"range": range_, "rate": 0.001 if range_ == "learned" else 0.05}
    rtol = 1e-3 if range_ == "learned" else 1e-5
    check_equal(run(tmp_path, "one", **asked), run(tmp_path, strategy, **asked), rtol)


@slow
@pytest.mark.parametrize("preserve", ["sparsity", "clusters"])
def test_preserved_weights_agree(preserve, tmp_path):
    asked = STE | {"preserve": preserve}
    check_equal(run(tmp_path, "one", **asked), run(tmp_path, "mirrored", **asked))


@slow
def test_ranges_that_the_first_batch_sets_agree(tmp_path):
    asked = STE | {"calibrated": False}
    check_equal(run(tmp_path, "one", **asked), run(tmp_path, "mirrored", **asked))


@slow
@pytest.mark.parametrize("rounder", ["sine", "tanh"])
def test_a_soft_rounders_first_step_agrees(rounder, tmp_path):
    """Later ones amplify the last bits of a sum, as another order of summation does."""
    asked = STE | {"rounder": rounder, "steps": 1}
    check = [run(tmp_path, strategy, **asked) for strategy in ("one", "mirrored")]
    np.testing.assert_allclose(check[1]["losses"], check[0]["losses"], rtol=1e-5)
    assert max(farthest(*check, part) for part in ("_min", "_max")) < 1e-5


@slow
@pytest.mark.parametrize("rounder", ["sine", "tanh"])
def test_a_soft_rounders_steps_part_as_by_another_order_of_summation(rounder, tmp_path):
    """Fifty steps on two replicas, beside fifty on one with each batch from last to first."""
    asked = STE | {"rounder": rounder}
    one, turned = (run(tmp_path, "one", **asked, turned=is_so) for is_so in (False, True))
    found = farthest(one, run(tmp_path, "mirrored", **asked), "_max")
    assert found <= 30.0 * max(farthest(one, turned, "_max"), 1e-6)


@slow
@pytest.mark.parametrize("strategy", ["mirrored", "workers"])
def test_synchronized_batch_norm_agrees(strategy, tmp_path):
    """Ten steps; then a last bit of a variance has put some value near a tie on another level."""
    asked = STE | {"norm": True, "steps": 10}
    one, other = run(tmp_path, "one", **asked), run(tmp_path, strategy, **asked)
    check_equal(one, other)
    assert max(farthest(one, other, f"moving_{word}") for word in ("mean", "variance")) < 1e-4


@slow
def test_random_rounding_agrees_on_all_replicas(tmp_path):
    found = run(tmp_path, "mirrored", **STE | {"rounder": "stochastic"})
    assert bool(found["agree"])
    assert np.isfinite(found["losses"]).all()


@slow
@pytest.mark.parametrize("strategy", ["one", "mirrored"])
def test_a_replica_without_samples_spoils_no_range(strategy, tmp_path):
    found = run(tmp_path, strategy, **STE, samples=33, part=True)
    assert all(np.isfinite(found[name]).all() for name in variables(found))
    assert bool(found["agree"])
    top = next(name for name in variables(found) if "quantize_row" in name and "_max" in name)
    assert 2.0 < float(found[top]) < 6.0


@slow
def test_stock_tfmot_is_seen_to_differ(tmp_path):
    """What the same test gives with stock TFMOT: its ranges are those of a part of the batch."""
    asked = {"stock": True, "steps": STEPS}
    one, other = (run(tmp_path, strategy, **asked) for strategy in ("one", "mirrored"))
    assert farthest(one, other, "_max") > 1e-2
