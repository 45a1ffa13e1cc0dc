from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shrinkflow import captions, files, outline, records, report, study, tables
from shrinkflow.errors import UserError
from shrinkflow.figures import FIGURES, style
from tests.unit import fake_results

ROOT = Path(__file__).parents[2]
OUTLINE = {
    "study": "fake",
    "description": "",
    "budget": "parameters",
    "seeds": [0, 1, 2],
    "pairs": [
        {"dataset": "cifar10", "model": "resnet20", "weights": ["A"], "finetune": "f", "ratios": [2.0, 4.0]}
    ],
    "weights": {"A": {"recipe": "p", "seed": 1}, "B": {"file": "b.pt"}},
    "strategies": [
        {"strategy": "dense", "score": "none", "source": "control", "way": {}, "parameters": {}},
        {
            "strategy": "random",
            "score": "random",
            "source": "a < b",
            "way": {"exclude": ["fc", "conv1"]},
            "parameters": {"batches": 4},
        },
    ],
    "recipes": {"f": {"optimizer": "sgd", "lr": 0.1, "milestones": [2, 3]}},
}
COMPARED = "dataset,model,weights,ratio,a,b,n,difference,sd,low,high,p,p_holm,verdict,seeds_needed"
RANKED = (
    "dataset,model,weights,strategy,n,area_mean,area_sd,area_low,area_high,rank_mean,blocks,"
    "critical_difference,friedman_p,best_group"
)
# Elements that have no end tag.
VOID = {"meta", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """What a page consists of: elements with their attributes, text by element; refuses unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] += text

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, first: str) -> list[str]:
        """Return the cells of the last row that begins with a text."""
        return next(row for row in reversed(self.rows) if row and row[0].strip() == first)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes tables and gives the page of them as it is parsed, and its text."""

    def make(rows, *, more=(), figures=(), name="", **arguments):
        folder = tmp_path / name
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        results = tables.results(rows.reindex(columns=tables.CURVE_COLUMNS))
        summary = tables.summary(results)
        found = {part: folder / f"tables/{part}.csv" for part in ("results", "summary")}
        tables.write("results", found["results"], results)
        tables.write("summary", found["summary"], summary)
        for part, text in dict(more).items():
            found[part] = folder / f"tables/{part}.csv"
            files.write_text(found[part], text)
        drawn = {}
        for figure in figures:
            drawn[figure] = folder / f"figures/{figure}.png"
            style.save(
                FIGURES[figure](results, summary), drawn[figure].with_suffix(".svg"), drawn[figure], {}
            )
        values = OUTLINE | arguments.pop("study", {})
        text = report.page(values, found, drawn, "0123456789abcdef", folder, **arguments)
        return Page(text), text

    return make


def two(first: list[float], second: list[float], ratio: float = 2.0):
    """Return the cells of two strategies at one ratio, with these accuracies by seed."""
    rows = fake_results.rows(strategies=["first", "second"], ratios=(ratio,), seeds=len(first))
    for name, values in (("first", first), ("second", second)):
        rows.loc[rows["strategy"] == name, "top1"] = values
    return rows


class TestPage:
    def test_it_is_whole_html_that_asks_for_nothing_and_can_be_read_aloud(self, write):
        page, text = write(
            fake_results.rows(pairs=fake_results.PAIRS[:2], ratios=(2.0, 4.0)), figures=["compression"]
        )
        assert text.startswith("<!DOCTYPE html>\n<html lang=")
        counts = Counter(tag for tag, _ in page.elements)
        assert counts["h1"] == counts["title"] == counts["main"] == 1
        assert not {"script", "link", "iframe", "object"} & set(counts)
        assert all(entry["alt"] and entry["src"].startswith("data:image/png;") for entry in page.named("img"))
        assert all(entry["scope"] in ("col", "row", "colgroup") for entry in page.named("th"))
        assert counts["caption"] == counts["table"] == 5
        anchors = {entry["id"] for _, entry in page.elements if "id" in entry}
        links = [entry["href"] for entry in page.named("a")]
        assert {link[1:] for link in links if link.startswith("#")} <= anchors
        assert not any("://" in link for link in links)
        assert "default-src 'none'" in text

    def test_names_and_texts_are_shown_and_not_obeyed(self, write):
        page, text = write(two([0.5], [0.6]), study={"description": '<script>alert("x")</script>'})
        assert "script" not in {tag for tag, _ in page.elements}
        assert "&lt;script&gt;alert" in text
        assert page.row("random")[1:] == ["random", "exclude fc conv1, batches 4", "a < b"]

    def test_links_are_relative_and_lead_to_the_bytes_named(self, write, tmp_path):
        page, _ = write(two([0.5], [0.6]), figures=["compression"])
        links = [entry["href"] for entry in page.named("a") if not entry["href"].startswith("#")]
        assert links == ["tables/results.csv", "tables/summary.csv", "figures/compression.png"]
        for link in links:
            assert page.row(link)[2] == files.digest(tmp_path / link)

    def test_a_figure_has_the_size_it_was_drawn_for_and_its_caption(self, write):
        _, text = write(two([0.5, 0.6], [0.6, 0.6], ratio=4.0), figures=["compression"])
        # 6.4 inches of 96 pixels, whatever the resolution of the bitmap.
        width = int(re.search(r'style="width: (\d+)px"', text)[1])
        assert abs(width - 6.4 * 96) <= 1
        assert captions.paragraphs("compression")[0] in text

    def test_a_table_that_is_needed_and_missing_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"results\.csv is not among the tables"):
            report.page(OUTLINE, {}, {}, "0" * 16, tmp_path)

    def test_a_study_of_controls_alone_has_a_page(self, write):
        page, _ = write(fake_results.rows(strategies=[]))
        assert page.row("dense")[1].startswith("9")


class TestAccuracy:
    def test_means_deviations_and_ratios_reached_by_hand(self, write):
        page, _ = write(two([0.90, 0.92, 0.94], [0.5, 0.5, 0.5]))
        # 93.00, 92.00 +- 2.00 by hand; the control is at ratio 1.
        assert [row[0] for row in page.rows if row[0] in ("dense", "first", "second")] == [
            "dense",
            *("dense", "first", "second"),
        ]
        first, second = page.row("first"), page.row("second")
        assert first[1].strip() == "" and first[2].startswith("92.00 ± 2.00★2.00× / ")
        assert second[2].startswith("50.00 ± 0.002.00× / ")
        dense = page.row("dense")
        assert dense[1].endswith("1.00× / 1.00×") and dense[2].strip() == "" and "★" not in dense[1]

    def verdict(self, text: str, first: str = "first", second: str = "second") -> dict[str, str]:
        row = f"cifar10,resnet20,A,2,{first},{second},3,0,0,0,0,0.5,0.5,{text},9"
        return {"comparisons": f"{COMPARED}\n{row}\n"}

    @pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
    def test_what_a_test_does_not_tell_from_the_best_is_marked(self, write, order):
        rows = two([0.9, 0.8, 0.9], [0.8, 0.8, 0.8])
        page, _ = write(rows, more=self.verdict("not distinguishable", *order))
        assert "★" in page.row("first")[2] and "≈" in page.row("second")[2]
        page, _ = write(rows, more=self.verdict("a better", *order))
        assert "★" in page.row("first")[2] and "≈" not in page.row("second")[2]

    def test_equal_means_are_both_best_and_without_tests_nothing_is_equal(self, write):
        page, text = write(two([0.9, 0.8], [0.8, 0.9]))
        assert "★" in page.row("first")[2] and "★" in page.row("second")[2]
        assert "no tests: nothing is marked ≈" in text

    def test_a_missing_accuracy_is_no_best_one(self, write):
        page, text = write(two([float("nan"), 0.8], [0.1, 0.1]))
        assert page.row("first")[2].startswith("–") and "★" in page.row("second")[2]
        assert "Of 1 cells no accuracy could be measured" in text

    def test_who_has_fewer_seeds_says_so(self, write):
        rows = two([0.9, 0.8, 0.9], [0.8, 0.8, 0.8])
        page, _ = write(rows[~((rows["strategy"] == "first") & (rows["seed"] == 2))])
        assert page.row("first")[2].endswith(", 2 seeds") and "seed" not in page.row("second")[2]

    def test_masks_of_other_seeds_are_left_out(self, write):
        page, _ = write(fake_results.rows(strategies=["random", "random+mask2"]))
        assert not any("+mask" in text for row in page.rows for text in row)

    def test_forty_strategies_have_a_row_each(self, write):
        page, _ = write(fake_results.rows(strategies=fake_results.FORTY))
        assert {row[0] for row in page.rows} >= set(fake_results.FORTY)


class TestWarnings:
    def said(self, rows, budget: str = "parameters") -> dict[str, list[str]]:
        results = tables.results(rows.reindex(columns=tables.CURVE_COLUMNS))
        found = [report._records(table) for table in (results, tables.summary(results))]
        return dict(report.warnings(*found, budget))

    def test_nothing_to_say_of_three_seeds_and_ratios_that_are_met(self):
        assert self.said(fake_results.rows()) == {}

    @pytest.mark.parametrize(("seeds", "text"), [(1, "one seed only"), (2, "two seeds only")])
    def test_few_seeds(self, seeds, text):
        assert [text in said for said in self.said(fake_results.rows(seeds=seeds))] == [True]

    def test_layers_that_vanished_are_counted_by_ratio(self):
        rows = fake_results.rows(ratios=(2.0, 4.0))
        rows.loc[(rows["strategy"] == "random") & (rows["ratio"] == 4), "collapsed_layers"] = [1, 0, 3]
        (text, places), *others = self.said(rows).items()
        assert "Whole layers" in text and others == []
        assert places == ["random, resnet20 on cifar10, weights A: at ratio 4 (2 of 3 cells)"]

    def test_ratios_of_the_budget_that_are_off_by_more_than_one_percent(self):
        rows = fake_results.rows(strategies=["a", "b"], ratios=(2.0, 4.0))
        rows.loc[(rows["strategy"] == "a") & (rows["ratio"] == 4), "compression"] = 3.95
        rows.loc[(rows["strategy"] == "b") & (rows["ratio"] == 4), "compression"] = 3.97
        assert list(self.said(rows).values()) == [["a, resnet20 on cifar10, weights A: 4 → 3.95"]]
        rows["speedup"] = rows["ratio"]
        assert self.said(rows, "macs") == {}


class TestClaims:
    def test_mean_and_largest_overstatement_by_hand(self, write):
        rows = two([0.5, 0.5, 0.5], [0.6, 0.6, 0.6])
        rows["best_test_top1"] = rows["top1"]
        rows.loc[rows["strategy"] == "first", "best_test_top1"] = [0.5, 0.51, 0.53]
        page, _ = write(rows)
        # (0.01 + 0.03) over nine cells, three controls among them: 0.444 points.
        assert page.row("resnet20 on cifar10, weights A")[1:] == [
            "9",
            "0.44",
            "3.00",
            "first, ratio 2, seed 2",
        ]

    def test_a_study_that_does_not_ask_has_no_such_section(self, write):
        rows = two([0.5], [0.6]).drop(columns=tables.CLAIM)
        assert "choice on the test set" not in write(rows)[1]


class TestOtherTables:
    def test_the_ranking_is_in_the_order_of_the_overall_ranks(self, write):
        lines = [
            "all,all,all,first,3,,,,,1.75,4,1.5,0.02,1",
            "all,all,all,second,3,,,,,1.25,4,1.5,0.02,0",
            "cifar10,resnet20,A,first,3,0.9,0.01,0.875,0.925,1.5,2,,,1",
            "cifar10,resnet20,A,second,3,0.8,0.01,,,1.5,2,,,",
        ]
        page, text = write(two([0.5], [0.6]), more={"ranking": "\n".join([RANKED, *lines, ""])})
        table = [row for row in page.rows if row[0] in ("first", "second")][-2:]
        assert [row[0] for row in table] == ["second", "first"]
        assert table[1][1:] == ["1.75•", "90.0087.50 to 92.50", "1.50•"]
        assert table[0][1:] == ["1.25", "80.00", "1.50"]
        assert "critical difference 1.50" in text and "Friedman p 0.02" in text

    def test_many_networks_are_ranked_in_several_tables_with_the_same_rows(self, write):
        lines = [
            f"d{i},m,A,{name},3,0.9,0.01,0.8,1,1.5,2,,,1" for i in range(9) for name in ("first", "second")
        ]
        page, _ = write(two([0.5], [0.6]), more={"ranking": "\n".join([RANKED, *lines, ""])})
        heads = [entry for entry in page.named("th") if entry["scope"] == "colgroup"]
        assert len(heads) == 9
        # A name, and an area and a rank of each network.
        assert [len(row) for row in page.rows if row[0] == "second"][-3:] == [9, 9, 3]

    def test_components_of_variance_are_medians_of_deviations(self, write):
        head = "dataset,model,strategy,ratio,weights_n,masks_n,seeds_n,"
        head += "weights_variance,mask_variance,finetuning_variance,mask_and_finetuning_variance,note"
        lines = [
            f"cifar10,resnet20,{name},4,2,1,3,{value},,,0.0004,crossed"
            for name, value in (("a", 0.0001), ("b", 0.0009), ("c", ""))
        ]
        page, _ = write(two([0.5], [0.6]), more={"variance": "\n".join([head, *lines, ""])})
        # Of 1 and 3 points the median is 2; components that no row has are no columns.
        assert page.row("resnet20 on cifar10") == ["resnet20 on cifar10", "4", "3", "2.00", "2.00", "crossed"]

    def test_costs_are_shown_where_they_are_given(self, write, tmp_path):
        values = {
            "dataset": "cifar10", "model": "resnet20", "weights": "A", "strategy": "first", "ratio": "2",
            "seed": "1", "kernel": "dense", "threads": "1", "latency_ms": "3.14159", "latency_ms_iqr": "0.1",
            "latency_speedup": "1.019", "batch_size": "64", "throughput": "500", "throughput_speedup": "0.98",
            "peak_memory_mb": "", "bytes_dense": "1078888", "bytes_bitmask": "5", "bytes_csr": "6",
            "bytes_compressed": "7", "compression": "2", "speedup": "1.9", "top1": "0.5", "device": "cpu", "quiet": "no", "clock": "cpu",
        }  # fmt: skip
        with open(tmp_path / "costs.csv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, values)
            writer.writeheader()
            writer.writerow(values)
        page, text = write(two([0.5], [0.6]), costs=tmp_path / "costs.csv")
        row = page.row("first")
        assert row[1:5] == ["resnet20 on cifar10, weights A", "2", "1", "dense"]
        assert row[5:] == ["50.00", "1.90", "1.02", "0.98", "3.14", "0.10", "", "1,078,888", "5", "6", "7"]
        assert 'href="costs.csv"' in text
        assert "Something else was running while 1 of these 1 rows" in text

    def test_missing_cells_stand_at_the_top_and_by_themselves(self, write, tmp_path):
        files.write_text(
            tmp_path / "missing.csv",
            "dataset,model,weights,strategy,ratio,seed,reason\ncifar10,resnet20,A,first,4,1,measure: <odd>\n",
        )
        page, text = write(two([0.5], [0.6]), missing=tmp_path / "missing.csv")
        assert "This is not the whole study: 1 cell is missing" in text
        assert page.row("first")[1:] == ["resnet20 on cifar10, weights A", "4", "1", "measure: <odd>"]


class TestProgram:
    def run(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
        tabled = sorted(str(path.relative_to(folder)) for path in folder.glob("tables/*.csv"))
        command = [sys.executable, str(ROOT / "workflow/scripts/report.py"), "--study", json.dumps(OUTLINE)]
        command += ["--tables", *tabled, "--figures", "figures/compression.png", "--out", "report.html"]
        return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)

    def test_the_same_files_give_the_same_bytes_wherever_they_lie(self, write, tmp_path):
        pages = []
        for name in ("here", "there"):
            write(fake_results.rows(), figures=["compression"], name=name)
            done = self.run(tmp_path / name, "--content", captions.content(["compression"]))
            assert done.returncode == 0, done.stderr
            pages.append((tmp_path / name / "report.html").read_bytes())
        assert pages[0] == pages[1]
        record = records.read(tmp_path / "here/report.html.record.json")
        assert f'content="{record["id"]}"'.encode() in pages[0]
        assert str(tmp_path).encode() not in pages[0]

    def test_another_template_than_was_asked_for_is_refused(self, write, tmp_path):
        write(fake_results.rows(), figures=["compression"])
        done = self.run(tmp_path, "--content", "0" * 32)
        assert done.returncode == 1
        assert "changed while the study was running" in done.stderr and "Traceback" not in done.stderr


class TestCaptions:
    def test_every_figure_has_one_of_plain_paragraphs(self):
        for name in FIGURES.names():
            paragraphs = captions.paragraphs(name)
            assert paragraphs and all(paragraphs)
            # What reStructuredText would take for more than text.
            assert not re.search(r"[*|_]\w|::|^\.\.|`(?!`)[^`]*`(?!`)", "\n".join(paragraphs))

    def test_their_content_is_that_of_the_template_and_of_the_figures_asked_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr(captions, "FOLDER", tmp_path)
        monkeypatch.setattr(captions, "TEMPLATE", tmp_path / "report.html.j2")
        for name in ("report.html.j2", "a.rst", "b.rst"):
            (tmp_path / name).write_text(name)
        before = captions.content(["a"])
        (tmp_path / "b.rst").write_text("another")
        assert captions.content(["a"]) == before != captions.content(["a", "b"])
        (tmp_path / "report.html.j2").write_text("another")
        assert captions.content(["a"]) != before

    def test_a_caption_that_is_not_there_is_asked_for(self):
        with pytest.raises(UserError, match=r"write one as workflow/report/nothing\.rst"):
            captions.content(["nothing"])


class TestOutline:
    def test_it_is_json_and_names_controls_first_and_only_what_is_unusual(self):
        found = outline.of(study.read(ROOT / "config/config.yaml"))
        assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, sort_keys=True))
        assert found["study"] == "demo" and found["description"].startswith("Five one-shot baselines")
        assert [entry["strategy"] for entry in found["strategies"]][:2] == ["dense", "random"]
        assert found["recipes"]["finetune"] == {
            "optimizer": "adam", "lr": 0.003, "epochs": 5, "batch_size": 128, "crop": 1,
        }  # fmt: skip
        assert found["pairs"] == [
            {
                "dataset": "digits",
                "model": "digitsnet",
                "weights": ["A"],
                "finetune": "finetune",
                "ratios": [2, 4, 8, 16, 32],
            }
        ]

    @pytest.mark.parametrize("path", sorted((ROOT / "config/studies").glob("*.yaml")), ids=lambda p: p.stem)
    def test_every_study_has_one_that_fits_a_command_line(self, path, obtained):
        # Linux takes no word longer than 128 KiB.
        assert len(json.dumps(outline.of(study.read(path)))) < 64 << 10
