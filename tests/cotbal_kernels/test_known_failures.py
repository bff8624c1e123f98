"""What broke for others (the numbers are those of the project's list), over every implementation."""

from __future__ import annotations

import pytest
import torch
from support.kernels.loss_checks import CHECKS, Check
from support.kernels.loss_contract import DEVICES, IMPLEMENTATIONS, skip_unless_runnable


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_known_failure(check: Check, impl: str, device: str) -> None:
    skip_unless_runnable(impl, device, torch.float32)
    check(impl, device)
