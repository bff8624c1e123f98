"""Units: one training with its scoring each, how they are run, and what they leave.

`stages` holds the stages of the whole job (prepare, weigh, tune, report), `schedule` the units of a config.
"""
