from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from PIL import Image

import draw
from shrinkflow import files, fingerprint, tables
from shrinkflow.errors import UserError
from shrinkflow.figures import FIGURES, curves, speedup, style
from tests.unit import fake_results

STUDIES = {
    "one facet": {},
    "three pairs, two weights": {
        "pairs": fake_results.PAIRS,
        "weights": ["A", "B"],
        "ratios": (2.0, 8.0, 32.0),
    },
    "four pairs": {
        "pairs": [("a-data-set", f"a-model-with-a-long-name-{i}") for i in range(4)],
        "ratios": (1.5, 1.6, 1.7, 10.0, 316.23, 1000.0),
        "strategies": ["magnitude"],
    },
    "twelve strategies": {"strategies": fake_results.TWELVE, "ratios": (2.0, 8.0), "seeds": 2},
    "one point": {"strategies": ["random"], "ratios": (3.3,), "seeds": 1},
}


@pytest.fixture(scope="module")
def study():
    """A study of one pair, two sets of weights, five strategies, six ratios, three seeds."""
    return fake_results.study(weights=["A", "B"])


@pytest.fixture(scope="module")
def drawn(study):
    """Each figure of that study, by name."""
    return {name: FIGURES[name](*study) for name in FIGURES.names()}


def altered(summary, strategy, ratio, **values):
    """Return a summary with other values in the cells of a strategy at a ratio."""
    chosen = (summary["strategy"] == strategy) & (summary["ratio"] == ratio)
    assert chosen.any()
    changed = summary.copy()
    changed.loc[chosen, list(values)] = list(values.values())
    return changed


def drawn_lines(ax):
    """Return {(colour, dashes): points} of the curves of a facet."""
    return {
        (to_rgb(line.get_color()), tuple(line._unscaled_dash_pattern[1] or ())): line.get_xydata()
        for line in ax.lines
        if line.get_zorder() == 3
    }


def curve(ax, look, dashes=None):
    return drawn_lines(ax)[(to_rgb(look.colour), (dashes or look.dashes)[1])]


def legend(figure):
    """Return {text: handle}, the blanks that fill up columns left out."""
    (found,) = figure.legends
    texts = [text.get_text() for text in found.get_texts()]
    return {text: handle for text, handle in zip(texts, found.legend_handles, strict=True) if text.strip()}


class TestTradeOff:
    def test_points_are_the_means_of_the_summary_in_percent(self, study, drawn):
        summary = study[1]
        looks = style.looks(summary["strategy"])
        for ax, weights in zip(drawn["speedup"].axes, ["A", "B"], strict=True):
            assert ax.get_title() == f"resnet20 on cifar10, weights {weights}"
            for name, look in looks.items():
                cells = summary[(summary["strategy"] == name) & (summary["weights"] == weights)]
                expected = np.stack([cells["speedup_mean"], 100 * cells["top1_mean"]], axis=1)
                np.testing.assert_allclose(curve(ax, look), expected)

    def test_bars_are_one_sample_standard_deviation(self, study, drawn):
        summary = study[1][study[1]["weights"] == "A"]
        bars = [c for c in drawn["compression"].axes[0].containers if isinstance(c, ErrorbarContainer)]
        looks = style.looks(summary["strategy"])
        assert len(bars) == len(looks) == 5
        for name, bar in zip(looks, bars, strict=True):
            lines = bar.lines[2][0].get_segments()
            half = [(segment[1][1] - segment[0][1]) / 2 for segment in lines]
            cells = summary[summary["strategy"] == name]
            np.testing.assert_allclose(half, 100 * cells["top1_sd"])
            np.testing.assert_allclose([s[0][0] for s in lines], cells["compression_mean"])

    def test_the_control_is_a_line_with_a_band_and_a_name(self, study, drawn):
        ax = drawn["compression"].axes[0]
        summary = study[1]
        control = summary[(summary["strategy"] == "dense") & (summary["weights"] == "A")].iloc[0]
        (line,) = [line for line in ax.lines if line.get_transform() != ax.transData]
        assert line.get_ydata()[0] == pytest.approx(100 * control["top1_mean"])
        (band,) = ax.patches
        assert band.get_height() == pytest.approx(200 * control["top1_sd"])
        assert band.get_y() == pytest.approx(100 * (control["top1_mean"] - control["top1_sd"]))
        assert [text.get_text() for text in ax.texts] == [f"dense\n{100 * control['top1_mean']:.1f}"]

    def test_axes_say_what_they_measure(self, drawn):
        compression, speed = drawn["compression"].axes[-1], drawn["speedup"].axes[-1]
        assert compression.get_ylabel() == "Top-1 accuracy on the test set (%)"
        assert compression.get_xlabel() == "Compression ratio (parameters / nonzero parameters)"
        assert speed.get_xlabel() == "Theoretical speedup (MACs / MACs left)"
        for ax in (compression, speed):
            assert ax.get_xscale() == "log"
            assert len(ax.xaxis.get_minorticklocs()) == 0
        assert [text.get_text() for text in compression.get_xticklabels()] == [
            *["2", "4", "8", "16", "32", "64"]
        ]
        assert compression.get_xticks().tolist() == [2, 4, 8, 16, 32, 64]

    def test_both_weights_of_a_pair_have_the_same_axes(self, drawn):
        first, second = drawn["compression"].axes
        assert first.get_ylim() == second.get_ylim()
        assert first.get_xlim() == second.get_xlim()

    @pytest.mark.parametrize("name", ["compression", "speedup"])
    @pytest.mark.parametrize("value", [math.inf, math.nan])
    def test_a_point_without_a_place_is_left_out_and_said(self, name, value):
        results, summary = fake_results.study()
        summary = altered(summary, "random", 64.0, **{f"{name}_mean": value})
        figure = FIGURES[name](results, summary)
        looks = style.looks(summary["strategy"])
        assert len(curve(figure.axes[0], looks["random"])) == 5
        assert len(curve(figure.axes[0], looks["global-gradient"])) == 6
        text = " ".join(figure.get_suptitle().split())
        assert text.endswith("Not drawn: 1 point whose mean is missing or infinite.")

    def test_a_study_where_everything_collapsed_is_drawn(self):
        results, summary = fake_results.study(strategies=["random"], ratios=(2.0, 4.0))
        summary.loc[summary["strategy"] == "random", "speedup_mean"] = math.inf
        assert "2 points" in FIGURES["speedup"](results, summary).get_suptitle()

    def test_a_study_of_controls_alone_is_refused(self):
        with pytest.raises(UserError, match="no strategy but 'dense'"):
            FIGURES["compression"](*fake_results.study(strategies=[]))

    @pytest.mark.parametrize(
        ("ns", "says"),
        [
            ([3, 3], "mean and sample standard deviation of 3 seeds."),
            ([2, 3], "mean and sample standard deviation of 2 to 3 seeds."),
            ([1, 3], "of 1 to 3 seeds (one seed has no deviation)."),
            ([1, 1], "one seed, no deviation."),
        ],
    )
    def test_caption_says_how_many_seeds(self, ns, says):
        _, summary = fake_results.study(strategies=["random"], ratios=(2.0,))
        text = curves.caption(summary.assign(n=ns), curves.COMPRESSION)
        assert says in text

    def test_a_name_is_no_formula(self):
        results, summary = fake_results.study(strategies=["$x^{", "a_b"], weights=["$\\frac$"])
        assert list(legend(FIGURES["compression"](results, summary))) == ["$x^{", "a_b"]


class TestSpeedupTicks:
    @pytest.mark.parametrize(
        ("low", "high", "ticks"),
        [
            (1.0, 9.0, [1, 2, 4, 8]),
            (1.7, 33.0, [2, 4, 8, 16, 32]),
            (1.0, 3.1, [1, 1.5, 2, 2.5, 3]),
            (1.0, 2.0**17, [4.0**i for i in range(9)]),
            (2.37, 2.37, [2.37]),
            (1.0, 1.0, [1]),
        ],
    )
    def test_round_numbers(self, low, high, ticks):
        assert list(speedup.round_numbers(low, high, [])) == pytest.approx(ticks)


class TestWeights:
    def test_one_set_of_weights_is_refused(self):
        with pytest.raises(UserError, match="'weights' compares initial weights"):
            FIGURES["weights"](*fake_results.study())

    def test_panels_show_accuracy_and_change(self, study, drawn):
        summary = study[1]
        left, right = drawn["weights"].axes
        looks, lines = style.looks(summary["strategy"]), style.lines(["A", "B"])
        for name, look in looks.items():
            for weights, line in lines.items():
                cells = summary[(summary["strategy"] == name) & (summary["weights"] == weights)]
                for ax, column in ((left, "top1_mean"), (right, "top1_change_mean")):
                    points = curve(ax, look, line.dashes)
                    np.testing.assert_allclose(points[:, 1], 100 * cells[column])
        assert [text.get_text()[:8] for text in left.texts] == ["dense, A", "dense, B"]
        assert [text.get_text() for text in right.texts] == ["dense\n0.0"]
        assert "percentage points" in right.get_ylabel()

    def test_pairs_with_one_set_of_weights_are_left_out(self):
        other = fake_results.rows(pairs=[("digits", "digitsnet")], strategies=["snip"])
        both = pd.concat([fake_results.rows(weights=["A", "B"]), other])
        results = tables.results(both)
        figure = FIGURES["weights"](results, tables.summary(results))
        assert [ax.get_title() for ax in figure.axes] == ["resnet20 on cifar10"] * 2
        assert list(legend(figure)) == [*fake_results.STRATEGIES, "weights A", "weights B"]


class TestStyle:
    def test_looks_depend_on_the_sorted_names_alone(self):
        names = fake_results.TWELVE
        assert style.looks(reversed(names)) == style.looks(["dense", *names, *names])
        assert list(style.looks(names)) == sorted(names)

    def test_looks_can_be_told_apart(self):
        looks = style.looks(f"{i:02}" for i in range(36)).values()
        assert len({look.marker for look in list(looks)[:12]}) == 12
        assert len({look.colour for look in list(looks)[:9]}) == 9
        assert len({(look.colour, look.marker) for look in looks}) == 36

    def test_a_strategy_looks_the_same_in_every_figure(self, study, drawn):
        entries = [legend(figure) for figure in drawn.values()]
        for name, look in style.looks(study[1]["strategy"]).items():
            for entry in entries:
                assert to_rgb(entry[name].get_color()) == to_rgb(look.colour)
                assert entry[name].get_marker() == look.marker

    def test_the_users_settings_do_not_count(self, tmp_path):
        study = fake_results.study(strategies=["random"], ratios=(2.0, 4.0))
        written = []
        for pad in (1, 30):
            with matplotlib.rc_context({"axes.titlepad": pad, "font.size": pad}):
                figure = FIGURES["compression"](*study)
                style.save(figure, tmp_path / "a.svg", tmp_path / "a.png", {"Title": "t"})
                assert matplotlib.rcParams["axes.titlepad"] == pad
            written.append([(tmp_path / name).read_bytes() for name in ("a.svg", "a.png")])
        assert written[0] == written[1]

    def test_metadata_is_what_was_given(self, tmp_path):
        figure = FIGURES["compression"](*fake_results.study(strategies=["random"]))
        style.save(figure, tmp_path / "a.svg", tmp_path / "a.png", {"Title": "compression"})
        with Image.open(tmp_path / "a.png") as image:
            assert {k: v for k, v in image.info.items() if k != "dpi"} == {"Title": "compression"}
        svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
        assert "<dc:title>compression</dc:title>" in svg
        assert "dc:date" not in svg
        assert matplotlib.__version__ not in svg


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("compression", kind) for kind in STUDIES],
        *[("speedup", kind) for kind in STUDIES],
        ("weights", "three pairs, two weights"),
    ],
)
def test_nothing_is_cut_off_or_lies_over_another(name, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name](*fake_results.study(**STUDIES[kind]))
        figure.draw_without_rendering()
    frame = figure.bbox.padded(1)
    facets = [ax.get_tightbbox() for ax in figure.axes]
    caption = figure._suptitle.get_window_extent()
    blocks = [*facets, figure.legends[0].get_window_extent(), caption]
    for i, block in enumerate(blocks):
        assert frame.containsx(block.x0)
        assert frame.containsx(block.x1)
        assert frame.containsy(block.y0)
        assert frame.containsy(block.y1)
        assert not any(block.overlaps(other) for other in blocks[:i])
    for ax in figure.axes:
        labels = [label for label in ax.get_xticklabels() if label.get_text()]
        assert labels
        for axis in (labels, [label for label in ax.get_yticklabels() if label.get_text()]):
            boxes = [label.get_window_extent() for label in axis]
            assert not any(one.overlaps(two) for one, two in pairwise(boxes))
        names = [text.get_window_extent() for text in ax.texts]
        inside = [ax.bbox, ax.title.get_window_extent()]
        assert not any(one.overlaps(two) for one, two in pairwise(names))
        assert not any(one.overlaps(two) for one in names for two in inside)
        low, high = ax.get_ylim()
        for points in drawn_lines(ax).values():
            assert ((points[:, 1] > low) & (points[:, 1] < high)).all()


def test_two_processes_write_the_same_bytes_and_records(tmp_path):
    results, summary = fake_results.study(weights=["A", "B"], ratios=(2.0, 4.0))
    arguments = ["--figure", "weights", "--results", "r.csv", "--summary", "s.csv"]
    running = []
    for seed in ("0", "1"):
        folder = tmp_path / seed
        tables.write_results(folder / "r.csv", results)
        tables.write_summary(folder / "s.csv", summary)
        command = [sys.executable, draw.__file__, *arguments, "--svg", "w.svg", "--png", "w.png"]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        running.append(subprocess.Popen(command, cwd=folder, env=environment))
    assert [process.wait() for process in running] == [0, 0]
    first, second = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / seed).iterdir())} for seed in ("0", "1")
    )
    assert sorted(first) == [*["r.csv", "s.csv", "w.png", "w.png.record.json", "w.svg", "w.svg.record.json"]]
    assert first == second
    record = files.read_json(tmp_path / "0" / "w.png.record.json")
    assert record["parameters"] == {"figure": "weights"}
    # A change of the figure's own file makes the figure stale.
    reached = fingerprint.fingerprint(draw.__file__, FIGURES.file("weights"))
    assert record["code"]["fingerprint"] == reached != fingerprint.fingerprint(draw.__file__)
    assert files.digest(tmp_path / "0" / "r.csv") in first["w.svg"].decode()


def test_an_unknown_figure_is_refused_before_anything_is_read(monkeypatch):
    arguments = ["--results", "r", "--summary", "s", "--svg", "a.svg", "--png", "a.png"]
    monkeypatch.setattr(sys, "argv", ["draw.py", "--figure", "compresion", *arguments])
    with pytest.raises(UserError, match="unknown figure 'compresion'; did you mean 'compression'"):
        draw.main()
