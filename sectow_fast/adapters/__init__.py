"""The kernels inside other trainers; a module a host, imported by who has that host."""
