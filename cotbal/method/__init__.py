"""The mathematics of the method, in NumPy alone: scores, contributions, difficulties and weights.

The public names are exported by `cotbal` itself.
"""
