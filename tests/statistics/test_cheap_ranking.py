from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medtransfer.core.errors import UserError
from medtransfer.statistics.cheap_ranking import combined, places, static_prior

NAN = float("nan")


def test_places_by_hand() -> None:
    assert places([0.7, 0.9, 0.8]).tolist() == [0, 1, 0.5]
    assert places([3, 1, 3, 2]).tolist() == pytest.approx([2.5 / 3, 0, 2.5 / 3, 1 / 3])
    assert places([5, NAN, 4]).tolist() == [1, 0.5, 0]
    assert places([5, NAN]).tolist() == [0.5, 0.5]


def test_a_prior_by_hand() -> None:
    # Places: 1, .5, 0 and 0, -, 1 and -, -, - (a single candidate). One task in the middle is added to each.
    table = [[0.9, 0.8, 0.7], [10, NAN, 20], [NAN, 5, NAN]]
    assert static_prior(table).tolist() == pytest.approx([(1 + 0 + 0.5) / 3, (0.5 + 0.5) / 2, (0 + 1 + 0.5) / 3])


def test_a_prior_of_a_whole_table_orders_as_mean_ranks_do() -> None:
    table = np.random.default_rng(0).normal(size=(6, 8))
    ranks = (-table).argsort(axis=1).argsort(axis=1).mean(axis=0)
    assert np.argsort(-static_prior(table), kind="stable").tolist() == np.argsort(ranks, kind="stable").tolist()


def test_a_candidate_without_results_stands_in_the_middle_and_one_task_is_no_record() -> None:
    found = static_prior([[0.9, 0.8, NAN, NAN], [0.9, 0.8, NAN, 0.95]])
    assert found[2] == 0.5
    assert found[0] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found[3] == pytest.approx((1 + 0.5) / 2)
    assert static_prior(np.empty((0, 3))).tolist() == [0.5, 0.5, 0.5]


def test_tasks_that_share_images_count_once() -> None:
    table = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert static_prior(table)[0] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert static_prior(table, ["a", "a", "b"])[0] == pytest.approx((1 + 0 + 0.5) / 3)


def test_a_ranking_by_hand() -> None:
    found = combined({"prior": [0.2, 0.9, 0.5], "logme": [-0.1, -0.3, -0.2]}, {"prior": 3, "logme": 1})
    assert found.values == pytest.approx((0.25, 0.75, 0.5))
    assert found.order == (1, 2, 0)
    assert found.weights == {"prior": 0.75, "logme": 0.25}
    assert found.places["logme"] == (1.0, 0.0, 0.5)


def test_a_score_counts_by_its_order_alone_and_not_at_all_without_weight() -> None:
    prior = [0.2, 0.9, 0.5]
    found = combined({"prior": prior, "logme": [-1.0, -3.0, -2.0]}, {"prior": 1, "logme": 1})
    assert found == combined({"prior": prior, "logme": [1e9, -1e9, 0.0]}, {"prior": 2, "logme": 2})
    assert found.order == (0, 1, 2)  # all equal
    assert combined({"prior": prior, "logme": [1, 2, 3]}, {"prior": 1, "logme": 0}).order == (1, 2, 0)


@pytest.mark.parametrize(
    ("call", "law"),
    [
        (lambda: places([[1.0]]), "one finite number per candidate"),
        (lambda: places([np.inf, 1.0]), "finite"),
        (lambda: static_prior([1.0]), "tasks x candidates"),
        (lambda: static_prior([[1.0, 2.0]], ["a", "b"]), "one group per task"),
        (lambda: combined({}, {}), "each score needs a weight"),
        (lambda: combined({"a": [1.0]}, {"b": 1}), r"scores are \['a'\], weights \['b'\]"),
        (lambda: combined({"a": [1.0]}, {"a": 0}), "not all 0"),
        (lambda: combined({"a": [1.0]}, {"a": -1}), ">= 0"),
        (lambda: combined({"a": [1.0], "b": [1.0, 2.0]}, {"a": 1, "b": 1}), "same candidates"),
    ],
)
def test_bad_input_is_refused_with_its_law(call: Callable[[], object], law: str) -> None:
    with pytest.raises(UserError, match=law):
        call()


def test_a_score_counts_by_the_share_of_candidates_that_have_it() -> None:
    nan = float("nan")
    prior = [0.9, 0.8, 0.3, 0.2, 0.1, 0.0]
    few = [0.7, 0.8, nan, nan, nan, nan]  # the best by the prior is the last of the two that were looked at
    found = combined({"prior": prior, "linear": few}, {"prior": 1, "linear": 1})
    assert found.order[:2] == (1, 0)
    assert found.weights == pytest.approx({"prior": 0.75, "linear": 0.25})
    assert combined({"linear": [nan, nan]}, {"linear": 1}).values == (0.5, 0.5)
