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
from shrinkflow.figures import FIGURES, curves, families, speedup, style
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
    "nine strategies": {"strategies": fake_results.TWELVE[:9], "ratios": (2.0, 8.0), "seeds": 2},
    "ten strategies": {"strategies": fake_results.TWELVE[:10], "ratios": (2.0, 8.0), "seeds": 2},
    "twelve strategies, two pairs": {
        "strategies": fake_results.TWELVE,
        "pairs": fake_results.PAIRS[:2],
        "ratios": (2.0, 8.0),
        "seeds": 2,
    },
    "forty strategies": {"strategies": fake_results.FORTY, "ratios": (2.0, 8.0), "seeds": 2},
    "twelve strategies, two weights": {
        "strategies": fake_results.TWELVE,
        "weights": ["A", "B"],
        "ratios": (2.0, 8.0),
        "seeds": 2,
    },
    "other controls": {
        "strategies": ["global-magnitude", "lottery-ticket", "random", "snip"],
        "controls": fake_results.REWOUND,
        "weights": ["A", "B"],
        "ratios": (2.0, 8.0),
    },
    "one point": {"strategies": ["random"], "ratios": (3.3,), "seeds": 1},
}


@pytest.fixture(scope="module")
def study():
    """A study of one pair, two sets of weights, five strategies, six ratios, three seeds."""
    return fake_results.study(weights=["A", "B"])


@pytest.fixture(scope="module")
def drawn(study):
    """Each figure of that study, by name."""
    return {name: FIGURES[name](*study) for name in ("compression", "speedup", "weights")}


@pytest.fixture(scope="module")
def rewound():
    """A study in which two strategies have controls of their own."""
    strategies = ["global-magnitude", "lottery-ticket", "random", "snip"]
    return fake_results.study(
        strategies=strategies, controls=fake_results.REWOUND, weights=["A", "B"], ratios=(2.0, 8.0)
    )


@pytest.fixture(scope="module")
def forty():
    """A study of forty strategies, and its figure "compression"."""
    study = fake_results.study(strategies=fake_results.FORTY, ratios=(2.0, 8.0), seeds=2)
    return study, FIGURES["compression"](*study)


@pytest.fixture(scope="module")
def family():
    """One network pruned in five ways, among four smaller dense ones."""
    smaller = ["resnet32", "resnet20", "resnet20-x0.5", "resnet20-x0.25"]
    results = tables.results(
        fake_results.family({"resnet56": fake_results.STRATEGIES} | dict.fromkeys(smaller, ()))
    )
    return results, tables.summary(results)


def altered(summary, strategy, ratio, **values):
    """Return a summary with other values in the cells of a strategy at a ratio."""
    chosen = (summary["strategy"] == strategy) & (summary["ratio"] == ratio)
    assert chosen.any()
    changed = summary.copy()
    changed.loc[chosen, list(values)] = list(values.values())
    return changed


def drawn_lines(ax):
    """Return {(colour, dashes): points} of the curves of a facet, references among them."""
    return {
        (to_rgb(line.get_color()), tuple(line._unscaled_dash_pattern[1] or ())): line.get_xydata()
        for line in ax.lines
        if line.get_zorder() in (2.5, 3)
    }


def curve(ax, look, dashes=None):
    return drawn_lines(ax)[(to_rgb(look.colour), (dashes or look.dashes)[1])]


def legend(figure):
    """Return {text: handle} of the one legend of a figure, or of a facet."""
    (found,) = figure.legends if hasattr(figure, "legends") else [figure.get_legend()]
    # Blanks fill up columns.
    texts = [text.get_text() for text in found.get_texts()]
    return {text: handle for text, handle in zip(texts, found.legend_handles, strict=True) if text.strip()}


class TestTradeOff:
    def test_points_are_the_means_of_the_summary_in_percent(self, study, drawn):
        summary = study[1]
        looks = style.looks(curves.strategies(summary))
        for ax, weights in zip(drawn["speedup"].axes, ["A", "B"], strict=True):
            assert ax.get_title() == f"resnet20 on cifar10, weights {weights}"
            for name, look in looks.items():
                cells = summary[(summary["strategy"] == name) & (summary["weights"] == weights)]
                expected = np.stack([cells["speedup_mean"], 100 * cells["top1_mean"]], axis=1)
                np.testing.assert_allclose(curve(ax, look), expected)

    def test_bars_are_one_sample_standard_deviation(self, study, drawn):
        summary = study[1][study[1]["weights"] == "A"]
        bars = [c for c in drawn["compression"].axes[0].containers if isinstance(c, ErrorbarContainer)]
        looks = style.looks(curves.strategies(summary))
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
        looks = style.looks(curves.strategies(summary))
        assert len(curve(figure.axes[0], looks["random"])) == 5
        assert len(curve(figure.axes[0], looks["global-gradient"])) == 6
        text = " ".join(figure.get_suptitle().split())
        assert text.endswith("Not drawn: 1 point whose mean is missing or infinite.")

    def test_a_study_where_everything_collapsed_is_drawn(self):
        results, summary = fake_results.study(strategies=["random"], ratios=(2.0, 4.0))
        summary.loc[summary["strategy"] == "random", "speedup_mean"] = math.inf
        assert "2 points" in FIGURES["speedup"](results, summary).get_suptitle()

    def test_a_network_that_is_not_pruned_has_no_facet(self):
        cells = fake_results.family({"resnet56": ["random"], "resnet20": []}, weights=["A", "B"])
        results = tables.results(cells)
        for name in ("compression", "speedup"):
            figure = FIGURES[name](results, tables.summary(results))
            assert [ax.get_title() for ax in figure.axes] == [
                f"resnet56 on cifar10, weights {weights}" for weights in "AB"
            ]
        axes = FIGURES["weights"](results, tables.summary(results)).axes
        assert [ax.get_title() for ax in axes] == ["resnet56 on cifar10"] * 2

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


class TestControls:
    def test_no_control_is_a_curve(self, rewound):
        for name in ("compression", "speedup", "weights"):
            entries = set(legend(FIGURES[name](*rewound)))
            assert entries - {"weights A", "weights B"} == {
                *["global-magnitude", "lottery-ticket", "random", "snip"]
            }

    def test_other_controls_are_thin_lines_at_their_mean_and_named(self, rewound):
        summary = rewound[1][rewound[1]["weights"] == "A"].set_index("strategy")
        ax = FIGURES["compression"](*rewound).axes[0]
        lines = {
            line.get_ydata()[0]: line.get_linewidth()
            for line in ax.lines
            if line.get_transform() != ax.transData
        }
        names = ["dense", "dense-initialisation", "dense-weight-rewinding-0"]
        means = [100 * summary.loc[name, "top1_mean"] for name in names]
        assert list(lines) == pytest.approx(means)
        first, *others = lines.values()
        assert all(width < first for width in others)
        texts = ["".join(text.get_text().split("\n")).replace(" ", "") for text in ax.texts]
        assert sorted(texts) == sorted(f"{name}{mean:.1f}" for name, mean in zip(names, means, strict=True))
        assert len(ax.patches) == 1  # the band of "dense"

    def test_only_a_panel_whose_curves_use_a_control_shows_it(self):
        controls = {"snip": "dense-initialisation"}
        study = fake_results.study(strategies=fake_results.TWELVE, controls=controls, ratios=(2.0, 8.0))
        for ax in FIGURES["compression"](*study).axes:
            shown = any("initialisation" in text.get_text() for text in ax.texts)
            assert shown == ("snip" in legend(ax))

    def test_captions_say_what_the_thin_lines_are_and_what_changes_are_from(self, rewound):
        said = {
            name: " ".join(FIGURES[name](*rewound).get_suptitle().split())
            for name in ("compression", "weights")
        }
        assert "Thin lines: the controls of strategies that retrain otherwise." in said["compression"]
        assert "Changes are from each strategy's own control." in said["weights"]
        ax = FIGURES["weights"](*rewound).axes[1]
        assert [text.get_text() for text in ax.texts] == ["own control\n0.0"]

    def test_changes_are_those_from_the_own_control(self, rewound):
        summary = rewound[1][rewound[1]["weights"] == "A"].set_index(["strategy", "ratio"])
        ax = FIGURES["weights"](*rewound).axes[1]
        look = style.looks(curves.strategies(rewound[1]))["snip"]
        points = curve(ax, look, style.lines(["A", "B"])["A"].dashes)
        own = summary.loc[("dense-initialisation", 1.0), "top1_mean"]
        for (_, height), ratio in zip(points, (2.0, 8.0), strict=True):
            assert height == pytest.approx(100 * (summary.loc[("snip", ratio), "top1_mean"] - own))


class TestPanels:
    def test_every_strategy_has_one_panel_and_the_references_have_all(self, forty):
        figure = forty[1]
        entries = [list(legend(ax)) for ax in figure.axes if ax.get_legend()]
        assert len(entries) == 5
        assert not figure.legends
        references = ["global-magnitude", "random"]
        assert all(names[-2:] == references for names in entries)
        others = [name for names in entries for name in names[:-2]]
        assert others == sorted(set(fake_results.FORTY) - set(references))

    def test_a_panel_has_the_curves_of_its_legend(self, forty):
        (_, summary), figure = forty
        looks = style.looks(fake_results.FORTY)
        for place, ax in enumerate(figure.axes):
            assert ax.get_title() == f"resnet20 on cifar10, weights A\nstrategies {place + 1} of 5"
            names = list(legend(ax))
            assert len(drawn_lines(ax)) == len(names)
            for name in names:
                cells = summary[summary["strategy"] == name]
                np.testing.assert_allclose(curve(ax, looks[name])[:, 1], 100 * cells["top1_mean"])

    def test_panels_of_a_network_have_the_same_axes(self, forty):
        assert len({(ax.get_xlim(), ax.get_ylim()) for ax in forty[1].axes}) == 1

    def test_networks_share_the_legend_of_a_panel_and_the_figure_grows_downwards(self, forty):
        study = fake_results.study(
            strategies=fake_results.TWELVE, pairs=fake_results.PAIRS[:2], ratios=(2.0,), seeds=1
        )
        figure = FIGURES["compression"](*study)
        places = {ax.get_title().split("\n")[0]: bool(ax.get_legend()) for ax in figure.axes}
        assert places == {
            "cifar-vgg on cifar10, weights A": False,
            "resnet20 on cifar10, weights A": True,
        }
        assert forty[1].get_size_inches()[0] < 14

    def test_a_network_has_only_the_panels_of_its_own_strategies(self):
        many = fake_results.rows(strategies=fake_results.TWELVE, ratios=(2.0,), weights=["A", "B"], seeds=1)
        digits = [("digits", "digitsnet")]
        few = ["global-magnitude", "random", "snip"]
        more = fake_results.rows(digits, strategies=few, ratios=(2.0,), weights=["A", "B"], seeds=1)
        none = fake_results.rows(
            [("more-digits", "mnistnet")], strategies=few[:2], ratios=(2.0,), weights=["A", "B"], seeds=1
        )
        results = tables.results(pd.concat([many, more, none]))
        study = results, tables.summary(results)
        first, second = style.panels(fake_results.TWELVE)
        assert "snip" in second
        figure = FIGURES["compression"](*study)
        found = [(ax.get_title().replace("\n", " "), bool(ax.get_legend())) for ax in figure.axes]
        assert sorted(found) == [
            ("digitsnet on digits, weights A strategies 2 of 2", False),
            ("digitsnet on digits, weights B strategies 2 of 2", True),
            ("mnistnet on more-digits, weights A strategies 1 of 2", False),
            ("mnistnet on more-digits, weights B strategies 1 of 2", True),
            *[(f"resnet20 on cifar10, weights {w} strategies {i} of 2", False) for w in "AB" for i in (1, 2)],
        ]
        entries = {tuple(legend(ax)) for ax in figure.axes if ax.get_legend()}
        assert entries == {tuple(first), tuple(second)}
        titles = [ax.get_title().replace("\n", " ") for ax in FIGURES["weights"](*study).axes[::2]]
        assert titles == [
            "resnet20 on cifar10 strategies 1 of 2",
            "mnistnet on more-digits strategies 1 of 2",
            "resnet20 on cifar10 strategies 2 of 2",
            "digitsnet on digits strategies 2 of 2",
        ]

    def test_references_lie_behind_and_are_said(self, forty):
        figure = forty[1]
        text = " ".join(figure.get_suptitle().split())
        assert "Grey, in every panel: global-magnitude and random." in text
        for ax in figure.axes:
            grey = [line for line in ax.lines if len(set(to_rgb(line.get_color()))) == 1]
            references = [line for line in grey if line.get_transform() == ax.transData]
            front = [line for line in ax.lines if line not in grey]
            assert max(line.get_zorder() for line in references if line.get_linestyle() != "None") < min(
                line.get_zorder() for line in front
            )

    def test_weights_are_compared_in_panels_too(self):
        figure = FIGURES["weights"](
            *fake_results.study(strategies=fake_results.TWELVE, weights=["A", "B"], ratios=(2.0,), seeds=1)
        )
        left, right = figure.axes[0::2], figure.axes[1::2]
        assert [list(legend(ax)) for ax in left] == style.panels(fake_results.TWELVE)
        assert all(list(legend(ax)) == ["weights A", "weights B"] for ax in right)


class TestFamilies:
    def draw(self, cells):
        results = tables.results(cells)
        return FIGURES["families"](results, tables.summary(results))

    @staticmethod
    def dense_line(ax):
        (line,) = [line for line in ax.lines if line.get_zorder() == 2.8]
        return line.get_xydata()

    def test_the_line_joins_all_dense_networks_by_absolute_size(self, family):
        dense = family[1][family[1]["strategy"] == "dense"].sort_values("params_nonzero_mean")
        axes = FIGURES["families"](*family).axes
        for ax, column in zip(axes, ("params_nonzero_mean", "macs_nonzero_mean"), strict=True):
            expected = np.stack([dense[column], 100 * dense["top1_mean"]], axis=1)
            np.testing.assert_allclose(self.dense_line(ax), expected)
            assert ax.get_xscale() == "log"
            named = [text.get_text() for text in ax.texts if text.get_text()]
            assert named == ["resnet20-x0.25", "resnet20-x0.5", "resnet20", "resnet32", "resnet56"]
        # 17,326 parameters, and 2.617504 million MACs.
        assert self.dense_line(axes[0])[0][0] == 17_326
        assert self.dense_line(axes[1])[0][0] == 2_617_504

    def test_axes_say_what_they_measure(self, family):
        first, second = FIGURES["families"](*family).axes
        assert first.get_xlabel() == "Parameters left (nonzero)"
        assert second.get_xlabel() == "MACs left (nonzero weights), for one picture"
        assert first.get_ylabel() == second.get_ylabel() == "Top-1 accuracy on the test set (%)"
        assert first.get_title() == second.get_title() == "cifar10"
        assert first.get_ylim() == second.get_ylim()

    def test_a_curve_goes_by_what_is_left_of_the_network(self, family):
        summary = family[1]
        looks = style.looks(fake_results.STRATEGIES)
        for ax, column in zip(
            FIGURES["families"](*family).axes, ("params_nonzero_mean", "macs_nonzero_mean"), strict=True
        ):
            for name, look in looks.items():
                cells = summary[summary["strategy"] == name].sort_values("ratio")
                expected = np.stack([cells[column], 100 * cells["top1_mean"]], axis=1)
                np.testing.assert_allclose(curve(ax, look), expected)

    def test_a_curve_starts_at_its_own_control(self):
        scratch = "dense-initialisation"
        cells = fake_results.family({"resnet56": ["random"], "resnet20": []})
        pruned, big = cells["strategy"] == "random", cells["model"] == "resnet56"
        own = cells[big & ~pruned].assign(strategy=scratch, control=scratch, top1=0.85)
        cells.loc[pruned, "control"] = scratch
        ax = self.draw(pd.concat([cells, own])).axes[0]
        (start,) = [line.get_xydata() for line in ax.lines if line.get_zorder() == 2.2]
        np.testing.assert_allclose(start[0], [853_018, 85.0])
        np.testing.assert_allclose(start[1], curve(ax, style.looks(["random"])["random"])[0])
        # The line of dense networks is that of the plain control all the same.
        assert self.dense_line(ax)[-1][1] > 90

    def test_one_network_is_refused(self):
        with pytest.raises(UserError, match="'families' compares the networks of a data set"):
            FIGURES["families"](*fake_results.study(pairs=[("cifar10", "resnet20"), ("digits", "digitsnet")]))

    def test_a_column_for_each_data_set_with_several_networks(self):
        digits = {"digitsnet": ["random"], "digitsnet-x0.5": []}
        alone = fake_results.family({"digitsnet": ["random"]}, dataset="alone")
        figure = self.draw(
            pd.concat(
                [
                    fake_results.family({"resnet56": ["random"], "resnet20": []}),
                    fake_results.family(digits, dataset="digits"),
                    alone,
                ]
            )
        )
        grid = [(ax.get_title(), ax.get_xlabel()[:4]) for ax in figure.axes]
        assert grid == [("cifar10", "Para"), ("digits", "Para"), ("cifar10", "MACs"), ("digits", "MACs")]

    def test_initial_weights_are_chosen_by_the_validation_set(self):
        cells = fake_results.family({"resnet56": ["random"], "resnet20": []}, weights=["A", "B"])
        dense, second = cells["strategy"] == "dense", cells["weights"] == "B"
        # B is worse on the test set, and better on the validation set, for one of the two.
        cells.loc[dense, "val_top1"] = 0.9
        cells.loc[dense & second & (cells["model"] == "resnet56"), "val_top1"] = 0.95
        ax = self.draw(cells).axes[0]
        means = cells[dense].groupby(["model", "weights"])["top1"].mean()
        expected = [100 * means["resnet20", "A"], 100 * means["resnet56", "B"]]
        np.testing.assert_allclose(self.dense_line(ax)[:, 1], expected)
        points = curve(ax, style.looks(["random"])["random"])
        own = cells[(cells["strategy"] == "random") & second].groupby("ratio")["top1"].mean()
        np.testing.assert_allclose(points[:, 1], 100 * own)

    def test_leading_strategies_are_best_somewhere_on_the_validation_set(self):
        # Ranks by validation: at ratio 2: a, b, c, d; at ratio 32: d, c, b, a; at ratio 8: b, a, c, d.
        # So a, b and d are first once; b has the better mean rank (2, 5/3, 7/3, 3).
        ranks = {2.0: "abcd", 32.0: "dcba", 8.0: "bacd"}
        cells = pd.DataFrame(
            [
                {"dataset": "x", "model": "m", "ratio": ratio, "strategy": name, "control": "dense"}
                | {"val_top1_mean": 0.9 - 0.1 * place, "top1_mean": 0.1 + 0.2 * place}
                for ratio, order in ranks.items()
                for place, name in enumerate(order)
            ]
        )
        assert [families.leading(cells, count) for count in (1, 2, 3, 4)] == [
            *[["b"], ["a", "b"], ["a", "b", "d"], ["a", "b", "c", "d"]]
        ]

    def test_of_many_strategies_the_references_and_eight_are_drawn_and_said(self):
        cells = fake_results.family({"resnet56": fake_results.FORTY, "resnet20": []}, ratios=(2.0, 8.0))
        # The last by name and by the test set is the best on the validation set.
        last = cells["strategy"] == "layerwise-wood"
        cells.loc[last, "val_top1"] = 1.0
        figure = self.draw(cells)
        entries = list(legend(figure))
        assert len(entries) == 8 + 2 + 1
        assert {"layerwise-wood", "global-magnitude", "random", "dense networks"} <= set(entries)
        handles = list(legend(figure).values())
        assert len({to_rgb(handle.get_color()) for handle in handles}) == len(handles)
        text = " ".join(figure.get_suptitle().split())
        assert "Strategies drawn, of 40: global-magnitude, random and the 8 that place best" in text

    def test_of_many_pruned_networks_the_largest_are_drawn_and_said(self):
        models = ["resnet8", "resnet14", "resnet20", "resnet32", "resnet56"]
        figure = self.draw(fake_results.family(dict.fromkeys(models, ("random",)), ratios=(2.0, 8.0)))
        assert list(legend(figure)) == [
            *["random", "dense networks", "resnet56, pruned", "resnet32, pruned", "resnet20, pruned"]
        ]
        assert "Pruned networks drawn: the largest 3." in figure.get_suptitle()
        look = style.looks(["random"])["random"]
        styles = list(style.lines_in_order("abc").values())
        starts = [curve(figure.axes[0], look, line.dashes)[0][0] for line in styles]
        assert starts == pytest.approx([853_018 / 2, 464_154 / 2, 269_722 / 2], abs=1)
        assert len(self.dense_line(figure.axes[0])) == 5

    def test_points_far_below_all_dense_networks_are_cut_off_and_counted(self):
        cells = fake_results.family({"resnet56": ["random"], "resnet20": []}, ratios=(2.0, 4.0, 8.0))
        lost = (cells["strategy"] == "random") & (cells["ratio"] > 2)
        cells.loc[lost, "top1"] = 0.1
        figure = self.draw(cells)
        assert "Not drawn: 2 points far below all dense networks." in " ".join(figure.get_suptitle().split())
        assert figure.axes[0].get_ylim()[0] > 80

    def test_a_network_without_parameters_is_no_point(self):
        cells = fake_results.family({"resnet56": ["random"], "resnet20": []}, ratios=(2.0, 8.0))
        lost = (cells["strategy"] == "random") & (cells["ratio"] == 8)
        cells.loc[lost, ["params_nonzero", "macs_nonzero"]] = 0
        figure = self.draw(cells)
        assert "1 point whose mean is missing or infinite" in " ".join(figure.get_suptitle().split())
        assert len(curve(figure.axes[0], style.looks(["random"])["random"])) == 1

    @pytest.mark.parametrize(
        ("count", "text"),
        [(500.0, "500"), (1000.0, "1k"), (20_000.0, "20k"), (1.5e6, "1.5M"), (3e9, "3G")],
    )
    def test_counts_for_people(self, count, text):
        assert families.short(count) == text


class TestApart:
    def test_what_does_not_touch_stays(self):
        assert curves.apart([0, 10, 30], [8, 8, 8]) == [0, 10, 30]

    def test_overlaps_move_both_ways_alike(self):
        # They need 11 between their middles, and have 4.
        assert curves.apart([100, 104], [10, 10]) == pytest.approx([96.5, 107.5])

    def test_nothing_leaves_the_room_where_there_is_enough(self):
        moved = curves.apart([1, 2, 99, 99], [10, 10, 10, 10], 0, 100)
        assert moved == pytest.approx([5, 16, 84, 95])


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
        looks, lines = style.looks(curves.strategies(summary)), style.lines(["A", "B"])
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
        for some in (names, names[:7]):
            assert style.looks(reversed(some)) == style.looks([*some, *some])
            assert set(style.looks(some)) == set(some)

    @pytest.mark.parametrize("count", [1, 9, 10, 38, 40, 100])
    @pytest.mark.parametrize("references", [[], ["random"], ["global-magnitude", "random"]])
    def test_looks_of_a_panel_can_be_told_apart_by_colour_and_by_shape(self, count, references):
        names = [f"{i:03}" for i in range(count)] + references
        looks = style.looks(names)
        for panel in style.panels(names):
            assert len(panel) <= max(style.MOST, 8 + len(references))
            assert len({looks[name].colour for name in panel}) == len(panel)
            assert len({looks[name].marker for name in panel}) == len(panel)

    def test_up_to_nine_strategies_share_a_panel(self):
        names = ["b", "random", "a", "global-magnitude", *"cdefg"]
        assert style.panels(names) == [sorted(names)]
        assert not any(look.reference for look in style.looks(names).values())

    def test_more_strategies_share_panels_of_about_equal_size_with_the_references(self):
        names = ["random", "global-magnitude", *"abcdefghijklmnopqrs"]
        references = ["global-magnitude", "random"]
        assert style.panels(names) == [
            [*"abcdef", *references],
            [*"ghijkl", *references],
            [*"mnopqrs", *references],
        ]
        looks = style.looks(names)
        assert [name for name, look in looks.items() if look.reference] == references
        # Grey: red, green and blue are equal.
        assert all(len(set(looks[name].colour)) == 1 for name in references)

    def test_a_strategy_looks_the_same_in_every_figure(self, study, drawn):
        entries = [legend(figure) for figure in drawn.values()]
        for name, look in style.looks(curves.strategies(study[1])).items():
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


def small_family(pruned, dense=(), **arguments):
    """Return (results, summary) of dense networks, and of those that are pruned: {model: strategies}."""
    cells = fake_results.family(pruned | dict.fromkeys(dense, ()), ratios=(2.0, 8.0, 64.0), **arguments)
    results = tables.results(cells)
    return results, tables.summary(results)


def many_networks():
    """Return thirty networks with nearly equal numbers of parameters, and long names."""
    cells = [
        fake_results.family({"resnet20": ("random",) if i == 0 else ()}, ratios=(2.0, 8.0)).assign(
            model=f"a-network-called-{i:02}", params_nonzero=lambda cells, i=i: cells["params_nonzero"] + i
        )
        for i in range(30)
    ]
    results = tables.results(pd.concat(cells))
    return results, tables.summary(results)


RESNETS = [name for name in fake_results.SIZES if name.startswith("resnet")]
FAMILIES = {
    "five dense networks": lambda: small_family({"resnet56": fake_results.STRATEGIES}, RESNETS[1:6]),
    "forty strategies of every network": lambda: small_family(dict.fromkeys(RESNETS, fake_results.FORTY)),
    "two networks, two weights, one seed": lambda: small_family(
        dict.fromkeys(RESNETS[:2], ("random",)), weights=["A", "B"], seeds=1
    ),
    "dense networks alone": lambda: small_family({}, ["resnet20", "resnet20-x0.75"]),
    "thirty networks of about one size": many_networks,
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("compression", kind) for kind in STUDIES],
        *[("speedup", kind) for kind in ("one facet", "four pairs", "forty strategies", "one point")],
        *[("weights", kind) for kind, arguments in STUDIES.items() if "weights" in arguments],
        *[("families", kind) for kind in FAMILIES],
    ],
)
def test_nothing_is_cut_off_or_lies_over_another(name, kind):
    study = FAMILIES[kind]() if kind in FAMILIES else fake_results.study(**STUDIES[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name](*study)
        figure.draw_without_rendering()
    frame = figure.bbox.padded(1)
    facets = [ax.get_tightbbox() for ax in figure.axes]
    caption = figure._suptitle.get_window_extent()
    blocks = [*facets, *[legend.get_window_extent() for legend in figure.legends], caption]
    for i, block in enumerate(blocks):
        assert frame.containsx(block.x0)
        assert frame.containsx(block.x1)
        assert frame.containsy(block.y0)
        assert frame.containsy(block.y1)
        assert not any(block.overlaps(other) for other in blocks[:i])
    for ax in figure.axes:
        # Nothing takes the room of the curves: a facet is 330 pixels high, with title and labels.
        assert ax.bbox.height > 230
        labels = [label for label in ax.get_xticklabels() if label.get_text()]
        assert labels
        for axis in (labels, [label for label in ax.get_yticklabels() if label.get_text()]):
            boxes = [label.get_window_extent() for label in axis]
            assert not any(one.overlaps(two) for one, two in pairwise(boxes))
        texts = [text for text in ax.texts if text.get_text()]
        names = [text.get_window_extent() for text in texts]
        inside = [ax.bbox, ax.title.get_window_extent()]
        assert not any(one.overlaps(two) for one in names for two in inside)
        if name == "families":
            # Boxes of names that stand aslant overlap, though the names do not: lines of 7.5 points.
            sines = [math.sin(math.radians(text.get_rotation())) for text in texts]
            ends = [ax.transData.transform((text.xy[0], 0))[0] / figure.dpi * 72 for text in texts]
            ends = [end + text.get_position()[0] for end, text in zip(ends, texts, strict=True)]
            assert all((two - one) * sines[0] >= 7.5 for one, two in pairwise(ends))
            continue
        assert not any(one.overlaps(two) for one, two in pairwise(names))
        if ax.get_legend():
            own = ax.get_legend().get_window_extent()
            assert not own.overlaps(ax.xaxis.label.get_window_extent())
            assert not any(own.overlaps(other) for other in facets if other.x0 != ax.get_tightbbox().x0)
        low, high = ax.get_ylim()
        for points in drawn_lines(ax).values():
            assert ((points[:, 1] > low) & (points[:, 1] < high)).all()


def test_two_processes_write_the_same_bytes_and_records(tmp_path):
    results, summary = fake_results.study(weights=["A", "B"], ratios=(2.0, 4.0))
    arguments = ["--figure", "weights", "--results", "r.csv", "--summary", "s.csv"]
    running = []
    for seed in ("0", "1"):
        folder = tmp_path / seed
        tables.write("results", folder / "r.csv", results)
        tables.write("summary", folder / "s.csv", summary)
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
