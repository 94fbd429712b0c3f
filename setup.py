"""Build of the Cython extensions; everything else stands in pyproject.toml.

SORA_DEBUG=1 builds with bounds checks and extra assertions.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("SORA_DEBUG") == "1"
NATIVE = Path("sora/_native")


def extensions() -> list[Extension]:
    """One extension per .pyx file."""
    return [
        Extension(
            f"sora._native.{source.stem}",
            [str(source)],
            extra_compile_args=["-O0", "-g"] if DEBUG else ["-O3", "-g0"],
        )
        for source in sorted(NATIVE.glob("*.pyx"))
    ]


setup(
    ext_modules=cythonize(
        extensions(),
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "cdivision": True,
        },
        quiet=not DEBUG,
    )
)
