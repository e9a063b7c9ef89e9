"""Parameters of the benchmark and of what is made of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medtransfer.params.laws import require


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The runs of the benchmark: inits x tasks x seeds."""

    inits: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("inits", "tasks", "seeds"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"benchmark.{name} has no duplicates", **{name: values})
        require(all(seed >= 0 for seed in self.seeds), "0 <= benchmark.seeds", seeds=self.seeds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The statistical comparison."""

    test: Literal["pooled", "welch", "paired", "wilcoxon", "sign-flip"]
    """two-sided test of the published form of table, against the best: t-tests, pooled as published, or by signs"""
    alpha: float
    reference: str
    """init that every other is compared with, as in benchmark.inits"""
    resamples: int
    """bootstrap resamples of the test patients; 0: none, the intervals of single scores are left out; 10,000 of 25,000
    images cost half a second per run and label"""
    against: tuple[str, ...]
    """CSV files of published numbers that stand beside ours, relative to the repository's top folder"""
    published_n: int
    """runs behind a published mean where its file has no `n`: inferred from published marks of significance"""
    images: Literal["none", "synthetic", "all"]
    """which test images the report may show: it can be passed on, and then they leave the data folder"""
    as_published: bool
    """contaminated runs enter tests, ranks and answers, as in the publication"""

    def __post_init__(self) -> None:
        require(0 < self.alpha < 1, "0 < comparison.alpha < 1", alpha=self.alpha)
        require(self.resamples >= 0, "comparison.resamples >= 0", resamples=self.resamples)
        require(self.published_n >= 2, "comparison.published_n >= 2", published_n=self.published_n)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement about initializations that the report weighs: `better` minus `than`, averaged over tasks."""

    says: str
    """the statement in words"""
    better: str
    """init, or a family of them such as `self-supervised`: the one that is best on val; X is any dataset, one by one"""
    than: tuple[str, ...]
    """inits or families: the claim holds if it holds against each of them"""
    tasks: tuple[str, ...]
    """tasks, or `classification`, `segmentation`, `all`"""
    minus: tuple[str, ...]
    """tasks whose mean difference is subtracted, for a claim about an interaction; [] = none"""

    def __post_init__(self) -> None:
        require(bool(self.than), "claims.*.than names an init or more", than=self.than)
        require(bool(self.tasks), "claims.*.tasks names a task or more", tasks=self.tasks)
