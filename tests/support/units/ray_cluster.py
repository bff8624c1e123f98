"""A Ray cluster of two nodes on this machine, kept by a process of its own.

    python ray_cluster.py

prints its address and the number of the second node's first process as JSON, and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True)
class RayCluster:
    """A running cluster of two nodes, each of one CPU.

    Attributes:
        address: for `launch.cluster`.
        raylet: the process that the second node's workers are children of.
    """

    address: str
    raylet: int

    def on_second_node(self) -> dict[psutil.Process, list[str]]:
        """The living processes of the second node, its units' among them, with the words of their commands."""
        found = {}
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.raylet)
            for process in (first, *first.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    found[process] = process.cmdline()
        return found

    def kill_second_node(self) -> None:
        """As if its machine had lost its power."""
        for process in self.on_second_node():
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def ray_cluster(environment: Mapping[str, str]) -> Iterator[RayCluster]:
    """Start a cluster whose workers have these variables."""
    # A socket's path must be short.
    folder = tempfile.mkdtemp(prefix="ray-")
    keeper = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder},
    )
    try:
        assert keeper.stdout is not None
        told = next((line for line in keeper.stdout if line.startswith("{")), "")
        assert told, "the cluster did not start"
        yield RayCluster(**json.loads(told))
    finally:
        keeper.communicate(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def _keep() -> None:
    from ray.cluster_utils import Cluster

    given: dict[str, Any] = {
        "num_cpus": 1,
        "object_store_memory": 80 * 2**20,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=given)
    try:
        second = cluster.add_node(**given)
        raylet = second.all_processes["raylet"][0].process.pid
        print(json.dumps({"address": cluster.address, "raylet": raylet}), flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _keep()
