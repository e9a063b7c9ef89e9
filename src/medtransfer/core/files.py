"""Whole files or none: temporary file, then rename; hashes of files; locks that the kernel frees."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import glob
import hashlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from medtransfer.core.errors import UserError


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside `target` and renames it there if the block ends well; else removes it.

    What a killed process of this host left of the same target goes, too.
    """
    stem = f".{target.name}.{socket.gethostname()}."
    for left in target.parent.glob(f"{glob.escape(stem)}*.tmp"):
        if not _lives(left.name.removeprefix(stem).partition(".")[0]):
            left.unlink(missing_ok=True)
    temporary = target.with_name(f"{stem}{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_text(target: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        temporary.write_text(text)


def make_folder(folder: Path) -> None:
    """Makes a folder that the user named, and those above it.

    Raises:
        UserError: it cannot be made, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write into the folder {folder} ({error.strerror}): name another one") from error


def sha256(path: Path) -> str:
    """Hashes a file's bytes."""
    return hashed(path, "sha256")


def hashed(path: Path, algorithm: str) -> str:
    """Hashes a file's bytes by an algorithm that `hashlib` has."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def checked(path: Path, sha256: str) -> bool:
    """Says whether a file, or the files of a folder together, still have a hash; asked once per process and state.

    About 1 s of a core per GB (0.9 GB/s on an AMD EPYC of 2 cores, 2 GB/s are usual elsewhere), if the disk keeps up.
    """
    try:
        stat = path.stat()
    except OSError:
        return False
    return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) == sha256


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, *state: int) -> str:
    return digest(path)


def digest(path: Path) -> str:
    """Hashes a file, or the names and contents of the files of a folder."""
    if not path.is_dir():
        return sha256(path)
    lines = [f"{one.name} {sha256(one)}" for one in sorted(path.iterdir())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds a lock file while the block runs; yields False if another process has it and `wait` is false.

    The kernel frees the lock when its process dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def git_commit(root: Path) -> str:
    """Names the checked-out commit, with `+` where tracked files were changed; empty outside a repository."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git on this machine
        return ""
    return answer.stdout.strip()


def dvc_hash(root: Path, path: str) -> str:
    """Reads the hash that DVC last recorded of an output; empty where there is none."""
    lock_file = root / "dvc.lock"
    try:
        stages = (yaml.safe_load(lock_file.read_bytes()) or {}).get("stages", {}) if lock_file.is_file() else {}
    except (yaml.YAMLError, AttributeError) as error:
        raise UserError(
            f"{lock_file} is not what DVC writes ({' '.join(str(error).split())}); where it holds two sides of a "
            "merge, `git checkout --ours dvc.lock` and then `dvc repro` settle it; else `git checkout dvc.lock`, or, "
            "without git, remove it and say `dvc repro`"
        ) from error
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return next((str(out.get("md5", "")) for out in outs if out["path"] == path), "")
