"""Writes out the steps of one call of a recurrent layer, in pieces that all steps share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.activations import as_layer
from qat_round.frontend.graph import Editor, Node, Part, Ref, Spec, free_name
from qat_round.layers import ops, ops_time
from qat_round.layers.int16_layers import CURVES
from qat_round.lowering.rules import piece
from qat_round.numerics.grid import WIDE_BITS

_L = keras.layers
MANY_STEPS = 64
_ACTIVATIONS = ("activation", "recurrent_activation")
_NOT_BY_ELEMENT = ("softmax", "log_softmax", "Softmax")


def call_many(editor: Editor, part: str, x: Ref, specs: Sequence[Spec]) -> list[Ref]:
    """Adds a call of a part with several outputs."""
    name = free_name(f"{part}:0", editor.nodes)
    editor.nodes[name] = Node(part, (x,), {}, tuple(specs))
    return [Ref(name, index) for index in range(len(specs))]


class Unroll:
    """Writes one call of a layer, step by step.

    Args:
        editor: of the graph that is made.
        part: the layer.
        x: its input, [b, t, features], t known.
        mask: 1 for each step that counts, 0 for others, [b, t, 1]; None if all count.
    """

    def __init__(self, editor: Editor, part: Part, x: Ref, mask: Ref | None = None):
        spec = editor.spec(x)
        self.editor, self.part, self.config = editor, part, part.config
        self.batch, self.steps, self.features = spec.shape
        self.dtype = spec.dtype
        self.units = int(part.config["units"])
        self.x = x
        given = [self.config[key] for key in _ACTIVATIONS if key in self.config]
        self.bits = WIDE_BITS if all(word in list(CURVES) for word in given) else None
        self._counts = [] if mask is None else self._by_step("mask", mask)
        self._others = [] if mask is None else self._by_step("unmask", self._opposite(mask))

    def _opposite(self, mask: Ref) -> Ref:
        return self.apply("unmask", ops.Affine, mask, (self.steps, 1), scale=-1.0, offset=1.0)

    def _by_step(self, name: str, x: Ref) -> list[Ref]:
        """The steps of [b, t, 1], in the order in which they run."""
        unstack = self._piece(f"{name}_by_step", ops_time.Unstack)
        steps = call_many(self.editor, unstack, x, [self._spec(1)] * self.steps)
        return steps[::-1] if self.config.get("go_backwards") else steps

    def held(self, name: str, step: int, new: Ref, old: Ref | None) -> Ref:
        """The new state where the step counts, else the old one (zero if there is none)."""
        if not self._counts:
            return new
        new = self.multiply(f"{name}_masked", new, self._counts[step])
        if old is None:
            return new
        old = self.multiply(f"{name}_masked", old, self._others[step])
        return self.add(f"{name}_held", new, old)

    def apply(
        self,
        suffix: str,
        cls: type,
        args: Any,
        size: Any,
        weights: Sequence[Any] = (),
        **config: Any,
    ) -> Ref:
        """The piece's output for some tensors, an example of which has `size` values."""
        return self.editor.call(self._piece(suffix, cls, weights, **config), args, self._spec(size))

    def _piece(self, suffix: str, cls: type, weights: Sequence[Any] = (), **config: Any) -> str:
        return piece(self.editor, self.part, suffix, cls, weights, self.bits, **config)

    def _spec(self, size: Any) -> Spec:
        shape = size if isinstance(size, tuple) else (size,)
        return Spec((self.batch, *shape), self.dtype)

    def shown(self, step: int, h: Ref) -> Ref:
        """What the layer gives for a step: its state, or zero if masked steps are to be zero."""
        if not self._counts or not self.config.get("zero_output_for_mask"):
            return h
        return self.multiply("shown", h, self._counts[step])

    def dense(self, suffix: str, x: Ref, kernel: np.ndarray, bias: np.ndarray | None) -> Ref:
        """x kernel + bias; regularizers and constraints are those of the layer."""
        side = "recurrent" if suffix.startswith("recurrent") else "kernel"
        config: Mapping[str, Any] = {
            "units": kernel.shape[-1],
            "use_bias": bias is not None,
            "kernel_regularizer": self.config.get(f"{side}_regularizer"),
            "kernel_constraint": self.config.get(f"{side}_constraint"),
            "bias_regularizer": self.config.get("bias_regularizer"),
            "bias_constraint": self.config.get("bias_constraint"),
        }
        weights = (kernel,) if bias is None else (kernel, bias)
        return self.apply(suffix, _L.Dense, x, kernel.shape[-1], weights, **config)

    def project(
        self, kernels: Mapping[str, np.ndarray], biases: Mapping[str, np.ndarray]
    ) -> list[dict[str, Ref]]:
        """For each step, in the order in which they run, x kernel + bias under each name.

        One matrix product each for all steps at once.
        """
        flat = self.apply("input_steps", ops_time.MergeTime, self._dropped(self.x), self.features)
        by_name = {name: self._projected(name, flat, kernels[name], biases) for name in kernels}
        steps = [{name: refs[t] for name, refs in by_name.items()} for t in range(self.steps)]
        return steps[::-1] if self.config.get("go_backwards") else steps

    def _projected(
        self, name: str, flat: Ref, kernel: np.ndarray, biases: Mapping[str, np.ndarray]
    ) -> list[Ref]:
        size = kernel.shape[-1]
        y = self.dense(f"input_{name}", flat, kernel, biases.get(name))
        y = self.apply(
            f"{name}_by_step", ops_time.SplitTime, y, (self.steps, size), steps=self.steps
        )
        unstack = self._piece(f"{name}_steps", ops_time.Unstack)
        return call_many(self.editor, unstack, y, [self._spec(size)] * self.steps)

    def _dropped(self, x: Ref) -> Ref:
        """The inputs with dropout that leaves out the same features in all steps."""
        rate = float(self.config.get("dropout") or 0.0)
        size = (self.steps, self.features)
        return self.apply("dropout", _L.SpatialDropout1D, x, size, rate=rate) if rate else x

    def dropped_state(self, h: Ref) -> Ref:
        """The state as the recurrent kernel sees it: with dropout, in training."""
        rate = float(self.config.get("recurrent_dropout") or 0.0)
        return self.apply("state_dropout", _L.Dropout, h, self.units, rate=rate) if rate else h

    def activation(self, suffix: str, which: str, x: Ref, size: int) -> Ref:
        """The layer's activation, `which` being its name in the config."""
        value = self.config[which]
        if value == "hard_sigmoid":  # Keras 2's, clip(0.2 x + 0.5, 0, 1)
            x = self.apply(f"{suffix}_line", ops.Affine, x, size, scale=0.2, offset=0.5)
            return self.apply(suffix, ops.Clip, x, size, low=0.0, high=1.0)
        cls, config = as_layer(value)
        own = {key: v for key, v in config.items() if key not in ("name", "dtype", "trainable")}
        return self.apply(suffix, cls, x, size, **own)

    def gates(self, x: Ref, count: int, wanted: Sequence[int]) -> list[Ref]:
        """The gates of a tensor that are wanted.

        A split makes them all at once. Where some are not read it would be left in float now and
        then (the converter loses the grids of outputs that nobody reads), so that they are sliced.
        """
        if len(wanted) == count:
            cut = self._piece("gate", ops_time.Split, sizes=[self.units] * count)
            return call_many(self.editor, cut, x, [self._spec(self.units)] * count)
        return [self._gate(x, number) for number in wanted]

    def _gate(self, x: Ref, number: int) -> Ref:
        ends = [number * self.units, (number + 1) * self.units, None]
        return self.apply(f"gate_{number}", ops.Slice, x, self.units, slices=[ends])

    def add(self, suffix: str, a: Ref, b: Ref, size: int | None = None) -> Ref:
        """a + b."""
        return self.apply(suffix, _L.Add, [a, b], size or self.units)

    def multiply(self, suffix: str, a: Ref, b: Ref) -> Ref:
        """a b, value by value."""
        return self.apply(suffix, _L.Multiply, [a, b], self.units)

    def subtract(self, suffix: str, a: Ref, b: Ref) -> Ref:
        """a - b."""
        return self.apply(suffix, _L.Subtract, [a, b], self.units)

    def zeros(self, like: Ref, size: int) -> Ref:
        """An exact zero for each unit: what padding adds to a tensor of so many values."""
        end = size + self.units
        padded = self.apply("zero_pad", ops.Pad, like, end, paddings=[[0, self.units]])
        return self.apply("zero", ops.Slice, padded, self.units, slices=[[size, end, None]])

    def stack(self, steps: Sequence[Ref]) -> Ref:
        """The steps' tensors as a sequence."""
        size = (self.steps, self.units)
        return self.apply("sequence", ops_time.Stack, list(steps), size)


def warn_of_many(steps: int) -> None:
    """Says what so many steps cost, and what to do instead."""
    if steps > MANY_STEPS:
        warnings.warn(
            f"A recurrent layer of {steps} steps is written out step by step: the file, and the "
            "time to quantize, to export and for each training step, grow with their number. "
            "Shorten the sequence in front of it (pooling or strides), use Conv1D layers, or leave "
            'the layer in float, overrides={"<its name>": qr.FLOAT}.',
            stacklevel=2,
        )


def given_inputs(node: Node) -> list[Ref] | None:
    """The input and the initial states of a recurrent layer's call; None if there is more to it."""
    kwargs = {key: value for key, value in node.kwargs.items() if value is not None}
    states = kwargs.pop("initial_state", [])
    kwargs.pop("training", None)
    first = list(node.args[0]) if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
    given = [*first, *(states if isinstance(states, (list, tuple)) else [states])]
    plain = not kwargs and len(node.args) == 1 and all(isinstance(ref, Ref) for ref in given)
    return given if plain else None


def is_forced(part: Part, node: Node) -> bool:
    """Whether the call says itself if its dropout is on."""
    drops = part.config.get("dropout") or part.config.get("recurrent_dropout")
    return bool(drops) and node.kwargs.get("training") is not None


def can_unroll(part: Part, spec: Spec) -> bool:
    """Whether a recurrent layer's steps can be written out for such an input.

    Steps and features have to be known, and each example has to start anew.
    """
    config = part.config
    odd = config.get("stateful") or config.get("time_major")
    return not odd and spec.rank == 3 and None not in spec.shape[1:] and _by_element(config)


def _by_element(config: Mapping[str, Any]) -> bool:
    """Whether the activations look at each value by itself, without weights."""
    values = [config[key] for key in ("activation", "recurrent_activation") if key in config]
    return all(not isinstance(v, dict) and not _mixes(v) for v in values if v is not None)


def _mixes(value: Any) -> bool:
    cls, config = as_layer(value)
    name = config.get("activation", cls.__name__)
    return (name if isinstance(name, str) else getattr(name, "__name__", "")) in _NOT_BY_ELEMENT
