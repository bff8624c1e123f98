"""Units: each is one training with its scoring. How they are made, and what they leave.

`stages` contains the stages (prepare, weigh, tune, report), `schedule` the units of a config.
"""
