"""Kernels in CUDA C++, which PyTorch compiles by CUDA's own library (NVRTC)."""
