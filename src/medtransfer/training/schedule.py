"""The learning rate's schedule: warm-up, then constant, cosine, or lower where the monitored score stays."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from medtransfer.params import Training
from medtransfer.statistics import metrics
from medtransfer.training import optimizer as rates


class Schedule:
    """Sets the rate of every epoch; that of other parameter groups follows."""

    def __init__(self, optimizer: Optimizer, protocol: Training) -> None:
        self.optimizer, self.protocol = optimizer, protocol
        self.plateau = ReduceLROnPlateau(
            optimizer,
            mode="max" if metrics.rises(protocol.monitor) else "min",
            factor=protocol.plateau_factor,
            patience=protocol.plateau_patience,
        )

    def begin(self, epoch: int) -> None:
        """Sets warm-up and cosine rates, functions of the epoch alone; the plateau keeps its own."""
        p = self.protocol
        if epoch < p.warmup_epochs:
            factor = 0.1 + 0.9 * epoch / p.warmup_epochs
        elif p.schedule == "cosine":
            span = max(1, p.max_epochs - p.warmup_epochs)
            factor = 0.5 * (1 + math.cos(math.pi * (epoch - p.warmup_epochs) / span))
        elif p.schedule == "constant" or epoch == p.warmup_epochs:
            factor = 1.0
        else:
            return
        self.optimizer.param_groups[0]["lr"] = p.lr * factor
        rates.follow(self.optimizer)

    def end(self, done: int, value: float) -> None:
        """Tells the plateau the monitored score of an epoch; `done` epochs are over."""
        if self.protocol.schedule == "plateau" and done > self.protocol.warmup_epochs:
            self.plateau.step(value)
            rates.follow(self.optimizer)
