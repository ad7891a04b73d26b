"""A registry that a test may add to."""

from __future__ import annotations

import pytest

from qat_round.rounding import registry


@pytest.fixture
def own_registry(monkeypatch):
    """A copy of the registry, so that a test's own methods do not outlive it."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
