from __future__ import annotations

import numpy as np
import pytest

from medtransfer.core.errors import UserError
from medtransfer.statistics import ranks
from medtransfer.statistics.win_rates import WinRates, win_rates


def rates(scores: object, **options: object) -> WinRates:
    return win_rates(scores, rng=np.random.default_rng(0), **options)  # type: ignore[arg-type]  # of any shape


def drawn(inits: int, tasks: int, seeds: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rng = np.random.default_rng(3)
    return rng.normal(np.linspace(0, 2, inits)[:, None, None], 1.0, (inits, tasks, seeds))


def test_wins_are_counted_by_hand_and_a_tie_is_half() -> None:
    found = rates([[[3.0, 5.0], [1.0, 1.0]], [[2.0, 2.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]]])
    assert found.rate == ((1.0 + 0.75) / 2, (0.5 + 0.75) / 2, 0.0)
    assert sum(found.rate) == 3 / 2  # each pair is won once
    assert found.low is None
    assert found.note == "2 of the 5 groups of tasks that it needs"


def test_it_says_what_the_mean_rank_says() -> None:
    scores = drawn(6, 7, 3).tolist()
    mean = ranks.rank(scores, rng=np.random.default_rng(0)).mean
    assert rates(scores).rate == pytest.approx([(6 - rank) / 5 for rank in mean])


def test_tasks_of_a_group_count_once() -> None:
    win, loss = [[1.0], [0.0]], [[0.0], [1.0]]
    scores = [[task[init] for task in (win, win, loss)] for init in range(2)]
    assert rates(scores).rate == pytest.approx((2 / 3, 1 / 3))
    assert rates(scores, groups=["a", "a", "b"]).rate == (0.5, 0.5)


def test_the_interval_is_over_tasks_and_holds_the_rate() -> None:
    found = rates(drawn(6, 7, 5).tolist())
    assert found.low is not None
    assert found.high is not None
    assert all(low <= rate <= high for low, rate, high in zip(found.low, found.rate, found.high, strict=True))
    more = rates(drawn(6, 60, 5).tolist())
    assert more.low is not None
    assert more.high is not None
    widths = [np.subtract(one.high or 0, one.low or 0).mean() for one in (found, more)]
    assert 2 < widths[0] / widths[1] < 4.5  # about the root of 60 / 7


def test_a_win_rate_that_no_draw_changes_has_no_width() -> None:
    certain = [[[5.0, 6.0]] * 5, [[1.0, 2.0]] * 5]
    found = rates(certain)
    assert (found.low, found.rate, found.high) == ((1.0, 0.0), (1.0, 0.0), (1.0, 0.0))


def test_a_single_seed_has_no_interval() -> None:
    assert rates([[[1.0]] * 5, [[0.0]] * 5]).note == "a single seed on a task"


@pytest.mark.parametrize("scores", [[], [[[1.0]]], [[], []], [[[1.0]], [[1.0], [2.0]]]])
def test_other_shapes_are_refused(scores: object) -> None:
    with pytest.raises(UserError, match="two inits or more with scores on equal tasks"):
        rates(scores)
