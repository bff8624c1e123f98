"""Of every process that makes a unit: each optimizer step it takes, as a line in the file $COUNTED_STEPS, with
how many numbers the optimizer holds.

A folder with this file on PYTHONPATH is all it takes; it is imported by every Python process as it starts.
"""

import os
import sys
from typing import Any

words = list(sys.orig_argv)
own = words[words.index("-m") + 1 :] if "-m" in words else []
# Not of what only starts another process.
if "COUNTED_STEPS" in os.environ and own[:2] == ["cotbal", "unit"]:
    from torch._subclasses import FakeTensor
    from torch.optim.optimizer import register_optimizer_step_post_hook

    unit = own[3]
    place = os.open(os.environ["COUNTED_STEPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def count(optimizer: Any, *_: object) -> None:
        # The estimate of what a unit takes plays a step through, with tensors that have no data.
        held = [each for group in optimizer.param_groups for each in group["params"]]
        if any(isinstance(each, FakeTensor) or each.is_meta for each in held):
            return
        line = f"{unit} {os.getpid()} {os.environ.get('RANK', '0')} {sum(each.numel() for each in held)}"
        os.write(place, (line + "\n").encode())

    register_optimizer_step_post_hook(count)
