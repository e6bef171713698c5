"""The kernels for GPUs, in Triton; without one they run in Triton's interpreter (tests)."""
