"""The whole job and its stages: prepare, weigh, tune, report."""

from cotbal.stages.job import (
    check_weights,
    mixture_weights,
    prepare,
    run_all,
    run_unit,
    saved_weights,
    tune,
    weigh_run,
    weigh_source,
    write_report,
)

__all__ = [
    "check_weights",
    "mixture_weights",
    "prepare",
    "run_all",
    "run_unit",
    "saved_weights",
    "tune",
    "weigh_run",
    "weigh_source",
    "write_report",
]
