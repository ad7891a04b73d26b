"""Runs a TFLite file on float batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qat_round._compat import interpreter
from qat_round.files.tflite_file import TFLiteFile, damaged
from qat_round.numerics.kernel_sets import DEFAULT, roundings


class Runner:
    """An interpreter that takes float batches and gives float outputs, whatever the file's types.

    Args:
        file: the model.
        keep_all: whether every intermediate tensor can be read afterwards.
        kernels: which compute: "default", "builtin" or "reference" (see `verify_tflite`).
        options: of TFLite's `Interpreter`.
    """

    def __init__(
        self, file: TFLiteFile, keep_all: bool = False, kernels: str = "default", **options: Any
    ):
        options["experimental_preserve_all_tensors"] = keep_all
        try:
            self._interpreter = interpreter(file.content, kernels, **options)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"TFLite's {kernels!r} kernels do not take the .tflite: {error}"
            ) from error
        self.kernels = kernels
        self._batch: tuple[tuple[int, ...], ...] | None = None
        self._samples: int | None = None  # of the last run, where they were padded
        with damaged(file.content):
            self.inputs, self.outputs = self._details()

    def input_shape(self, name: str) -> tuple[int | None, ...]:
        """An input's shape, None where any size will do: the number of samples always."""
        shape = tuple(None if n < 0 else int(n) for n in self.inputs[name]["shape_signature"])
        return (None, *shape[1:]) if shape else shape

    def end_indices(self, which: str) -> list[int]:
        """Indices of the "inputs" or "outputs" in the order of the file's own list."""
        lite = self._interpreter
        details = lite.get_input_details() if which == "inputs" else lite.get_output_details()
        return [int(end["index"]) for end in details]

    def fixed_batch(self) -> int | None:
        """How many samples the file runs at once, if that is fixed."""
        shapes = [details["shape_signature"] for details in self.inputs.values()]
        sizes = {int(shape[0]) if len(shape) else -1 for shape in shapes}
        return sizes.pop() if len(sizes) == 1 and min(sizes) > 0 else None

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs one batch, {input name: array}; outputs in the order of `self.outputs`.

        A file of a fixed batch size runs that many samples, or fewer. What an operator carries from
        call to call (TFLite's own LSTM) starts afresh.
        """
        self._samples = None
        fixed = self.fixed_batch()
        if fixed is None:
            self._resize(inputs)
        else:
            self._samples = len(next(iter(inputs.values())))
            inputs = {name: _padded(array, fixed) for name, array in inputs.items()}
        for name, details in self.inputs.items():
            values = quantized(inputs[name], details, self.kernels)
            self._interpreter.set_tensor(details["index"], values)
        self._interpreter.reset_all_variables()
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ValueError(f"The .tflite cannot be run, it may be damaged: {error}") from error
        return [self.read(details["index"]) for details in self.outputs.values()]

    def read(self, index: int) -> np.ndarray:
        """A tensor of the last run, in real units."""
        return real(self.read_raw(index), self._by_index[index])

    def read_raw(self, index: int) -> np.ndarray:
        """A tensor of the last run, in its own type."""
        values = self._interpreter.get_tensor(index)
        padded = self._samples is not None and values.ndim and len(values) == self.fixed_batch()
        return values[: self._samples] if padded else values

    def _details(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and outputs by the names of the file's signature, or else of its tensors."""
        lite = self._interpreter
        lite.allocate_tensors()
        self._by_index = {details["index"]: details for details in lite.get_tensor_details()}
        if lite.get_signature_list():
            runner = lite.get_signature_runner()
            return dict(runner.get_input_details()), dict(runner.get_output_details())
        return (
            {details["name"]: details for details in lite.get_input_details()},
            {details["name"]: details for details in lite.get_output_details()},
        )

    def _resize(self, inputs: Mapping[str, np.ndarray]) -> None:
        shapes = tuple(tuple(np.shape(inputs[name])) for name in self.inputs)
        if shapes == self._batch:
            return
        for shape, details in zip(shapes, self.inputs.values(), strict=True):
            self._interpreter.resize_tensor_input(details["index"], shape)
        self._interpreter.allocate_tensors()
        self._batch = shapes


def _padded(array: np.ndarray, count: int) -> np.ndarray:
    """So many samples: the last one again for those that lack."""
    if len(array) > count:
        raise ValueError(f"The file runs {count} samples at once, not {len(array)}.")
    lacking = np.repeat(array[-1:], count - len(array), axis=0)
    return np.concatenate([array, lacking]) if len(lacking) else array


def quantized(values: np.ndarray, details: Mapping[str, Any], kernels: str = DEFAULT) -> np.ndarray:
    """Real values as the file's input type, saturated, as these kernels' QUANTIZE rounds them.

    `round_half_even(x * (1/scale)) + zero_point`; the plain ones: `round_half_away(x / scale)`.
    """
    dtype = details["dtype"]
    scale, zero_point = details["quantization"]
    if not np.issubdtype(dtype, np.integer) or not scale:
        return np.asarray(values, dtype)
    limits = np.iinfo(dtype)
    values, scale = np.asarray(values, np.float32), np.float32(scale)
    if roundings(kernels).given:
        levels = np.sign(values) * np.floor(np.abs(values / scale) + 0.5)
    else:
        levels = np.rint(values * (1 / scale))
    return np.clip(levels + zero_point, limits.min, limits.max).astype(dtype)


def real(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """A tensor's values in real units, float32; integers without a scale stay as they are."""
    scale, zero_point = details["quantization"]
    if not np.issubdtype(values.dtype, np.integer) or not scale:
        return values
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


def sliced(arrays: Mapping[str, np.ndarray], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of named arrays."""
    samples = len(next(iter(arrays.values())))
    for start in range(0, samples, batch_size):
        yield {name: array[start : start + batch_size] for name, array in arrays.items()}
