"""Many small operations as one: what is computed of ranges, grids and knobs, for every tensor.

Python takes about 0.2 ms to put an operation into a graph, and a model has hundreds of grids. So
what they are computed by is traced once, and is one operation wherever it is called; TensorFlow
puts its parts in the call's place before a graph runs, or runs it as a call if it has many parts:
then there are fewer to optimize before the first step, and the steps are as fast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from qat_round._compat import is_exporting, tf

APART = {"_noinline": True}
"""Attributes of a function that TensorFlow is to run as a call."""

_MANY = 60  # operations


@tf.autograph.experimental.do_not_convert
def one_call(function: Callable[..., Any], *tensors: Any, **settings: Any) -> Any:
    """`function(*tensors, **settings)`, as one operation in a graph.

    Outside of graphs, and in a graph for a file, it stays what it is, so that nothing is traced for
    one call, and converters see plain operations.

    Args:
        function: of this package, at the top of a module; it gives tensors alone and uses none but
            those that it is given.
        *tensors: or numbers, which become tensors.
        **settings: hashable; the function is traced for each of them, and for each shape.

    Returns:
        What the function gives.

    Example:
        >>> float(one_call(tf.add, 1.0, 2.0))
        3.0
    """
    given = [tf.convert_to_tensor(tensor) for tensor in tensors]
    if (
        tf.executing_eagerly()
        or is_exporting()
        or any(tensor.shape.rank is None for tensor in given)
    ):
        return function(*given, **settings)
    signature = tuple((tuple(t.shape.as_list()), t.dtype) for t in given)
    return _traced(function, tuple(settings.items()), signature)(*given)


@functools.cache
def _traced(function: Callable[..., Any], settings: Any, signature: Any) -> Any:
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in signature]
    with tf.init_scope():  # whatever graph is being made, it is to be no part of it
        run = functools.partial(function, **dict(settings))
        traced = tf.function(run, autograph=False).get_concrete_function(*specs)
        if len(traced.graph.get_operations()) < _MANY:
            return traced
        apart = tf.function(run, autograph=False, experimental_attributes=APART)
        return apart.get_concrete_function(*specs)
