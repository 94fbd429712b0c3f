"""The program that an upgrade executes in the supervisor's process.

`python -m sora.server.upgrading check` reads the state of a running supervisor from standard input and says whether
this release can go on with it; nothing is touched. `python -m sora.server.upgrading FD` goes on with it.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sora import config as configuration
from sora import log
from sora.errors import SoraError
from sora.server import handover, metricfiles, reloading
from sora.server.processes import ROLES
from sora.server.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sora.server.child import Child
    from sora.server.handover import Handover
    from sora.server.processes import Role

CHECK: Final = "check"
TRIAL_TIMEOUT_S: Final = 60.0
# -P: the directory in which somebody happened to start Sora is not searched for modules.
COMMAND: Final = (sys.executable, "-P", "-m", "sora.server.upgrading")


def trial(command: Sequence[str], state: Handover) -> Callable[[Child], int]:
    """For a child of the supervisor: ask the release that is installed now whether it can go on with `state`."""

    def run(child: Child) -> int:
        environment = {name: value for name, value in os.environ.items() if name != metricfiles.VARIABLE}
        try:
            done = subprocess.run(
                [*command, CHECK],
                input=handover.encode(state),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                timeout=TRIAL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            child.say(failed=str(error))
            return 1
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode:
            child.say(failed=lines[-1] if lines else f"the new release ended with {done.returncode}")
        return done.returncode

    return run


def check(data: bytes, roles: Sequence[Role]) -> None:
    """Everything that could keep this release from going on.

    Raises:
        ConfigError: It cannot.
    """
    state = handover.decode(data)
    change = reloading.classify(state.known_config(), configuration.load(state.path))
    reloading.check_files(change.effective)
    importlib.import_module("sora.server.supervisor")
    for role in roles:
        importlib.import_module(role.module)


def resume(
    letter: int, *, command: Sequence[str], roles: Sequence[Role], prepare: Callable[[Child], int] | None
) -> None:
    """Be the supervisor from here on."""
    state = handover.receive(letter)
    config = state.known_config()
    runtime = Runtime(config)
    runtime.resume(state.lock)
    metricfiles.install(runtime.metrics, keep=True)
    from sora.server.supervisor import Supervisor

    Supervisor(Path(state.path), config, runtime, prepare=prepare, roles=roles, successor=command, handed=state).run()


def main(
    word: str,
    *,
    command: Sequence[str] = COMMAND,
    roles: Sequence[Role] = ROLES,
    prepare: Callable[[Child], int] | None = None,
) -> int:
    """Entry point; gives the exit status."""
    try:
        if word == CHECK:
            check(sys.stdin.buffer.read(), roles)
        else:
            log.setup()
            resume(int(word), command=command, roles=roles, prepare=prepare)
    except (SoraError, ImportError, SyntaxError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _prepare(child: Child) -> int:
    from sora.server import prepare

    return prepare.run(child)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], prepare=_prepare))
