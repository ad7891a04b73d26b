"""Random numbers cheap enough to be drawn inside the pass that uses them.

Each number is a hash of (key, place in the tensor), some ten integer operations, so that nothing is
stored and the same key gives the same draws on every device, compiled or not.
"""

from __future__ import annotations

from qat_round._lazy import tf

_FIRST, _SECOND = (
    0x21F0AAAD,
    0xD35A2D97,
)  # multipliers of low bias, found by search (Wellons, Degski)


def even_draws(key: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Numbers drawn evenly from [0, 1), multiples of 2^-24.

    Args:
        key: two int64.
        like: gives shape and dtype.
    """
    one, two = _two_words(key)
    place = tf.cast(tf.reshape(tf.range(tf.size(like)), tf.shape(like)), tf.uint32)
    bits = _scramble(place + one, two)
    return tf.cast(tf.bitwise.right_shift(bits, _word(8)), like.dtype) * 2.0**-24


def _two_words(key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The key's 128 bits mixed into two words: one says where to start, one how to scramble."""
    mixed = _word(0)
    words = []
    for half in (key[0], key[1]):
        for part in (half, tf.bitwise.right_shift(half, tf.constant(32, tf.int64))):
            mixed = _scramble(mixed ^ tf.cast(part & 0xFFFFFFFF, tf.uint32), _word(0x9E3779B9))
        words.append(mixed)
    return words[0] + _scramble(words[1], _word(1)), words[1]


def _scramble(h: tf.Tensor, salt: tf.Tensor) -> tf.Tensor:
    """A bijection of 32-bit words, another one for each salt."""
    h = h ^ tf.bitwise.right_shift(h, _word(16))
    h = h * _word(_FIRST) + salt
    h = h ^ tf.bitwise.right_shift(h, _word(15))
    h = h * _word(_SECOND)
    return h ^ tf.bitwise.right_shift(h, _word(15))


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)
