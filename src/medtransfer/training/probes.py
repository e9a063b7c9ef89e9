"""What frozen features are worth: logistic regression (scikit-learn's) and a vote of the nearest images.

Legend: n images (or pixels) of train, m others, F features, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError

TEMPERATURE = 0.07
"""of the neighbours' votes, as in Wu et al., CVPR 2018"""
CHUNK = 256
"""samples whose neighbours are looked for at a time"""
TOLERANCE, MOST_ITERATIONS = 1e-8, 10_000
"""of scikit-learn's L-BFGS"""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer on raw features."""

    weight: Floats
    """(L, F)"""
    bias: Floats
    """(L)"""

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """Returns (m, L)."""
        return np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias


def linear(
    features: NDArray[np.floating],
    targets: NDArray[np.float32],
    strengths: Sequence[float],
    *,
    multiclass: bool = False,
    weights: NDArray[np.float64] | None = None,
) -> list[Linear]:
    """Fits a logistic regression for each strength of its L2 penalty, by scikit-learn's `LogisticRegression` (L-BFGS).

    Features are standardized by their mean and std on train; the penalty is strength / 2 times the squared norm of the
    weights beside the log loss summed over images, the intercept is free: scikit-learn's C is 1 / strength. A target
    between 0 and 1 is that share of a positive and the rest of a negative; one below 0 is unknown and left out.

    Args:
        features: of train, (n, F).
        targets: (n, L); of a multiclass task one 1 in each row.
        strengths: ascending; each fit begins where the next stronger one ended.
        multiclass: one softmax over the labels instead of a sigmoid for each.
        weights: (L): of each label's positive term, or of each class; None: 1.

    Returns:
        A layer for each strength, in their order. A label whose known targets are all alike has no weights, and its
        smoothed share as bias.

    Raises:
        UserError: a class of a multiclass task has no image.
    """
    values = np.asarray(features, dtype=np.float64)
    centre, scale = values.mean(0), values.std(0)
    scale[scale < 1e-6 * max(1.0, float(np.abs(centre).max()))] = 1.0  # a constant feature says nothing
    values = (values - centre) / scale
    share = np.ones(targets.shape[1]) if weights is None else weights
    order = sorted(strengths, reverse=True)
    if multiclass:
        classes = targets.argmax(1)
        if len(np.unique(classes)) < targets.shape[1]:
            raise UserError(f"{targets.shape[1]} classes, of which train has {len(np.unique(classes))}")
        fits = _path(values, classes, share[classes], order)
    else:
        columns = [_binary(values, targets[:, label], share[label], order) for label in range(targets.shape[1])]
        fits = [
            (np.concatenate([w for w, _ in one]), np.concatenate([b for _, b in one]))
            for one in zip(*columns, strict=True)
        ]
    found = {}
    for strength, (weight, bias) in zip(order, fits, strict=True):
        raw = weight / scale
        found[strength] = Linear(weight=raw, bias=bias - raw @ centre)
    return [found[strength] for strength in strengths]


def _binary(
    values: Floats, targets: NDArray[np.float32], weight: float, order: Sequence[float]
) -> list[tuple[Floats, Floats]]:
    """Fits one label: a soft target is both a positive and a negative, each with its share."""
    known = targets >= 0
    values, soft = (values if known.all() else values[known]), targets[known].astype(np.float64)
    if not (soft > 0).any() or not (soft < 1).any():
        share = (soft.sum() + 0.5) / (len(soft) + 1)
        return [(np.zeros((1, values.shape[1])), np.array([np.log(share / (1 - share))]))] * len(order)
    hard = (soft == 0) | (soft == 1)
    if hard.all():
        return _path(values, soft.astype(np.int64), np.where(soft == 1, weight, 1.0), order)
    doubled = np.concatenate([values, values[~hard]])
    first = np.where(hard, np.where(soft == 1, weight, 1.0), weight * soft)
    shares = np.concatenate([first, 1 - soft[~hard]])
    return _path(doubled, np.concatenate([soft > 0, np.zeros((~hard).sum(), bool)]).astype(np.int64), shares, order)


def _path(
    values: Floats, classes: NDArray[np.int64], weights: Floats, order: Sequence[float]
) -> list[tuple[Floats, Floats]]:
    """Fits from the strongest penalty to the weakest; returns weight (L, F) and bias (L) of each.

    With fewer images than features the problem is solved in the space that the images span, which is the same one:
    whatever the weights have outside of it changes no logit and costs penalty.
    """
    from sklearn.linear_model import LogisticRegression

    basis = None
    if len(values) < values.shape[1]:
        basis, triangle = np.linalg.qr(values.T)  # values.T = basis @ triangle
        values = triangle.T
    model = LogisticRegression(solver="lbfgs", tol=TOLERANCE, max_iter=MOST_ITERATIONS, warm_start=True)
    found = []
    for strength in order:
        model.C = 1 / strength
        model.fit(values, classes, sample_weight=weights)
        weight = np.array(model.coef_, dtype=np.float64)
        found.append((weight if basis is None else weight @ basis.T, np.array(model.intercept_, dtype=np.float64)))
    return found


def knn(train: NDArray[np.floating], labels: NDArray[Any], val: NDArray[np.floating], k: int) -> Floats:
    """Predicts labels by the votes of the k nearest samples of train, see `votes`; (m, L)."""
    return votes(train, labels, val, [k])[0]


def votes(
    train: NDArray[np.floating], labels: NDArray[Any], val: NDArray[np.floating], neighbours: Sequence[int]
) -> list[Floats]:
    """Predicts labels by the votes of the nearest samples of train, weighted by exp(cosine / 0.07).

    Wu et al., Unsupervised feature learning via non-parametric instance discrimination, CVPR 2018. Features are
    centred on train before the cosine is taken: those behind a ReLU all point the same way otherwise.

    Args:
        train: features, (n, F).
        labels: (n, L), 0 or 1; one below 0 is none and has no vote.
        val: features, (m, F).
        neighbours: how many vote; all of train if there are fewer.

    Returns:
        For each number of neighbours the share of the votes for each label, (m, L); 0.5 where none of them has a vote.
    """
    centre = train.mean(0, dtype=np.float64)
    known, wanted = _unit(train - centre), _unit(val - centre)
    most = min(max(neighbours), len(known))
    parts = [_nearest(known, wanted[i : i + CHUNK], most) for i in range(0, len(wanted), CHUNK)]
    nearest, closeness = (np.concatenate(one) for one in zip(*parts, strict=True))
    return [_vote(labels, nearest[:, :k], closeness[:, :k]) for k in neighbours]


def _nearest(train: Floats, wanted: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    cosine = wanted @ train.T
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return nearest, np.take_along_axis(cosine, nearest, axis=1)


def _vote(labels: NDArray[Any], nearest: NDArray[np.int64], closest: Floats) -> Floats:
    weights = np.exp((closest - closest[:, :1]) / TEMPERATURE)[:, :, None]  # a common factor changes no share
    cast = weights * (labels[nearest] >= 0)
    total = cast.sum(1)
    return np.where(total > 0, (cast * labels[nearest]).sum(1) / np.where(total > 0, total, 1), 0.5)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float64)
