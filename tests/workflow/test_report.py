"""The report is an artifact like any other: in the snapshot, on the trail, made again to the same bytes."""

from __future__ import annotations

import shutil

import pytest

from tests.workflow.versioned import CELL

pytestmark = pytest.mark.slow

PAGE = "results/tiny/report.html"


def test_a_page_that_lies_anywhere_leads_back_to_the_raw_archive(spoilt, tmp_path):
    copy = tmp_path / "sent by mail.html"
    shutil.copy(spoilt.folder / PAGE, copy)
    where = ["--where", "strategy=random", "--where", "weights=A"]
    status, trail = spoilt.trail(str(copy), *where)
    assert (status, trail["faults"], trail["target"]) == (0, [], PAGE)
    # Its one cell, through a table; the figures, made of the same table, are on the way.
    assert [row["metrics"] for row in trail["rows"]] == [f"{CELL}/metrics.json"]
    assert {path for path in trail["steps"] if path.endswith("metrics.json")} == {f"{CELL}/metrics.json"}
    assert "data/raw/digits/digits.csv.gz" in trail["steps"]
    copy.write_bytes(copy.read_bytes().replace(b"digitsnet on digits", b"digitsnet on DIGITS"))
    status, trail = spoilt.trail(str(copy), *where)
    assert status == 1 and "was changed after it was drawn" in trail["faults"][0]


def test_lost_it_is_restored_or_made_again_and_both_are_the_same(spoilt):
    page = spoilt.folder / PAGE
    before = page.read_bytes()
    page.unlink()
    spoilt.does("python", "-m", "shrinkflow", "restore", PAGE)
    assert page.read_bytes() == before
    page.unlink()
    (spoilt.folder / f"{PAGE}.record.json").unlink()
    spoilt.run("--cores", "1", PAGE)
    assert page.read_bytes() == before
    spoilt.quiet()
