"""Servers started, interrupted and stopped; every slow test prints its figures (pytest -s -m slow)."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.cli import services as verbs
from medtransfer.core.errors import UserError
from medtransfer.services import daemons, database
from medtransfer.services import servers as services
from medtransfer.services.daemons import Daemon
from tests.support import outages, servers
from tests.support.servers import Servers

LISTEN = "import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"


def daemon(port: int, code: str = LISTEN) -> Daemon:
    return Daemon(
        name="tiny", command=(sys.executable, "-c", code.format(port=port)), environment=dict(os.environ), port=port,
        answers=lambda: daemons.listens(port),
    )  # fmt: skip


def test_a_daemon_is_started_once_found_again_and_stopped(tmp_path: Path) -> None:
    port = servers.free_port()
    assert daemons.start(daemon(port), tmp_path)
    process = daemons.running("tiny", tmp_path)
    assert process is not None
    assert os.getpgid(process.pid) == process.pid  # what stops this process does not stop it
    assert not daemons.start(daemon(port), tmp_path)
    assert daemons.stop("tiny", tmp_path, signal.SIGTERM)
    assert daemons.running("tiny", tmp_path) is None
    assert not daemons.listens(port)
    assert not daemons.stop("tiny", tmp_path, signal.SIGTERM)


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(f'{{"pid": {os.getpid()}, "created": 1.0}}')
    assert daemons.running("tiny", tmp_path) is None


def test_a_taken_port_and_a_program_that_ends_are_said(tmp_path: Path) -> None:
    port = servers.free_port()
    daemons.start(daemon(port), tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=f"port {port} .* is taken by another program"):
        daemons.start(daemon(port), tmp_path / "other")
    daemons.stop("tiny", tmp_path, signal.SIGTERM)
    with pytest.raises(UserError, match=r"tiny ended; .*tiny.log:(.|\n)*ValueError: no disk"):
        daemons.start(daemon(port, "raise ValueError('no disk')"), tmp_path)


@pytest.mark.parametrize(
    ("action", "port", "words"),
    [("begin", "0", "action must be one of start, stop, status"), ("start", "80", "port must be 0 or a whole number")],
)
def test_the_verb_refuses_other_words(tmp_path: Path, top: Path, action: str, port: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        verbs.services(parameters.load(top / "params.yaml"), tmp_path, action, port)
    assert not (tmp_path / services.FOLDER).exists()


def test_postgresql_does_not_get_a_folder_that_its_account_cannot_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(UserError, match=r"may not pass through .*; chmod o\+x"):
        database.prepare(closed / "postgresql", "secret")


@pytest.fixture(scope="module")
def up() -> Iterator[Servers]:
    with servers.running() as started:
        yield started


def use(up: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    for name, value in up.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_servers_ask_for_passwords_and_keep_what_they_have(
    up: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(up, monkeypatch)
    client = tracking.connect(tmp_path)
    run_id = client.create_run("0").info.run_id
    (tmp_path / "a.txt").write_text("kept")
    client.log_artifact(run_id, str(tmp_path / "a.txt"))
    assert sorted(services.stop(up.folder)) == sorted(services.NAMES)
    assert set(services.status(up.folder).values()) == {0}
    assert up.start() == up.environment  # the same passwords
    assert Path(client.download_artifacts(run_id, "a.txt", str(tmp_path))).read_text() == "kept"
    for process in (psutil.Process(number) for number in services.status(up.folder).values()):
        for each in [process, *process.children(recursive=True)]:
            assert {c.laddr.ip for c in each.net_connections("inet")} <= {"127.0.0.1"}
            assert not any(up.environment[name] in " ".join(each.cmdline()) for name in services.SECRETS)
    private = [up.folder / name for name in ("environment", "settings.json", "users.ini", "mlflow.log")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    with pytest.raises(UserError, match="first: medtransfer services stop"):
        services.start(up.folder, up.port + 100)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    stranger = boto3.Session().client("s3", endpoint_url=up.environment["MLFLOW_S3_ENDPOINT_URL"])
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.list_buckets()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guessed")
    with pytest.raises(MlflowException, match="not authenticated"):
        client.get_run(run_id)


@pytest.mark.slow
def test_outages_in_the_middle_of_a_benchmark_lose_nothing_and_double_nothing(
    up: Servers, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(up, monkeypatch)
    figures = outages.interrupt(up, top, tmp_path, seconds=20, cells=6, epochs=250)
    print(f"\n{figures}")
    assert figures.outages == 4
    assert figures.lost == 0
    assert figures.doubled == 0
    assert figures.states == {"FINISHED": 6}


def dvc(root: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True, capture_output=True, timeout=300)


OUTPUTS = ("data/prepared/shenzhen", "data/weights/benchmark", "data/results/cells", "data/results/checkpoints")


@pytest.mark.slow
def test_dvc_pushes_and_pulls_data_weights_results_and_checkpoints(
    up: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(up, monkeypatch)
    author = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    for number, folder in enumerate(OUTPUTS):
        (tmp_path / folder / "inner").mkdir(parents=True)
        for k in range(5):
            (tmp_path / folder / "inner" / f"{k}.bin").write_bytes(os.urandom(1000 * (k + 1)))
        (tmp_path / folder / "large.bin").write_bytes(os.urandom(9_000_000 * (number == 0)))  # sent in parts
    dvc(tmp_path, "add", "-q", *OUTPUTS)
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    dvc(tmp_path, "remote", "add", "--local", "-d", "team", "s3://dvc/medtransfer")
    dvc(tmp_path, "remote", "modify", "--local", "team", "endpointurl", up.environment["MLFLOW_S3_ENDPOINT_URL"])
    subprocess.run(["git", *author, "commit", "-qm", "outputs"], cwd=tmp_path, check=True)
    tracked = subprocess.run(["git", "grep", "-l", "127.0.0.1"], cwd=tmp_path, capture_output=True, check=False)
    assert tracked.stdout == b""  # the remote's address is in .dvc/config.local alone
    files = {p: p.read_bytes() for folder in OUTPUTS for p in (tmp_path / folder).rglob("*.bin")}
    start = time.monotonic()
    dvc(tmp_path, "push", "-q")
    pushed = time.monotonic()
    shutil.rmtree(tmp_path / ".dvc/cache")
    shutil.rmtree(tmp_path / "data/results/cells")
    for path in files:
        path.unlink(missing_ok=True)
    dvc(tmp_path, "pull", "-q")
    print(f"\n{len(files)} files: push {pushed - start:.1f} s, pull {time.monotonic() - pushed:.1f} s")
    assert {p: p.read_bytes() for p in files} == files


@pytest.mark.slow
def test_the_verb_starts_shows_and_stops_the_servers(up: Servers, top: Path, tmp_path: Path) -> None:
    shutil.copyfile(top / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / services.FOLDER).parent.mkdir()
    (tmp_path / services.FOLDER).symlink_to(up.folder)

    def said(*words: str) -> str:
        output, _ = up.command(top, tmp_path, "services", *words).communicate(timeout=300)
        return output

    shown = said("start")
    assert f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{up.port}" in shown
    assert not any(up.environment[name] in shown for name in services.SECRETS)
    assert said("status").count("process ") == 3
    assert "stopped: mlflow, s3, postgresql" in said("stop")
    assert "no server ran" in said("stop")
    assert said("status").count("does not run") == 3
    up.start()
    sourced = f". {up.folder}/environment && {sys.executable} -c 'import mlflow; print(mlflow.get_tracking_uri())'"
    answer = subprocess.run(["sh", "-c", sourced], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert answer.stdout.strip() == up.environment["MLFLOW_TRACKING_URI"]
    assert MlflowClient(answer.stdout.strip()) is not None
