"""Running scripts beside everything else that the loop does, for deliveries and for IMAPSIEVE.

A run goes on in slices of a few milliseconds at most, and all others have their turn after each. What it asks is
answered by whoever gives `answer`; that may wait.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from sora import metrics
from sora.sieve import interpreter
from sora.sieve.limits import Limits
from sora.sieve.questions import Pause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sora.sieve.actions import Outcome
    from sora.sieve.interpreter import Environment, Step
    from sora.sieve.mail import Mail
    from sora.sieve.questions import Ask
    from sora.tables import SieveTable

Answer: TypeAlias = "Callable[[Ask], Awaitable[Any]]"


async def run(
    kind: str, steps: Sequence[Step], mail: Mail, environment: Environment, limits: Limits, answer: Answer
) -> Outcome:
    """Run scripts on a message, one after the other.

    Args:
        kind: `delivery` or `imap`, for the metrics.

    Raises:
        Unavailable: A question could not be answered now; nothing was done.
    """
    started = time.perf_counter()
    waited = 0.0
    generator = interpreter.run(steps, mail, environment, limits)
    reply: Any = None
    try:
        while True:
            try:
                request = generator.send(reply)
            except StopIteration as end:
                outcome: Outcome = end.value
                break
            paused = time.perf_counter()
            if isinstance(request, Pause):
                reply = await _paused(request)
            else:
                reply = await answer(request)
            waited += time.perf_counter() - paused
    except BaseException:
        metrics.sieve_runs.labels(kind, "interrupted").inc()
        raise
    finally:
        generator.close()
    metrics.sieve_runs.labels(kind, "failed" if outcome.error else "done").inc()
    metrics.sieve_run_seconds.observe(time.perf_counter() - started - waited)
    return outcome


async def _paused(pause: Pause) -> Any:
    """Let others have their turn; long work is done in a thread meanwhile."""
    if pause.work is None:
        await asyncio.sleep(0)
        return None
    return await asyncio.to_thread(interpreter.worked, pause, time.thread_time)


def limits_of(table: SieveTable) -> Limits:
    """What one run may take, by the configuration."""
    return Limits(
        instructions=table.max_instructions,
        slice=table.slice_instructions,
        redirects=table.max_redirects,
        actions=table.max_actions,
        variable_bytes=table.max_variable_size,
        variables=table.max_variables,
        text_characters=table.max_text,
        include_depth=table.max_include_depth,
        includes=table.max_includes,
        edited_bytes=table.max_edited,
        made_bytes=table.max_made,
    )
