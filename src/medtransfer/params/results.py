"""Parameters of the benchmark and of what is made of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medtransfer.core.addresses import holds_secret
from medtransfer.core.errors import UserError
from medtransfer.params.fractions import parse_fraction
from medtransfer.params.limits import require, require_names
from medtransfer.params.protocols import Control, Protocol


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The runs of the benchmark: inits x tasks x seeds, and drawn splits where there are any."""

    inits: tuple[str, ...]
    """initializations, in the order of the tables"""
    tasks: tuple[str, ...]
    """tasks, in the order of the tables"""
    seeds: tuple[int, ...]
    """one run each of every init on every task; seeds of equal number share their draws"""
    recipes: tuple[Literal["fixed", "tuned"], ...]
    """fixed: `classification` and `segmentation` as they stand; tuned: with the values that each init's study found"""
    splits: tuple[int, ...] = ()
    """numbers that each take the place of data.split_seed and draw a split; []: its split alone. Test is drawn anew
    where we draw it, else train and val are"""
    protocols: tuple[Protocol, ...] = ("finetune",)
    """what is trained: all (`finetune`), nothing but a linear layer on frozen features (`linear`) or a vote of the
    nearest images (`knn`), the last blocks (`partial`), low-rank changes of a transformer (`lora`)"""
    fractions: tuple[Any, ...] = (1.0,)
    """shares of train's images that have labels, such as 0.1, or images of each class, such as 16-shot; 1: all"""
    fractions_of: Literal["train", "train_and_val"] = "train_and_val"
    """whether val, which chooses epoch and strength, shrinks as train does; test never does"""

    race: bool = False
    """inits that fall behind on val, by the rules of `recommend`, stop early; tables name them, without a score"""
    controls: tuple[Control, ...] = ()
    """what weights must beat, and what must find nothing, once per task and seed: the labels' shares (`prior`), labels
    drawn anew (`permuted`, of comparison.reference), frozen random features, texture; they stand beside the tables"""

    def __post_init__(self) -> None:
        texts = tuple(str(parse_fraction(value)) for value in self.fractions)
        object.__setattr__(self, "fractions", texts)  # one spelling: 1.0, "1" and 1 are equal
        require(bool(self.recipes), "benchmark.recipes names fixed, tuned or both", recipes=self.recipes)
        require(bool(self.protocols), "benchmark.protocols names a protocol or more", protocols=self.protocols)
        require(bool(self.fractions), "benchmark.fractions names a fraction or more", fractions=self.fractions)
        for name in ("inits", "tasks", "seeds", "recipes", "splits", "protocols", "fractions", "controls"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"benchmark.{name} has no duplicates", **{name: values})
        require(all(seed >= 0 for seed in self.seeds), "0 <= benchmark.seeds", seeds=self.seeds)
        require_names(self.tasks, "benchmark.tasks")
        require(all(number >= 0 for number in self.splits), "0 <= benchmark.splits", splits=self.splits)
        words = (
            "benchmark.splits has no number, or two or more; one shows no spread: set data.split_seed for another draw"
        )
        require(len(self.splits) != 1, words, splits=self.splits)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Runs that other code did, as `compare --experiment` and `compare --csv` take them."""

    experiments: tuple[str, ...] = ()
    """MLflow's, by name"""
    csv: str = ""
    """a table in their place, relative to the study's folder"""
    tracking_uri: str = ""
    """MLflow's server or store, without password; empty: the study's"""
    init: str = ""
    """key of the runs (`params.x`, `tags.x`, `attributes.run_name`, `=name`) or column that says what is compared"""
    task: str = ""
    """likewise, the task; tasks of one name in two sources are one task"""
    seed: str = ""
    """likewise, the seed; seeds of one number share their draws"""
    fold: str = ""
    """likewise, the fold of a cross-validation"""
    metric: tuple[str, ...] = ()
    """the score on test, higher is better; several where some runs call it otherwise"""
    val: tuple[str, ...] = ()
    """the score on val, which picks among equals"""
    where: str = ""
    """which runs, in MLflow's search syntax"""
    predictions: str = ""
    """artifact, or column of paths, with what each run says of single test images"""
    margin: float | None = None
    """smallest difference that matters, in the unit of the scores; null: nothing is called equivalent"""
    percent: bool = False
    """scores and margin are in percent"""

    def __post_init__(self) -> None:
        words = "a source is experiments of MLflow or a csv"
        require(bool(self.experiments) != bool(self.csv), words, experiments=self.experiments, csv=self.csv)
        if holds_secret(self.tracking_uri):
            raise UserError(
                "comparison.sources: tracking_uri holds a password or token; give it as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )

    @property
    def name(self) -> str:
        """Names it in a message."""
        return self.csv or ", ".join(self.experiments)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The statistical comparison."""

    test: Literal["pooled", "welch", "paired", "wilcoxon", "sign-flip"]
    """two-sided test of the published form of table, against the best: t-tests, pooled as published, or by signs"""
    recipe: Literal["fixed", "tuned"]
    """runs that tables, tests and answers rest on; the other recipe's stand beside them in one table"""
    protocol: Protocol
    """the same, for protocols; it is the runs with all labels that tables, tests and answers rest on"""
    alpha: float
    """level of all comparisons together, over this look and later ones; also of the published form's tests"""
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
    unbalanced: tuple[Literal["device", "arithmetic", "precision", "torch", "timm"], ...]
    """conditions in which the runs of one seed may differ between initializations; such a table says so"""
    as_published: bool
    """contaminated runs enter tests, ranks and answers, as in the publication"""
    sources: tuple[Source, ...] = ()
    """runs that other code did: they are compared with each other, in one table of their own"""
    bayesian: bool = False
    """say how probable it is that an init is better, equivalent or worse than the reference over tasks like these"""

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
    metric: str = ""
    """that it is about, on the tasks that measured it; empty: each task's own. Better is lower where that is better"""

    def __post_init__(self) -> None:
        require(bool(self.than), "claims.*.than names an init or more", than=self.than)
        require(bool(self.tasks), "claims.*.tasks names a task or more", tasks=self.tasks)
        require_names((*self.tasks, *self.minus), "claims.*.tasks and claims.*.minus")


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """The gate in front of the alias `champion` of the model registry."""

    use: Literal["research", "commercial"]
    """what the models are for; a licence that forbids it blocks"""
    alpha: float
    """of a difference from the present champion, Holm over the tasks; 1 - alpha: level of the intervals"""
    margin: float
    """non-inferior: the interval ends before the champion is better by this many margins of the task"""
    cheaper: float
    """share of the present champion's cost that a non-inferior one must save"""
    require_complete: bool
    """all runs of the benchmark are finished"""
    require_audit: bool
    """no leak between splits is reported or dropped in the tasks, and labels drawn anew raise no alarm"""
    require: Mapping[str, float] = field(default_factory=dict)
    """conditions on the candidate's test: `calibration` or `calibration_after_temperature` (expected calibration
    error), `worst_group_drop` and `away_drop` at most, a metric by its name at least, where lower is better at most;
    {}: none"""

    def __post_init__(self) -> None:
        require(0 < self.alpha < 1, "0 < promotion.alpha < 1", alpha=self.alpha)
        require(self.margin > 0, "promotion.margin > 0", margin=self.margin)
        require(0 <= self.cheaper < 1, "0 <= promotion.cheaper < 1", cheaper=self.cheaper)
