"""The only retry loop, and the only `except Exception`: everything else raises.

Supervises one task and nothing more: no list of tasks, no clock but Trio's, no I/O but the wait.
"""

import random
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog
import trio

LONGEST_RETRY_AFTER = 7 * 86_400.0
"""Seconds. The longest ban an exchange announces is three days; more than this is a bad number."""

_REASON_LENGTH = 200  # characters, of each of up to three
_log = structlog.get_logger(__name__)
_random = random.Random()


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to run again.

    delay, max_delay: seconds; the wait doubles from the first up to the second.
    max_attempts: after so many runs in a row that did not last, give up; 0 = never.
    stable_after: seconds; a run that took at least so long "lasted" and resets delay and count.
    jitter: the fraction of a wait, 0..1, that chance may take off it. A wait never exceeds
        max_delay unless the exchange asked for more.
    """

    delay: float = 1.0
    max_delay: float = 60.0
    max_attempts: int = 0
    stable_after: float = 30.0
    jitter: float = 0.25


@dataclass(frozen=True, slots=True)
class Change:
    """A supervised task went down, and runs again in `delay` seconds; or failed: no more runs.

    reason: one non-empty printable line. attempt: how often it went down since it last lasted.
    delay: None when failed.
    """

    state: Literal["down", "failed"]
    reason: str
    attempt: int
    delay: float | None
    error: Exception


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    policy: RestartPolicy | Callable[[], RestartPolicy],
    *,
    on_change: Callable[[Change], None] | None = None,
    rng: random.Random = _random,
    context: Mapping[str, object] | None = None,
) -> None:
    """Run `run` again each time it raises; return when it returns, or when the policy gives up.

    Each failure is one log line, `{name}.down` or `{name}.failed`, with `context`, and then one
    call of `on_change`, which must not raise. An exception whose class has `expected = True` is one
    of the outer world's and logged without a traceback; any other is a fault of the program. One
    with `retry_after` (seconds) is waited for at least so long. Cancellation passes through.
    A policy that may change is given by a function; the present one counts at each failure.
    """
    rules = policy if isinstance(policy, RestartPolicy) else policy()
    delay = min(rules.delay, rules.max_delay)
    attempt = short_runs = 0
    while True:
        started = trio.current_time()
        try:
            await run()
            return
        except Exception as error:
            rules = policy if isinstance(policy, RestartPolicy) else policy()
            if trio.current_time() - started >= rules.stable_after:
                delay = min(rules.delay, rules.max_delay)
                attempt = short_runs = 0
            else:
                short_runs += 1
            attempt += 1
            delay = min(max(delay, rules.delay), rules.max_delay)
            wait = None
            if not rules.max_attempts or short_runs < rules.max_attempts:
                wait = _wait(delay, _leaves(error), rules.jitter, rng)
            # A capped value is doubled: delay * 2**n would overflow after a thousand failures.
            delay = min(delay * 2, rules.max_delay)
            state: Literal["down", "failed"] = "failed" if wait is None else "down"
            change = Change(state, _reason(error), attempt, wait, error)
            _report(f"{name}.{state}", change, context or {})
            if on_change is not None:
                on_change(change)
            del change  # it holds the frames of the run, and all they hold, by its error
        except BaseExceptionGroup as group:
            # Something below failed while it was being cancelled. Raised as it is, the failure would
            # outlive the cancel scope and end the program; it is reported, the rest goes its way.
            failure, rest = group.split(Exception)
            if isinstance(failure, ExceptionGroup):
                stopped = Change("failed", _reason(failure), attempt, None, failure)
                _report(f"{name}.stopped", stopped, context or {})
            raise (group if rest is None else rest) from None
        if wait is None:
            return
        await trio.sleep(wait)


def _reason(error: Exception) -> str:
    texts = list(dict.fromkeys(map(_describe, _leaves(error))))
    more = f" (and {len(texts) - 3} more)" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


def _describe(error: Exception) -> str:
    kind = type(error).__name__
    # "module.Kind: message"; unlike str(error), it survives a __str__ that raises.
    _, _, message = traceback.format_exception_only(error)[0].partition(": ")
    message = _line(message)
    if not message or _expected(error):
        return message or _line(kind) or "error"
    return _line(f"{kind}: {message}")


def _line(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text[:_REASON_LENGTH])
    return " ".join(shown.split())


def _leaves(error: Exception) -> list[Exception]:
    """The exceptions of a group, however nested, or the exception itself."""
    leaves, rest = [], [error]
    while rest:
        match rest.pop():
            case ExceptionGroup() as group:
                rest.extend(reversed(group.exceptions))
            case leaf:
                leaves.append(leaf)
    return leaves


def _expected(error: Exception) -> bool:
    return getattr(error, "expected", False) is True


def _wait(delay: float, errors: list[Exception], jitter: float, rng: random.Random) -> float:
    share = jitter * rng.random()
    asked = 0.0
    for error in errors:
        seconds = getattr(error, "retry_after", None)
        if isinstance(seconds, int | float) and seconds > asked:  # not NaN, not negative
            asked = float(min(seconds, LONGEST_RETRY_AFTER))
    # Chance takes from our own delay and adds to what was asked: not all at the same moment.
    return max(delay * (1 - share), asked + delay * share if asked else 0.0)


def _report(event: str, change: Change, context: Mapping[str, object]) -> None:
    fields = {**context, "reason": change.reason, "attempt": change.attempt}
    if change.delay is not None:
        fields["delay"] = round(change.delay, 3)
    expected = all(map(_expected, _leaves(change.error)))
    if not expected:
        fields["exc_info"] = change.error
    log = _log.warning if expected and change.state == "down" else _log.error
    log(event, **fields)
