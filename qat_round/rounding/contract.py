"""Checks a Rounder, built in or of your own, against the laws of rounding: `check_rounder`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qat_round.rounding import Rounder, get
from qat_round.rounding.laws import LAWS


class LawBroken(AssertionError):  # noqa: N818
    """A Rounder breaks laws of rounding.

    Args:
        rounder: the Rounder.
        complaints: law -> what is wrong.
    """

    def __init__(self, rounder: Rounder, complaints: dict[str, list[str]]):
        self.rounder = rounder
        self.laws = tuple(complaints)
        lines = [f"  {law}: {line}" for law, found in complaints.items() for line in found]
        head = f"{rounder!r} breaks {len(self.laws)} of the laws of rounding:"
        tail = "A law that it cannot keep belongs into its `exempt`, with the reason."
        super().__init__("\n".join([head, *lines, tail]))


def check_rounder(rounder: Any, laws: Iterable[str] | None = None) -> None:
    """Raises if a Rounder breaks any law of rounding methods; all of them are checked.

        integers         whole numbers are fixed points
        cells            f(x + n) = f(x) + n, and the gradient repeats
        finite           no NaN or infinity in value and gradient at and next to integers, ties and
                         +-2^20, in float16, bfloat16, float32, for every knob from 1e-6 to 1e6
        gradient         it is the derivative of `surrogate`, by float64 differences, times dL/dy;
                         in float32 too
        hard_limit       with the settings of `hard_limits` it rounds hard, away from ties
        shape_and_dtype  both as x's, for any float dtype, scalars, empty and unknown shapes; the
                         same value in every dtype
        graph            the same in a `tf.function` whose knobs are tensors
        config           get(json.loads(json.dumps(config))) gives an equal Rounder
        inference        training=False rounds hard, ties up, with gradient 1
        hard_forward     forward="hard" gives the hard value with the method's own gradient
        repeatable       two calls give the same

    Args:
        rounder: what `qr.get` takes; a class of your own, called, and registered.
        laws: names of the laws to check, or None for all; those in `rounder.exempt` are left out.

    Raises:
        LawBroken: naming the laws, the Rounder, and the first values that are wrong.
        ValueError: if `laws` or `rounder.exempt` name a law that there is not.

    Example:
        >>> check_rounder("sine")
        >>> from qat_round import RampRound
        >>> check_rounder(RampRound(threshold=0.2, gain=10.0), laws=["integers", "config"])
    """
    rounder = get(rounder)
    wanted = tuple(LAWS if laws is None else laws)
    _only_laws(wanted, "laws")
    _only_laws(rounder.exempt, f"{type(rounder).__name__}.exempt")
    complaints: dict[str, list[str]] = {}
    cause = None
    for law in wanted:
        if law in rounder.exempt:
            continue
        try:
            found = list(LAWS[law](rounder))
        except Exception as error:  # the method's own code failed: that is a finding, not ours
            found, cause = [f"{type(error).__name__}: {error}"], error
        if found:
            complaints[law] = found
    if complaints:
        raise LawBroken(rounder, complaints) from cause


def _only_laws(names: Iterable[str], owner: str) -> None:
    for name in names:
        if name not in LAWS:
            raise ValueError(f"{owner} names {name!r}, which is no law; the laws are {list(LAWS)}.")
