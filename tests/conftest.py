"""Fixtures that every test may use."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["prefect_server"]

settings.register_profile("ours", deadline=None, database=None)  # no test asserts a time or leaves anything behind
settings.load_profile("ours")
