"""Units: one training with its scoring each, how they are made, and what they leave.

`stages` holds the stages (prepare, weigh, tune, report), `schedule` the units of a config.
"""
