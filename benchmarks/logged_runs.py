"""What reading many runs of other code from MLflow's server on PostgreSQL takes: seconds, requests, memory.

    PYTHONPATH=src:. python benchmarks/logged_runs.py [--runs 2000]

The server, its database and its object store are those of `medtransfer services`.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections import Counter
from typing import Any
from unittest import mock

import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from tests.support.servers import running

from medtransfer.comparison import foreign as scores
from medtransfer.tracking import foreign


def main() -> None:
    """Logs the runs, then reads them and compares what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    count = parser.parse_args().runs
    with running() as services:
        os.environ.update(services.environment)
        uri = services.environment["MLFLOW_TRACKING_URI"]
        client = MlflowClient(uri)
        place = client.create_experiment("many")
        began = time.perf_counter()
        for number in range(count):
            run = client.create_run(place)
            said = [Param("model", f"m{number % 10}"), Param("seed", str(number // 10))]
            said += [Param(f"other{k}", str(k)) for k in range(30)]
            measured = [Metric("test_auc", 0.8 + 0.0001 * (number * 7919 % 997), 0, 0), Metric("loss", 0.1, 0, 0)]
            client.log_batch(run.info.run_id, measured, said, [RunTag("dataset", "d")])
            client.set_terminated(run.info.run_id)
        print(f"{count} runs logged in {time.perf_counter() - began:.0f} s")
        asked: Counter[str] = Counter()
        whole: Any = requests.Session.request

        def counted(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
            asked[url.rpartition("/")[2]] += 1
            return whole(self, method, url, *args, **kwargs)

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        keys = foreign.Keys(init="params.model", seed="params.seed", task="tags.dataset", metric=("test_auc",))
        began = time.perf_counter()
        with mock.patch.object(requests.Session, "request", counted):
            found = foreign.runs(["many"], keys, tracking_uri=uri)
        read = time.perf_counter() - began
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        began = time.perf_counter()
        scores.compare(found.table, metric="score", margin=0.01)
        compared = time.perf_counter() - began
        print(f"{len(found.table)} runs read in {read:.1f} s, {more:.0f} MiB more; compared in {compared:.1f} s")
        print(f"requests: {dict(asked)}")


if __name__ == "__main__":
    main()
