"""A process that is killed at a chosen step: before its nth call of what writes to MLflow, Optuna or a disk."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from optuna.storages import RDBStorage

STEPS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        MlflowClient,
        (
            "create_experiment", "create_run", "update_run", "log_batch", "log_artifact", "log_artifacts", "log_inputs",
            "set_tag", "delete_tag", "set_terminated", "create_registered_model", "update_registered_model",
            "create_model_version", "update_model_version", "set_model_version_tag", "set_registered_model_alias",
            "delete_registered_model_alias", "create_logged_model", "log_outputs",
        ),
    ),
    (RDBStorage, ("create_new_study", "create_new_trial", "set_study_user_attr", "set_trial_user_attr")),
    (RDBStorage, ("set_trial_state_values",)),
    (os, ("replace", "open")),
    (shutil, ("rmtree", "copyfile", "copytree")),
    (Path, ("rename", "unlink")),
)  # fmt: skip
"""what a killed process may have done or not"""


def cut(work: Callable[[], object], point: int, since: tuple[Any, str] | None = None) -> bool:
    """Does the work in a fork of this process that is killed before its nth step; says whether it came to its end.

    Args:
        work: what is done.
        point: 1 for the first step; 0: it is not killed.
        since: steps count from the first call of this function of a module or class on.
    """
    child = os.fork()
    if child == 0:
        try:
            _arm(point, since)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, f"the work failed at step {point}, see its traceback"
    return True


def _arm(point: int, since: tuple[Any, str] | None) -> None:
    """Lets every step count, and the nth kill."""
    done, counting = [0], [since is None]

    def watch(owner: Any, name: str, act: Callable[[], None]) -> None:
        own = getattr(owner, name)

        @functools.wraps(own)
        def watched(*values: Any, **named: Any) -> Any:
            act()
            return own(*values, **named)

        setattr(owner, name, watched)

    def step() -> None:
        done[0] += counting[0]
        if counting[0] and done[0] == point:
            os.kill(os.getpid(), signal.SIGKILL)

    for owner, names in STEPS:
        for name in names:
            watch(owner, name, step)
    if since is not None:
        watch(*since, lambda: counting.__setitem__(0, True))
