"""Loads a saved model without executing anything in it."""

from __future__ import annotations

import pathlib
from typing import Any

from qat_round._compat import keras, loading
from qat_round.files.saved_code import refuse_code
from qat_round.files.size_limits import check_sizes


def load_model(path: str | pathlib.Path, *, safe_mode: bool = True, **options: Any) -> Any:
    """A saved model, quantized or annotated or not, as it was: `.keras`, `.h5` or SavedModel.

    As Keras's own `load_model` after `import qat_round`, but that `safe_mode` holds for all
    formats, which in Keras it does for zipped `.keras` files only.

    Args:
        path: the file or folder.
        safe_mode: whether Python code in the file is refused: lambdas, and functions and classes
            that would be found by importing a module that the file names. Register your own, or
            import them before.
        **options: the others of `tf_keras.models.load_model`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a damaged file, or a class that is not known; nothing in it is run.
    """
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"load_model: there is no file or folder {str(path)!r}.")
    try:
        check_sizes(path)
        with loading(safe_mode):
            if safe_mode:
                refuse_code(pathlib.Path(path), options.get("custom_objects"))
            return keras.models.load_model(str(path), safe_mode=safe_mode, **options)
    except (ValueError, TypeError, OSError):
        raise
    except Exception as error:  # whatever the readers of zip, JSON and HDF5 make of damage
        raise ValueError(
            f"load_model: {str(path)!r} is damaged, or no Keras model: {error}"
        ) from error
