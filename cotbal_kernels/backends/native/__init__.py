"""The native C++ kernels for CPUs."""
