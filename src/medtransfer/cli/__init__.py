"""Verbs to functions.

A verb's signature names its identity arguments, its decorator the sections of `params.yaml` that it reads. Every
other option is a dotted parameter: `--classification.lr 3e-4`. Nothing heavy is imported before a verb is called.
"""

from medtransfer.cli import (
    data,
    init_study,
    links,
    packs,
    recommend,
    registry,
    results,
    services,
    site,
    status,
    training,
)
from medtransfer.cli.verb import VERBS

__all__ = [
    "VERBS", "data", "init_study", "links", "packs", "recommend", "registry", "results", "services", "site", "status",
    "training",
]  # fmt: skip
