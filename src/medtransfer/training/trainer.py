"""Fit and evaluate: one loop for every kind of task; `log` is passed in; resumes to the same numbers."""

from __future__ import annotations

import copy
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medtransfer.core import arithmetic, files, rng
from medtransfer.core.errors import UserError
from medtransfer.params import Engine, Training
from medtransfer.statistics import metrics
from medtransfer.training import allocator, checkpoint, compiled, distributed, optimizer
from medtransfer.training.checkpoint import Fit
from medtransfer.training.loader import Batch, Loader, Share
from medtransfer.training.objectives import Objective, Prediction, TaskObjective, on_host
from medtransfer.training.rivals import Seat
from medtransfer.training.schedule import Schedule
from medtransfer.weights import convert

log = logging.getLogger("medtransfer")


WRITES = 20
"""times what a checkpoint took to write, for which none follows it: writing takes a twentieth of the time at most"""
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


def choose_kernels(engine: Engine) -> None:
    """Lets torch take deterministic kernels, or the fastest that it finds, as the parameters say."""
    allocator.keep_freed()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.use_deterministic_algorithms(engine.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # no stub; it fills new tensors
    torch.backends.cudnn.benchmark = not engine.deterministic
    rounded = engine.precision == "tf32"  # torch's own default rounds what convolutions take, and not matrix products
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = rounded


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
        micro_batch: int = 0,
        ema: float = 0.0,
        group: distributed.Group | None = None,
        checkpoint_seconds: float = 0.0,
        seat: Seat | None = None,
    ) -> None:
        """Takes the rows of every split, and a folder for checkpoint and best model.

        `micro_batch` images make one forward (0: the whole batch); gradients are accumulated over them. A step is that
        of the whole batch, up to the order of sums, if the loss is a mean over the images and no layer looks at
        several: the statistics of batch norm are those of a micro-batch, and so are contrastive losses, Dice, and the
        count of labels that are not ignored. `ema` is the decay per step of an average of the weights and of batch
        norm's statistics (0: none); val sees the average, and `best.safetensors` holds it.

        `group` trains together, each process with the same model, rows and folder. But for what dropout draws, the
        numbers are those of one process up to the order of sums. An objective's loss sees the outputs of all
        processes; `needs_whole_batch = False` saves that exchange where the loss is a mean over the images.

        `checkpoint_seconds` pass between two checkpoints, and `WRITES` times what one takes to write; 0: one after
        every epoch. The last epoch has one in any case.

        `seat` is the place among networks of this process that train on equal batches, see `rivals`.
        """
        self.checkpoint_seconds = checkpoint_seconds
        self._written, self._write_seconds = time.monotonic(), 0.0
        self._saved = 0
        """epochs that the last checkpoint holds"""
        self._best: dict[str, Tensor] = {}
        """the best model since then, which waits for the next"""
        self.group, self.ema = group, ema
        self.is_main = group is None or group.is_main
        loader.share = Share(group.rank, group.size, micro_batch) if group else Share(micro_batch=micro_batch)
        self.seat = loader.seat = seat
        if group:
            distributed.join_batch_norms(model, group)
        self.objective, self.loader, self.rows = objective, loader, rows
        self.protocol, self.engine, self.seed, self.device, self.folder = protocol, engine, seed, device, folder
        layout = torch.channels_last if engine.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
        self.forward = compiled.forward_of(self.model, engine, loader, len(rows["val"]))
        self.optimizer = optimizer.build_optimizer(self.model, protocol)
        self.maximize = metrics.rises(protocol.monitor)
        self.schedule = Schedule(self.optimizer, protocol)
        self.fit = Fit()
        self.live = self.model.state_dict()
        self.average = {key: tensor.clone() for key, tensor in self.live.items() if ema}
        self.best_sha256 = ""
        """of the file of the best model, as the last checkpoint knows it"""

    def run(
        self,
        log_metrics: Log,
        report: Callable[[Progress], None],
        until: int | None = None,
        over: Callable[[], bool] = lambda: False,
        kept: Callable[[int], None] = lambda epochs: None,
    ) -> Fit:
        """Trains from where `resume` left it until the budget or the patience ends; the main process logs and writes.

        Args:
            log_metrics: gets the scores of each epoch.
            report: gets how far it is.
            until: epochs after which it pauses, to be resumed later; None: it goes to its end.
            over: asked before each epoch whether it pauses here.
            kept: told how many epochs a checkpoint holds, once it is written.

        Raises:
            UserError: the loss is not finite, a checkpoint cannot be written, or another process is gone.
        """
        self.fit.arithmetic = arithmetic.joined(self.fit.arithmetic, arithmetic.in_force(self.device.type))
        if self.group:
            self.group.agree((self.fit.epoch, convert.digest(self.live)), self.folder)
        last = self.protocol.max_epochs if until is None else until
        while not self.complete and self.fit.epoch < last and not over():
            scores = self._epoch(self.fit.epoch)
            if self.is_main:
                log_metrics(scores, self.fit.epoch - 1)
                self._keep(kept)
                report(self._progress(scores))
        if self.seat:
            self.seat.leave()
        if self.is_main and self._saved < self.fit.epoch:
            self._keep(kept, last=True)
        if self.group:
            self.group.collect(None)  # until the first process has written the last epoch
        return self.fit

    @property
    def complete(self) -> bool:
        """Says whether the budget or the patience has ended."""
        return self.fit.epoch >= self.protocol.max_epochs or self.fit.stale > self.protocol.patience

    def _epoch(self, epoch: int) -> dict[str, float]:
        start, before = time.perf_counter(), compiled.CLOCK.seconds
        self.schedule.begin(epoch)
        loss, images = self._train(epoch)
        trained = time.perf_counter() - start
        self._exchange()
        collected, val_loss = self.predict("val", views=1, after=epoch)
        found = self.objective.score(collected, self.rows["val"]).items()
        self._exchange()
        metric, steers = self.objective.metric, self.protocol.monitor.removeprefix("val_")
        kept = ((n, v) for n, v in found if metrics.can_be_primary(n) or n.split(".")[0] == metric or n == steers)
        scores = {f"val_{name}": value for name, value in kept}
        scores |= {"train_loss": loss, "val_loss": val_loss, "lr": self.optimizer.param_groups[0]["lr"]}
        if self.group:
            scores = self.group.collect(scores)[0]  # one decision, even where two GPUs differ in the last bit
        self._update(scores)
        self.fit.images += images
        self.fit.seconds += (time.perf_counter() - start) / self._beside
        self.fit.compile_seconds += compiled.CLOCK.seconds - before
        return scores | {"images_per_second": images / trained}

    def _train(self, epoch: int) -> tuple[float, int]:
        """Takes one epoch of steps; nothing is read back from the device inside it."""
        optimizer.set_training(self.model, self.protocol)
        rank = () if self.is_main else (self.loader.share.rank,)
        with self._turn():
            torch.manual_seed(rng.seed_of(self.seed, "dropout", epoch, *rank))
        total, images, parts = torch.zeros((), device=self.device), 0, list[Batch]()
        batches = self.loader.train(
            self.rows["train"], self.protocol.augmentation, self.seed, epoch, self.protocol.min_steps
        )
        for batch in batches:
            parts.append(batch)
            if batch.place.last:
                with self._turn():
                    total += self.step(*parts) * batch.place.images
                images += batch.place.images
                parts.clear()
        mean = float(total) / images
        if not math.isfinite(mean):
            raise UserError(
                f"the training loss of epoch {epoch} is {mean}: lower lr (now {self.protocol.lr}) or use fp32"
            )
        return mean, images

    @property
    def _beside(self) -> int:
        """Counts the networks that share this process's time."""
        return self.seat.rivals.training if self.seat else 1

    def _turn(self) -> AbstractContextManager[None]:
        """Has torch's random numbers alone, where other networks of this process draw, too."""
        return self.seat.turn() if self.seat else nullcontext()

    def step(self, *parts: Batch) -> Tensor:
        """Takes one optimizer step on the parts of a batch; returns the batch's loss, still on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        compiled.begin_step(self.engine)
        total = torch.zeros((), device=self.device)
        for batch in parts:
            total += self._backward(batch)
        if self.group:
            total = self.group.add_gradients(self.model.parameters(), total)
        self.optimizer.step()
        self._follow()
        return total

    def _backward(self, batch: Batch) -> Tensor:
        """Adds a part's gradients; returns what it adds to the batch's loss in the sum over parts and processes."""
        place, joined = batch.place, self.group is not None and self.objective.needs_whole_batch
        if self.group:
            self.group.idle = not place.count
        with self.autocast():
            outputs = self.forward(batch.inputs)
        if self.group and joined:
            outputs, targets = self.group.gather((outputs, batch.targets))
            loss = self.objective.loss(outputs, targets) * (place.joint / place.images)
        elif place.count:
            loss = self.objective.loss(outputs, batch.targets) * (place.count / place.images)
        else:
            loss = distributed.nothing(outputs)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own stub is untyped
        return loss.detach() if self.is_main or not joined else torch.zeros_like(loss)

    def _follow(self) -> None:
        """Moves the average towards the weights; counters are copied."""
        for key, held in self.average.items():
            live = self.live[key]
            held.copy_(held.lerp(live, 1 - self.ema) if held.is_floating_point() else live)

    def _exchange(self) -> None:
        """Puts the average, if there is one, into the model and the weights into its place, or back."""
        for key, held in self.average.items():
            kept = held.clone()
            held.copy_(self.live[key])
            self.live[key].copy_(kept)

    def autocast(self) -> AbstractContextManager[Any]:
        """Computes in the precision of the parameters."""
        if self.engine.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @torch.inference_mode()
    def predict(
        self, split: str, *, views: int, native: bool = False, after: int | None = None
    ) -> tuple[NDArray[Any], float]:
        """Collects the objective's numbers for every sample of a split, and the split's mean loss.

        `after` is the epoch after which all rivals read the split.
        Several processes take each its share of the batches; all of them return the numbers of the whole split.
        """
        self.model.eval()
        rows = self.rows[split]
        rows = self.group.share(rows, self.loader.evaluation_step(views)) if self.group else rows
        collected, losses, counts = [], [], []
        for batch in self.loader.evaluate(rows, views, after):
            with self.autocast():
                logits = self.forward(batch.inputs)
            losses.append(self.objective.loss(logits, batch.targets))
            collected.append(self.objective.collect(logits, batch.targets, batch.rows, native))
            counts.append(len(batch.rows))
        done = list(zip(on_host(collected), on_host(losses), counts, strict=True))
        if self.group:
            done = [each for one in self.group.collect(done) for each in one]
        total = sum((loss * count for _, loss, count in done), np.float32(0))
        return np.concatenate([part for part, _, _ in done]), float(total) / sum(count for _, _, count in done)

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
        self.schedule.end(self.fit.epoch, value)

    def _progress(self, scores: dict[str, float]) -> Progress:
        left = (self.protocol.max_epochs - self.fit.epoch) * self.fit.seconds / self.fit.epoch * self._beside
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
        return self.folder / checkpoint.FILE

    def _keep(self, kept: Callable[[int], None], last: bool = False) -> None:
        """Writes a checkpoint where one is due; else the best model waits in memory."""
        state = self.average or self.live
        improved = self.fit.best_epoch == self.fit.epoch - 1 and self._saved < self.fit.epoch
        pause = max(self.checkpoint_seconds, WRITES * self._write_seconds) if self.checkpoint_seconds else 0.0
        start = time.monotonic()
        if not last and start - self._written < pause:
            if improved:
                self._best = {key: tensor.clone() for key, tensor in state.items()}
            return
        self._save(state if improved and not last else self._best)
        self._written = time.monotonic()
        self._write_seconds, self._saved, self._best = self._written - start, self.fit.epoch, {}
        kept(self.fit.epoch)

    def _save(self, best: Mapping[str, Tensor]) -> None:
        """Writes the best model if it is another than that of the last checkpoint, then a checkpoint; each whole."""
        self.fit.plateau = self.schedule.plateau.state_dict()
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "fit": copy.copy(self.fit.__dict__),
            "average": self.average,
        }
        try:
            if best:
                with files.replacing(self.best_file) as temporary:
                    save_file({k: v.contiguous() for k, v in best.items()}, temporary)
                self.best_sha256 = files.sha256(self.best_file)
            with files.replacing(self.checkpoint_file) as temporary:
                torch.save({**content, "best_sha256": self.best_sha256}, temporary)
        except (OSError, RuntimeError, SafetensorError) as error:  # how Python, torch and safetensors say disk full
            free = shutil.disk_usage(self.folder).free
            former = self.checkpoint_file.is_file()
            kept = f"the checkpoint of epoch {self._saved - 1} is intact" if former else "there is no earlier one"
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
            content = checkpoint.read(self.checkpoint_file, self.device)
            self.model.load_state_dict(content["model"], strict=True)
            for key, held in self.average.items():
                held.copy_(content["average"][key])
        except Exception as error:  # whatever a damaged file makes torch raise, starting over mends it
            log.warning("checkpoint %s is unreadable (%s); the run starts over", self.checkpoint_file, error)
            return 0
        self.optimizer.load_state_dict(content["optimizer"])
        self.fit = Fit(**content["fit"])
        self.schedule.plateau.load_state_dict(self.fit.plateau)
        self.best_sha256 = content.get("best_sha256", "") if self.is_main else ""  # who writes the file, knows it
        self._saved = self.fit.epoch
        log.info("resuming after epoch %d", self.fit.epoch - 1)
        return self.fit.epoch

    def best(self) -> dict[str, Tensor]:
        """Reads the best epoch's model.

        Raises:
            UserError: the file is not what this training wrote; the same run then begins anew.
        """
        if self.best_sha256 and not (self.best_file.is_file() and files.sha256(self.best_file) == self.best_sha256):
            self.checkpoint_file.unlink(missing_ok=True)
            raise UserError(
                f"{self.best_file} is not the model that this training kept: the file was damaged or replaced. Start "
                "the same run again: it trains anew"
            )
        return load_file(self.best_file, device=str(self.device))


class TaskTrainer(Trainer):
    """The training of a task, which is tested at its end."""

    objective: TaskObjective
    thresholds: NDArray[np.float64] | None = None
    """of each label, which val fixed when test was read; None: the objective has none"""

    def val(self) -> Prediction:
        """Reads val with the model of the best epoch so far, by one view of an image."""
        self.model.load_state_dict(self.best(), strict=True)
        collected, _ = self.predict("val", views=1)
        return self.objective.finish(collected, self.rows["val"], None)

    def test(self) -> tuple[Prediction, Prediction]:
        """Reads test once, with the best epoch's model and what val fixed; returns (val, test)."""
        self.model.load_state_dict(self.best(), strict=True)
        views = self.objective.test_views
        val, _ = self.predict("val", views=views)
        thresholds = self.thresholds = self.objective.thresholds(val)
        test, _ = self.predict("test", views=views, native=True)
        return self.objective.finish(val, self.rows["val"], thresholds), self.objective.finish(
            test, self.rows["test"], thresholds
        )
