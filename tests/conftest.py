"""Settings of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from shrinkflow import faults

# The same examples in every run, and no limit on one example's time: machines are noisy.
settings.register_profile("shrinkflow", deadline=None, derandomize=True)
settings.load_profile("shrinkflow")


@pytest.fixture
def obtained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, gone to, with stand-ins for the files and pictures that shipped studies expect to be here."""
    for name in ("cifar10-images.tar.gz", "resnet20-12fca82f.th"):
        (tmp_path / name).touch()
    monkeypatch.setenv(faults.MIRROR, str(tmp_path))
    (tmp_path / "data/imagenet").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
