"""Scores that say, without training, how well frozen features fit a task: higher is better, in no unit.

They can be compared between features of the same images and labels only. With several labels each counts as a problem
of two classes, and the score is the mean over labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medtransfer.core.errors import UserError

Array = npt.NDArray[Any]

TINY = 1e-5
"""what LogME adds where it divides, so that labels fitted without error have a finite score; its authors' value"""
STEPS = 100
"""of LogME's fixed-point iteration, at most"""
CLOSE = 1e-6
"""relative change of alpha / beta at which the iteration ends"""
RANK = 1e-10
"""share of the largest variance below which a direction counts as constant"""
GAUSSIANS = 5
"""per class, in N-LEEP; its authors' value"""
KEPT = 0.8
"""share of the variance that N-LEEP's principal components keep"""
COMPONENTS = 64
"""principal components of N-LEEP, at most: a full covariance of more takes long and hardly has the images for it"""


def logme(features: Any, labels: Any) -> float:
    """Gives the logarithm of the maximum evidence per image of a linear model on the features.

    LogME (You et al., ICML 2021): each class's 0/1 column is a target y = F w + noise, with w ~ N(0, 1 / alpha) and
    noise ~ N(0, 1 / beta); log p(y | F) / n, at the alpha and beta that make it largest, is averaged over columns.
    These are found by the fixed-point iteration of You et al. (JMLR 2022), on one eigendecomposition for all columns.

    Args:
        features: images x features.
        labels: images x labels of 0 and 1, or one class index per image.

    Raises:
        UserError: see `checked`.
    """
    values, problems = checked(features, labels)
    n, width = values.shape
    values = values / np.sqrt((values**2).mean())  # alpha makes up for it; what is added to divisors needs a scale
    kernel = width > n
    sizes, vectors = np.linalg.eigh(values @ values.T if kernel else values.T @ values)
    sizes = np.maximum(sizes, 0.0)
    sizes[sizes <= RANK * sizes.max()] = 0.0
    found = []
    for targets in problems:
        turned = (vectors.T @ (targets if kernel else values.T @ targets)) ** 2
        along = turned if kernel else np.divide(turned, sizes[:, None], out=0 * turned, where=sizes[:, None] > 0)
        along[sizes == 0] = 0.0
        columns = zip(along.T, targets.sum(axis=0), strict=True)
        found.append(np.mean([_evidence(sizes, part, size, n, width) for part, size in columns]))
    return float(np.mean(found))


def _evidence(sizes: Array, along: Array, whole: float, n: int, width: int) -> float:
    """Maximizes the log evidence per image.

    Args:
        sizes: eigenvalues of F'F; what is not listed is 0.
        along: the target's squared length along each of these directions.
        whole: squared length of the target.
        n: images.
        width: features.
    """
    alpha = beta = 1.0
    rest = max(whole - along.sum(), 0.0)
    for _ in range(STEPS):
        ratio = alpha / beta
        determined = (sizes / (sizes + ratio)).sum()
        weights = (sizes * along / (sizes + ratio) ** 2).sum()
        misfit = (along * (ratio / (sizes + ratio)) ** 2).sum() + rest
        alpha, beta = determined / (weights + TINY), (n - determined) / (misfit + TINY)
        if abs(alpha / beta - ratio) <= CLOSE * ratio:
            break
    ratio = alpha / beta
    weights = (sizes * along / (sizes + ratio) ** 2).sum()
    misfit = (along * (ratio / (sizes + ratio)) ** 2).sum() + rest
    logs = np.log(alpha + beta * sizes).sum() + (width - len(sizes)) * np.log(alpha)
    evidence = width * np.log(alpha) + n * np.log(beta / (2 * np.pi)) - logs - beta * misfit - alpha * weights
    return float(evidence / 2 / n)


def h_score(features: Any, labels: Any, *, regularized: bool | None = None) -> float:
    """Gives how much of the features' spread, whitened, lies between the classes.

    H-score (Bao et al., ICIP 2019): tr(C^-1 B) with the covariance C of the features and B of their class means. C is
    not known where features are many: the regularized form (Ibrahim et al., ECML PKDD 2022) takes C as shrunk by
    Ledoit and Wolf (Journal of Multivariate Analysis 2004) and B times 1 - their shrinkage.

    Args:
        features: images x features.
        labels: images x labels of 0 and 1, or one class index per image.
        regularized: None: where features outnumber images. Say True to compare features of different widths: the
            plain form rises with the width.

    Raises:
        UserError: see `checked`.
    """
    values, problems = checked(features, labels)
    n, width = values.shape
    values = values - values.mean(axis=0)
    sizes, vectors = np.linalg.eigh(values @ values.T if width > n else values.T @ values)
    kept = sizes > RANK * sizes.max()
    sizes, vectors = sizes[kept], vectors[:, kept]
    units = vectors if width > n else values @ vectors / np.sqrt(sizes)
    variances, shrunk, factor = sizes / n, sizes / n, 1.0
    if width > n if regularized is None else regularized:
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(values, assume_centered=True))
        shrunk, factor = (1 - shrinkage) * variances + shrinkage * variances.sum() / width, 1 - shrinkage
    found = []
    for targets in problems:
        means = units.T @ targets * np.sqrt(sizes)[:, None] / targets.sum(axis=0)  # along each direction, per class
        found.append(factor * ((means**2 / shrunk[:, None]).sum(axis=0) * targets.mean(axis=0)).sum())
    return float(np.mean(found))


def nleep(features: Any, labels: Any, *, rng: np.random.Generator) -> float:
    """Gives the mean log likelihood of the labels, predicted from clusters of the features.

    N-LEEP (Li et al., CVPR 2021): LEEP (Nguyen et al., ICML 2020) with the Gaussians of a mixture on principal
    components in the place of the source's classes: log sum_z P(y_i | z) P(z | x_i), averaged over images, with
    P(y | z) counted from the soft assignments. Five Gaussians per class, components with 80 % of the variance, as in
    the paper; at most 64, and half as many as there are images for a Gaussian, so that each has a covariance.

    Args:
        features: images x features.
        labels: images x labels of 0 and 1, or one class index per image.
        rng: starts the mixture.

    Raises:
        UserError: see `checked`.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    values, problems = checked(features, labels)
    n, width = values.shape
    gaussians = max(1, min(GAUSSIANS * problems[0].shape[1], n // 2))
    most = min(COMPONENTS, max(1, n // gaussians // 2), width)
    reduced = PCA(n_components=most, svd_solver="covariance_eigh" if width <= n else "full").fit(values)
    enough = int(np.searchsorted(reduced.explained_variance_ratio_.cumsum(), KEPT)) + 1
    points = reduced.transform(values)[:, :enough]
    points /= np.sqrt(points[:, 0].var())  # the mixture adds a fixed number to variances: it needs a scale
    mixture = GaussianMixture(gaussians, random_state=int(rng.integers(2**31)), reg_covar=1e-4)
    assigned = mixture.fit(points).predict_proba(points)
    return float(np.mean([leep(assigned, targets) for targets in problems]))


def leep(assigned: Array, targets: Array) -> float:
    """Gives LEEP's mean log likelihood (Nguyen et al., ICML 2020).

    Args:
        assigned: images x clusters, adding up to 1 per image.
        targets: images x classes, one 1 per image.
    """
    joint = targets.T @ assigned / len(assigned)  # classes x clusters
    size = joint.sum(axis=0)
    given = np.divide(joint, size, out=np.zeros_like(joint), where=size > 0)
    return float(np.log(((assigned @ given.T) * targets).sum(axis=1)).mean())


def checked(features: Any, labels: Any) -> tuple[Array, list[Array]]:
    """Checks features and labels, and gives one 0/1 column per class for each problem.

    Raises:
        UserError: the features are not finite numbers of two or more images, or are constant; the labels are not those
            of these images, or hold a single class.
    """
    values = np.asarray(features)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 1 or values.dtype.kind not in "fiub":
        raise UserError(
            "features must be numbers, images x features, of at least 2 images, "
            f"got {values.dtype} of shape {values.shape}"
        )
    values = values.astype(np.float64)
    if bad := int((~np.isfinite(values)).any(axis=1).sum()):
        raise UserError(f"features must be finite, got nan or infinity in {bad} of {len(values)} images")
    if not np.ptp(values, axis=0).any():
        raise UserError("features must vary between images, they are all constant: were they made from one image?")
    given = np.asarray(labels)
    if given.ndim not in (1, 2) or len(given) != len(values) or given.size == 0 or given.dtype.kind not in "fiub":
        raise UserError(
            "labels must be numbers, images x labels of 0 and 1 or one class index per image, for "
            f"{len(values)} images, got {given.dtype} of shape {given.shape}"
        )
    if not np.isfinite(given).all() or (given != np.round(given)).any():
        raise UserError("labels must be whole numbers without nan: leave out images without a label")
    if given.ndim == 2 and not np.isin(given, (0, 1)).all():
        raise UserError(f"labels in columns must be 0 or 1, got {np.setdiff1d(given, (0, 1)).tolist()[:3]}")
    columns = [given] if given.ndim == 1 else list(given.T)
    problems = []
    for place, column in enumerate(columns):
        classes = np.unique(column)
        if len(classes) < 2:
            where = f"label {place}" if given.ndim == 2 else "the labels"
            raise UserError(
                f"at least 2 classes must be among the images, {where} has {classes.tolist()} alone: leave it out"
            )
        problems.append((column[:, None] == classes).astype(np.float64))
    return values, problems
