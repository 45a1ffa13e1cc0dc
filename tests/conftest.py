"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no limit on one example's time: machines are noisy.
settings.register_profile("shrinkflow", deadline=None, derandomize=True)
settings.load_profile("shrinkflow")
