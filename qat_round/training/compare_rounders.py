"""A fair bake-off of rounders on the user's own data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qat_round._compat import keras
from qat_round._tables import as_text
from qat_round._validate import whole
from qat_round.models.quantize import quantize_model
from qat_round.quantizers.recipes import recipes
from qat_round.rounding import Rounder, get
from qat_round.training.batch_norm import reestimate_batch_norm
from qat_round.training.calibrate import calibrate
from qat_round.training.paired_statistics import Interval, paired_difference

_CALIBRATION = 512


class RounderComparison(NamedTuple):
    """What a bake-off found; accuracies in percent.

    Args:
        accuracies: rounder -> one number for each seed, at the rate that suited it best.
        rates: rounder -> that rate.
        control: the rounder that the others are compared with.
    """

    accuracies: dict[str, list[float]]
    rates: dict[str, float]
    control: str

    def difference(self, rounder: str) -> Interval:
        """A rounder less the control, paired by seed, with its 95 % interval."""
        pairs = zip(self.accuracies[rounder], self.accuracies[self.control], strict=True)
        return paired_difference([a - b for a, b in pairs])

    @property
    def verdict(self) -> str:
        """One sentence: which rounders differ from the control beyond the seeds."""
        others = {r: self.difference(r).verdict for r in self.accuracies if r != self.control}
        parts = [f"{r} is {v} than {self.control}" for r, v in others.items() if v.endswith("er")]
        return "; ".join(parts) + "." if parts else "No difference beyond the seeds."

    def table(self) -> str:
        """All rounders, with spread and verdict."""
        rows = []
        for rounder, found in self.accuracies.items():
            less = "-" if rounder == self.control else str(self.difference(rounder))
            spread = f"{np.mean(found):.2f} +- {np.std(found, ddof=1):.2f}"
            rows.append([rounder, f"{self.rates[rounder]:g}", spread, f"{min(found):.2f}", less])
        columns = ("rounder", "rate", "accuracy %", "lowest", f"less {self.control}")
        return as_text(self.verdict, columns, rows)


def compare_rounders(
    model: Any,
    data: Sequence[Any],
    rounders: Sequence[Any] = ("ste", "tanh", "ewgs"),
    bits: tuple[int, int] = (4, 4),
    seeds: int = 5,
    epochs: int = 8,
    learning_rates: Sequence[float] = (1e-3,),
    batch_size: int = 64,
    loss: Any = None,
) -> RounderComparison:
    """Trains copies of a model by every rounder, all else equal, and says what differs.

    Each run starts from the float weights, with learned ranges that start at the least squared
    error, the value in training hard, Adam with a rate that falls to 0 by a cosine, and exact
    batch-norm statistics at the end; only the gradient differs. Straight-through is always among
    them, as the control. Where several rates are given, each rounder is tried with all, and judged
    by the one that is best on a tenth of the training data, held out at random, the same for all;
    accuracy is that of the test data. The copies are thrown away.

    Args:
        model: a trained float classifier.
        data: (x_train, y_train, x_test, y_test), labels as class numbers.
        rounders: what `qr.get` takes, each.
        bits: of weights and activations, 2 to 8; inputs and outputs have 8.
        seeds: how many, at least 2; each is the same for every rounder.
        epochs, batch_size: of each training.
        learning_rates: Adam's, tried for every rounder.
        loss: as for `compile`; cross-entropy from logits if None.

    Returns:
        A RounderComparison: `print(comparison.table())`.

    Raises:
        ValueError: for fewer than two seeds, no rate, data that is not four arrays, inputs and
            labels of different number, or labels that are no class numbers.
    """
    seeds = whole(seeds, compare_rounders, "seeds", least=2)
    if not learning_rates:
        raise ValueError("compare_rounders: learning_rates is empty; give at least one.")
    data = _checked(data)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    named = {name_of(r): get(r, forward="hard") for r in ("ste", *rounders)}
    settings = {"bits": bits, "epochs": epochs, "batch_size": batch_size, "loss": loss}
    found: dict[str, list[float]] = {}
    rates = {}
    for name, rounder in named.items():
        tried = {
            rate: [_run(model, data, rounder, rate, seed, **settings) for seed in range(seeds)]
            for rate in learning_rates
        }
        rates[name] = max(tried, key=lambda rate: float(np.mean([r[0] for r in tried[rate]])))
        found[name] = [run[1] for run in tried[rates[name]]]
    return RounderComparison(found, rates, "ste")


def name_of(rounder: Any) -> str:
    """A short name with the settings that differ from the defaults.

    Example:
        >>> name_of(get("tanh", sharpness=5.0))
        'tanh(sharpness=5)'
    """
    rounder = get(rounder)
    plain = get(rounder.name).get_config()
    config = rounder.get_config()
    changed = [f"{k}={_short(v)}" for k, v in config.items() if v != plain[k] and k != "forward"]
    return rounder.name + (f"({', '.join(changed)})" if changed else "")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _checked(data: Sequence[Any]) -> tuple[Any, ...]:
    """(x, y, x_test, y_test) with flat labels; x and y in an order drawn once."""
    if len(data) != 4:
        raise ValueError("compare_rounders: data has to be (x_train, y_train, x_test, y_test).")
    x, y, x_test, y_test = (np.asarray(values) for values in data)
    y, y_test = (_class_numbers(labels) for labels in (y, y_test))
    for inputs, labels, which in ((x, y, "training"), (x_test, y_test, "test")):
        if len(inputs) != len(labels):
            raise ValueError(
                f"compare_rounders: {len(inputs)} {which} inputs, but {len(labels)} labels."
            )
    if len(x) < 10:
        raise ValueError(f"compare_rounders: {len(x)} training inputs; at least 10 are needed.")
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], y[order], x_test, y_test


def _class_numbers(labels: np.ndarray) -> np.ndarray:
    flat = labels[..., 0] if labels.ndim == 2 and labels.shape[-1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise ValueError(
            f"compare_rounders: labels of shape {labels.shape} and dtype {labels.dtype}; give "
            "class numbers, one whole number for each input (of one-hot rows, labels.argmax(-1))."
        )
    return flat


def _run(
    model: Any, data: Sequence[Any], rounder: Rounder, rate: float, seed: int, **settings: Any
) -> tuple[float, float]:
    """Accuracy on what was held out of training, and on the test data, in percent."""
    x, y, x_test, y_test = data
    held = len(x) // 10
    keras.utils.set_random_seed(seed)
    quantized = quantize_model(model, recipe=_recipe(rounder, *settings["bits"]))
    calibrate(quantized, x[:_CALIBRATION], method="mse")
    steps = settings["epochs"] * -(-(len(x) - held) // settings["batch_size"])
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    quantized.compile(keras.optimizers.Adam(falling), settings["loss"])
    size, epochs = settings["batch_size"], settings["epochs"]
    quantized.fit(x[held:], y[held:], batch_size=size, epochs=epochs, verbose=0)
    reestimate_batch_norm(quantized, x[held:])
    return _accuracy(quantized, x[:held], y[:held]), _accuracy(quantized, x_test, y_test)


def _recipe(rounder: Rounder, weight_bits: int, activation_bits: int) -> dict[str, Any]:
    """The recipe of 4 bits with other bits and another rounder; the same for all rounders."""
    made = copy.deepcopy(recipes()["w4a4"])
    settings = {"rounder": rounder.get_config()}
    made["weights"] |= settings | {"bits": weight_bits, "narrow_range": weight_bits >= 4}
    made["activations"] |= settings | {"bits": activation_bits}
    return made


def _accuracy(model: Any, x: Any, y: Any) -> float:
    outputs = model.predict(x, batch_size=256, verbose=0)
    return 100.0 * float(np.mean(outputs.argmax(-1) == np.asarray(y)))
