"""The built-in demo: six tasks about scenes of real handwritten digits, and a tiny LLaVA to tune on them."""

from cotbal.demo.build import prepare_demo

__all__ = ["prepare_demo"]
