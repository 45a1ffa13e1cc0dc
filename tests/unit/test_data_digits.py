"""shrinkflow.data.digits: scikit-learn's packaged scans, unchanged but for the factor 15."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shrinkflow.data import SOURCES, building, fetching
from shrinkflow.data.splits import PARTS, Plan


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(fetching.MIRROR, raising=False)
    (file,) = SOURCES["digits"].raw
    fetching.fetch(file.name, file.checksum, tmp_path / file.name, package=file.package)
    return tmp_path / file.name


def test_the_package_brings_the_pinned_file_and_it_reads_as_in_sklearn(raw: Path) -> None:
    from sklearn.datasets import load_digits

    source = SOURCES["digits"]
    found = source.load([raw], (1, 8, 8))
    expected = load_digits()
    np.testing.assert_array_equal(found.images[:, 0], expected.images * 15)
    assert found.images.dtype == np.uint8
    assert (found.images.min(), found.images.max()) == (0, 240)
    np.testing.assert_array_equal(found.labels, expected.target)
    assert found.labels.dtype == np.int64
    assert found.classes == tuple(map(str, expected.target_names))
    assert found.test is None


def test_processed_digits(raw: Path) -> None:
    source = SOURCES["digits"]
    assert source.shape is not None
    pictures = source.load([raw], source.shape)
    data = building.build("digits", pictures, source.shape, 10, Plan())
    # 1797 * 0.2 = 359.4; (1797 - 359) * 0.1 = 143.8
    assert [len(getattr(data, part)) for part in PARTS] == [1294, 144, 359]
