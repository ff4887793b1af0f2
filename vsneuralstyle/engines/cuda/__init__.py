"""Net1 by kernels in CUDA."""
