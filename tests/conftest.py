"""Settings every test shares: Hypothesis profiles, threads, and where a GPU is."""

import os

# Before torch or transformers is imported anywhere: no network, one thread a worker, no parallel tokenizers.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings
from support.families.torchvision_operators import usable

usable(["torchvision"])  # where it is installed it must be imported before transformers

settings.register_profile(
    "ci", derandomize=True, max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", max_examples=10_000, deadline=None)
settings.register_profile("quick", max_examples=20, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA or HIP device on this machine")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
