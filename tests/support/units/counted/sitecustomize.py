"""Of every process that makes a unit: each optimizer step it takes, as a line in the file $COUNTED_STEPS.

A folder with this file on PYTHONPATH is all it takes; it is imported by every Python process as it starts.
"""

import os
import sys

words = list(sys.orig_argv)
if "COUNTED_STEPS" in os.environ and "cotbal" in words and "tied" not in " ".join(words[:4]):
    from torch.optim.optimizer import register_optimizer_step_post_hook

    unit = words[words.index("unit") + 2] if "unit" in words else ""
    place = os.open(os.environ["COUNTED_STEPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def count(*_: object) -> None:
        line = f"{unit} {os.getpid()} {os.environ.get('RANK', '0')} {os.environ.get('LAUNCHED_AS', '')}"
        os.write(place, (line + "\n").encode())

    register_optimizer_step_post_hook(count)
