"""TensorFlow for modules that are of use without it: it is imported when something of it is used.

`qat-round methods` lists rounding methods by their classes alone, and TensorFlow takes seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qat_round import _compat as compat
    from qat_round._compat import tf
else:

    class _Later:
        """Stands for a module that `find` gives; what was asked for once is kept."""

        def __init__(self, find: Callable[[], Any]):
            self._find = find

        def __getattr__(self, name: str) -> Any:
            value = getattr(self._find(), name)
            setattr(self, name, value)
            return value

    compat = _Later(lambda: importlib.import_module("qat_round._compat"))
    tf = _Later(lambda: compat.tf)

__all__ = ["compat", "tf"]
