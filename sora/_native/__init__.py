"""Cython: the hot paths (floor 0). Each module has a .pyi beside it."""
