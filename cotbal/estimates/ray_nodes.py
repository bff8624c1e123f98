"""What a Ray cluster's nodes have for a unit, as the cluster and the nodes themselves tell.

python -m cotbal.estimates.ray_nodes ADDRESS

prints the nodes as JSON. It is a process of its own: Ray puts threads and signal handlers into the one that asks.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cotbal.config.schema import Config
from cotbal.units.launch.ray_engine import cluster_address, wanted_resources

__all__ = ["RayNode", "memory_on_ray", "ray_nodes"]

# To connect, and for the nodes to look at their GPUs.
_ASK_SECONDS = 120
_ANSWER_SECONDS = 30
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class RayNode:
    """A living node.

    Attributes:
        resources: what tasks can ask of it, by Ray's names; `memory` in bytes.
        gpus: the bytes of each of its GPUs; empty where it has none or did not tell.
    """

    resources: Mapping[str, float]
    gpus: tuple[int, ...] = ()

    def units(self, wanted: Mapping[str, float]) -> int:
        """How many units that want these resources it has room for at once."""
        rooms = [int(self.resources.get(name, 0.0) // amount) for name, amount in wanted.items()]
        return min(rooms, default=1)


def ray_nodes(config: Config) -> list[RayNode]:
    """The nodes of the config's cluster; none where no cluster answers, which the launch itself refuses."""
    address = cluster_address(config.launch.cluster)
    words = [sys.executable, "-m", __name__, address]
    if not _answers(address):
        return []
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=_ASK_SECONDS)
        found = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return []
    return [RayNode(each["resources"], tuple(each["gpus"])) for each in found]


def _answers(address: str) -> bool:
    """Whether something listens there; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def memory_on_ray(
    nodes: Sequence[RayNode], config: Config, processes: int, *, kind: str
) -> tuple[int, str] | None:
    """Bytes for each process of a unit, and where the number is from; None where the nodes do not tell.

    It is the least of all nodes that have room for a unit, as the cluster chooses among them: the smallest GPU, or
    the node's memory divided by the processes of all units that it has room for.

    Args:
        processes: per unit.
        kind: `gpu` or `cpu`.
    """
    wanted = wanted_resources(config, processes)
    able = [node for node in nodes if node.units(wanted) > 0]
    where = f"{len(able)} node{'s' if len(able) != 1 else ''} of the Ray cluster that can take a unit"
    if kind == "gpu":
        if not able or not all(node.gpus for node in able):
            return None
        return min(min(node.gpus) for node in able), f"the smallest GPU of the {where}"
    if not able or not all(node.resources.get("memory") for node in able):
        return None
    limit = config.launch.side_by_side
    shares = [
        int(node.resources["memory"]) // (processes * min(node.units(wanted), limit or sys.maxsize))
        for node in able
    ]
    return min(shares), f"for each process on the {where}"


def _told(address: str) -> list[dict[str, Any]]:
    ray: Any = import_module("ray")
    placed: Any = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    ray.init(address=address, log_to_driver=False, logging_level="error")
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        look = ray.remote(num_cpus=0, max_retries=0)(_gpu_bytes)
        asked = {
            node["NodeID"]: look.options(scheduling_strategy=placed(node["NodeID"], soft=False)).remote()
            for node in nodes
            if node["Resources"].get("GPU")
        }
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_SECONDS)
        sizes = {name: ray.get(answer) for name, answer in asked.items() if answer in ready}
        return [{"resources": node["Resources"], "gpus": sizes.get(node["NodeID"], [])} for node in nodes]
    finally:
        ray.shutdown()


def _gpu_bytes() -> list[int]:
    """The memory of every GPU of the machine that this runs on, whoever uses them."""
    import subprocess

    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
        return [int(line) * 2**20 for line in done.stdout.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


if __name__ == "__main__":
    print(json.dumps(_told(sys.argv[1])))
