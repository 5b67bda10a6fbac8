"""stdout for results, stderr for what is wrong: written as far as they take it, whatever they are.

A stream may be closed, full, or read by nobody any more. Python would say so at its own end, with a traceback and an
exit code of its own; here the code stays what the program means.
"""

import os
import sys
from contextlib import suppress
from typing import TextIO


def write(stream: TextIO | None, text: str) -> OSError | None:
    """Write as far as the stream takes it; the error says why not. None: the process was started without it."""
    if stream is None:
        return None
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        return error
    return None


def result(text: str) -> int:
    """Write what the program was run for; returns the exit code. Who reads no further has what they wanted."""
    lost = write(sys.stdout, text)
    if lost is None or isinstance(lost, BrokenPipeError):
        return 0
    return fail(f"stdout does not take the result: {lost.strerror}", 1)


def fail(why: object, code: int) -> int:
    """Say on stderr, in one line, what is wrong; returns `code`."""
    write(sys.stderr, f"marketd: {why}\n")
    return code


def finish() -> None:
    """The last thing that the program does: what stdout and stderr have not taken by now is lost."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and write(stream, "") is not None:
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
