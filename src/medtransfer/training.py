"""Fit and evaluate: one loop for every kind of task; `log` is passed in; resumes to the same numbers."""

from __future__ import annotations

import copy
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from medtransfer import files, optimizers, streams
from medtransfer.errors import UserError
from medtransfer.loading import Batch, Loader
from medtransfer.objectives import Objective, Prediction
from medtransfer.params import Engine, Training

log = logging.getLogger("medtransfer")

Log = Callable[[dict[str, float], int], None]
"""(metrics, epoch) -> None"""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a progress bar."""

    epoch: int
    max_epochs: int
    images_per_second: float
    monitor: str
    value: float
    seconds_left: float


@dataclass
class Fit:
    """What training knows at the end of an epoch; saved in every checkpoint."""

    epoch: int = 0
    """epochs done"""
    best: float = math.nan
    best_epoch: int = -1
    seconds: float = 0.0
    images: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    plateau: dict[str, Any] = field(default_factory=dict)

    @property
    def stale(self) -> int:
        """Counts epochs since the best one."""
        return self.epoch - 1 - self.best_epoch


class Trainer:
    """One run's training: model, optimizer, loader and the folder that holds its checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        loader: Loader,
        rows: Mapping[str, NDArray[np.int64]],
        *,
        protocol: Training,
        engine: Engine,
        seed: int,
        device: torch.device,
        folder: Path,
    ) -> None:
        self.objective, self.loader, self.rows = objective, loader, rows
        self.protocol, self.engine, self.seed, self.device, self.folder = protocol, engine, seed, device, folder
        layout = torch.channels_last if engine.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
        self.forward = torch.compile(self.model) if engine.compile else self.model
        self.optimizer = optimizers.build_optimizer(self.model, protocol)
        self.maximize = protocol.monitor != "val_loss"
        self.plateau = ReduceLROnPlateau(
            self.optimizer,
            mode="max" if self.maximize else "min",
            factor=protocol.plateau_factor,
            patience=protocol.plateau_patience,
        )
        self.fit = Fit()

    def run(self, log_metrics: Log, report: Callable[[Progress], None]) -> Fit:
        """Trains from where `resume` left it until the budget or the patience ends.

        Raises:
            UserError: the loss is not finite, or a checkpoint cannot be written.
        """
        while self.fit.epoch < self.protocol.max_epochs and self.fit.stale <= self.protocol.patience:
            scores = self._epoch(self.fit.epoch)
            log_metrics(scores, self.fit.epoch - 1)
            self._save()
            report(self._progress(scores))
        return self.fit

    def _epoch(self, epoch: int) -> dict[str, float]:
        start = time.perf_counter()
        self._set_lr(epoch)
        loss, images = self._train(epoch)
        trained = time.perf_counter() - start
        collected, val_loss = self.predict("val", views=1)
        prediction = self.objective.finish(collected, self.rows["val"], None)
        metric = self.objective.metric
        scores = {f"val_{name}": value for name, value in prediction.scores.items() if name.split(".")[0] == metric}
        scores |= {"train_loss": loss, "val_loss": val_loss, "lr": self.optimizer.param_groups[0]["lr"]}
        self._update(scores)
        self.fit.images += images
        self.fit.seconds += time.perf_counter() - start
        return scores | {"images_per_second": images / trained}

    def _train(self, epoch: int) -> tuple[float, int]:
        """Takes one epoch of steps; nothing is read back from the device inside it."""
        optimizers.set_training(self.model, self.protocol)
        torch.manual_seed(streams.seed_of(self.seed, "dropout", epoch))
        total, images = torch.zeros((), device=self.device), 0
        batches = self.loader.train(
            self.rows["train"], self.protocol.augmentation, self.seed, epoch, self.protocol.min_steps
        )
        for batch in batches:
            total += self.step(batch) * len(batch.rows)
            images += len(batch.rows)
        mean = float(total) / images
        if not math.isfinite(mean):
            raise UserError(
                f"the training loss of epoch {epoch} is {mean}: lower lr (now {self.protocol.lr}) or use fp32"
            )
        return mean, images

    def step(self, batch: Batch) -> Tensor:
        """Takes one optimizer step; returns the loss, still on the device."""
        with self._autocast():
            logits = self.forward(batch.inputs)
        loss = self.objective.loss(logits, batch.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own stub is untyped
        self.optimizer.step()
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.engine.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @torch.inference_mode()
    def predict(self, split: str, *, views: int, native: bool = False) -> tuple[NDArray[Any], float]:
        """Collects the objective's numbers for every sample of a split, and the split's mean loss."""
        self.model.eval()
        parts, total, count = [], torch.zeros((), device=self.device), 0
        for batch in self.loader.evaluate(self.rows[split], views):
            with self._autocast():
                logits = self.forward(batch.inputs)
            total += self.objective.loss(logits, batch.targets) * len(batch.rows)
            count += len(batch.rows)
            parts.append(self.objective.collect(logits, batch.targets, batch.rows, native))
        return np.concatenate(parts), float(total) / count

    def _set_lr(self, epoch: int) -> None:
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
        optimizers.follow(self.optimizer)

    def _update(self, scores: dict[str, float]) -> None:
        """Applies the one rule: the monitored score decides schedule, checkpoint and stop.

        An undefined score (no label with both classes in val) is refused: nothing can be selected by it.
        """
        if self.protocol.monitor not in scores or not math.isfinite(scores[self.protocol.monitor]):
            raise UserError(
                f"{self.protocol.monitor} is undefined on val: does a label have both classes there? "
                "Set monitor to val_loss"
            )
        value = scores[self.protocol.monitor]
        better = self.fit.best_epoch < 0 or (value > self.fit.best if self.maximize else value < self.fit.best)
        if better:
            self.fit.best, self.fit.best_epoch = value, self.fit.epoch
        self.fit.epoch += 1
        self.fit.history.append(scores)
        if self.protocol.schedule == "plateau" and self.fit.epoch > self.protocol.warmup_epochs:
            self.plateau.step(value)
            optimizers.follow(self.optimizer)

    def _progress(self, scores: dict[str, float]) -> Progress:
        left = (self.protocol.max_epochs - self.fit.epoch) * self.fit.seconds / self.fit.epoch
        shown = f"val_{self.objective.metric}"
        name = shown if shown in scores else self.protocol.monitor
        return Progress(self.fit.epoch, self.protocol.max_epochs, scores["images_per_second"], name, scores[name], left)

    @property
    def best_file(self) -> Path:
        """Holds the model of the best epoch."""
        return self.folder / "best.safetensors"

    @property
    def checkpoint_file(self) -> Path:
        """Holds everything that the next epoch needs."""
        return self.folder / "checkpoint.pt"

    def _save(self) -> None:
        """Writes the best model if this epoch is it, then the checkpoint; each whole or not at all."""
        self.fit.plateau = self.plateau.state_dict()
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "fit": copy.copy(self.fit.__dict__),
        }
        try:
            if self.fit.best_epoch == self.fit.epoch - 1:
                with files.replacing(self.best_file) as temporary:
                    save_file({k: v.contiguous() for k, v in self.model.state_dict().items()}, temporary)
            with files.replacing(self.checkpoint_file) as temporary:
                torch.save(content, temporary)
        except (OSError, RuntimeError, SafetensorError) as error:  # how Python, torch and safetensors say disk full
            free = shutil.disk_usage(self.folder).free
            former = self.checkpoint_file.is_file()
            kept = f"the checkpoint of epoch {self.fit.epoch - 2} is intact" if former else "there is no earlier one"
            raise UserError(
                f"could not write the checkpoint of epoch {self.fit.epoch - 1} to {self.folder} ({error}); "
                f"{free / 2**20:.0f} MiB are free there; {kept}. "
                "Free space and start the same run again: it resumes."
            ) from error

    def resume(self) -> int:
        """Takes the state of the last checkpoint, if there is one; returns the number of epochs done."""
        if not self.checkpoint_file.is_file():
            return 0
        try:
            content = torch.load(self.checkpoint_file, map_location=self.device, weights_only=True)
            self.model.load_state_dict(content["model"], strict=True)
        except Exception as error:  # whatever a damaged file makes torch raise, starting over mends it
            log.warning("checkpoint %s is unreadable (%s); the run starts over", self.checkpoint_file, error)
            return 0
        self.optimizer.load_state_dict(content["optimizer"])
        self.fit = Fit(**content["fit"])
        self.plateau.load_state_dict(self.fit.plateau)
        log.info("resuming after epoch %d", self.fit.epoch - 1)
        return self.fit.epoch

    def test(self) -> tuple[Prediction, Prediction]:
        """Reads test once, with the best epoch's model and what val fixed; returns (val, test)."""
        self.model.load_state_dict(load_file(self.best_file, device=str(self.device)), strict=True)
        views = self.objective.test_views
        val, _ = self.predict("val", views=views)
        thresholds = self.objective.thresholds(val)
        test, _ = self.predict("test", views=views, native=True)
        return self.objective.finish(val, self.rows["val"], thresholds), self.objective.finish(
            test, self.rows["test"], thresholds
        )
