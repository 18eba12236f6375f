"""The kernels inside other trainers: one module per host, imported where it is installed."""
