"""The float model and data that examples/recipe.toml starts from.

    python examples/recipe_model.py

Writes artifacts/recipe/digits.keras, train.npz and test.npz.
"""

from __future__ import annotations

import pathlib

import numpy as np
from mnist import float_model, load_images, train

import qat_round as qr  # noqa: F401 : before TensorFlow

import tf_keras as keras  # isort: skip

OUT = pathlib.Path("artifacts/recipe")


def main() -> None:
    """Trains and saves."""
    OUT.mkdir(parents=True, exist_ok=True)
    images = load_images()
    keras.utils.set_random_seed(0)
    train(float_model(), images, epochs=8, rate=5e-3).save(OUT / "digits.keras")
    np.savez(OUT / "train.npz", x=images.train, y=images.train_digits)
    np.savez(OUT / "test.npz", x=images.test, y=images.test_digits)


if __name__ == "__main__":
    main()
