"""Net1 by kernels in C."""
