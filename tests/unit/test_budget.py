from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkflow import budget
from shrinkflow.errors import UserError


def test_fraction_is_that_of_the_definition() -> None:
    # 100 parameters, 80 prunable: a quarter is 25, of which 20 are fixed and 5 of 80 prunable.
    assert budget.fraction_to_keep(100, 80, 4) == 5 / 80


def test_ratio_1_keeps_everything() -> None:
    assert budget.fraction_to_keep(94186, 92448, 1) == 1.0


def test_largest_ratio_keeps_one_weight() -> None:
    # 100 parameters, 80 prunable: 20 stay, and one weight.
    assert budget.reachable(100, 80) == 100 / 21
    assert round(budget.fraction_to_keep(100, 80, 100 / 21) * 80) == 1


def test_all_parameters_prunable_has_a_finite_largest_ratio() -> None:
    assert budget.reachable(50, 50) == 50


def test_nothing_to_prune_allows_ratio_1_only() -> None:
    assert budget.reachable(7, 0) == 1
    assert budget.fraction_to_keep(7, 0, 1) == 1
    with pytest.raises(UserError):
        budget.fraction_to_keep(7, 0, 1.5)


@pytest.mark.parametrize("ratio", [0.99, 0, -4, 5, 4.9, float("nan"), float("inf")])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    # N / (N - P) = 5 would leave no weight at all, 4.9 less than one.
    with pytest.raises(UserError, match=re.escape(f"{ratio:g}")):
        budget.fraction_to_keep(100, 80, ratio)


def test_message_names_model_ratio_and_largest_ratio() -> None:
    with pytest.raises(UserError) as caught:
        budget.fraction_to_keep(100, 80, 32, model="'tiny' on 'digits'")
    message = str(caught.value)
    assert "'tiny' on 'digits'" in message
    assert "32" in message
    assert "4.76" in message
    assert "\n" not in message


@pytest.mark.parametrize(("total", "prunable"), [(0, 0), (5, 6), (5, -1)])
def test_impossible_sizes_are_a_mistake_of_the_caller(total: int, prunable: int) -> None:
    with pytest.raises(ValueError, match="cannot be prunable"):
        budget.reachable(total, prunable)


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.floats(0.5, 1e10))
def test_accepted_ratios_keep_one_to_all_weights(fixed: int, prunable: int, ratio: float) -> None:
    total = fixed + prunable
    try:
        fraction = budget.fraction_to_keep(total, prunable, ratio)
    except UserError as error:
        hint = float(str(error).split()[-1])
        assert not 1 <= ratio <= hint
        # The ratio that the message names has to work.
        assert 0 < budget.fraction_to_keep(total, prunable, hint) <= 1
        return
    assert 0 < fraction <= 1
    if prunable:
        exact = (Fraction(total) / Fraction(ratio) - fixed) / prunable
        assert abs(Fraction(fraction) - exact) * prunable < Fraction(1, 1000)
        assert 1 <= round(fraction * prunable) <= prunable


def test_needs_no_torch() -> None:
    code = "import sys, shrinkflow.budget; sys.exit('torch' in sys.modules)"
    path = str(budget.__file__).removesuffix("shrinkflow/budget.py")
    assert subprocess.run([sys.executable, "-c", code], cwd=path, check=False).returncode == 0
