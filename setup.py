"""Build of the Cython extensions and of the manual pages; everything else stands in pyproject.toml.

SORA_DEBUG=1 builds with bounds checks and extra assertions.

The manual pages are rendered from the programs' own definitions, which are imported for it. What those import in turn
is not there in an isolated build, neither libraries nor our own extensions: a stand-in is enough, since nothing runs.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

from Cython.Build import cythonize
from setuptools import Command, Extension, setup
from setuptools.command.build import build

ROOT = Path(__file__).parent.resolve()
DEBUG = os.environ.get("SORA_DEBUG") == "1"
NATIVE = Path("sora/_native")
PAGES = Path("build/man")
LIBRARIES = frozenset(
    {
        "aiosmtplib",
        "argon2",
        "asyncpg",
        "cryptography",
        "imapclient",
        "litestar",
        "minio",
        "nacl",
        "orjson",
        "prometheus_client",
        "re2",
        "rich",
        "urllib3",
        "uvicorn",
        "uvloop",
        "zstandard",
    }
)
"""Run-time libraries by the names that the package imports."""


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


class StandIn(type):
    """A class that has every attribute; its instances are as obliging."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)


def stand_in(name: str) -> type:
    """A new one."""
    obliging = {
        "__init__": lambda self, *_, **__: None,
        "__call__": lambda self, *_, **__: self,
        "__getattr__": lambda self, _: self,
    }
    return StandIn(name, (), obliging)


class Absent:
    """Import hook, the last of all: finds the libraries and extensions of ours that nobody else did.

    Nothing else: a library that is here tries optional modules of its own, and must not find them.
    """

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        top = name.partition(".")[0]
        if not name.startswith("sora._native.") and (top not in LIBRARIES or self._is_real(top)):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def _is_real(self, top: str) -> bool:
        spec = getattr(sys.modules.get(top), "__spec__", None)
        return spec is not None and spec.loader is not self

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: StandIn.__getattr__(StandIn, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        return


class BuildMan(Command):
    """Render the manual pages."""

    user_options: ClassVar[list[tuple[str, str, str]]] = []
    editable_mode = False

    def initialize_options(self) -> None:
        return

    def finalize_options(self) -> None:
        return

    def run(self) -> None:
        before, columns = set(sys.modules), os.environ.get("COLUMNS")
        absent = Absent()
        sys.path.insert(0, str(ROOT))
        sys.meta_path.append(absent)  # type: ignore[arg-type]
        os.environ["COLUMNS"] = "80"
        try:
            from sora.cli import manpages

            manpages.write(PAGES, self.distribution.get_version())
        finally:
            sys.meta_path.remove(absent)  # type: ignore[arg-type]
            sys.path.remove(str(ROOT))
            for name in set(sys.modules) - before:
                del sys.modules[name]
            del os.environ["COLUMNS"]
            if columns is not None:
                os.environ["COLUMNS"] = columns

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """Also the manual pages."""

    sub_commands = [*build.sub_commands, ("build_man", None)]  # noqa: RUF012 (its type is setuptools')


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
    ),
    cmdclass={"build": Build, "build_man": BuildMan},
    data_files=[
        ("share/man/man1", [str(PAGES / "man1/soractl.1"), str(PAGES / "man1/sora-admin.1")]),
        ("share/man/man5", [str(PAGES / "man5/sora.toml.5")]),
    ],
)
