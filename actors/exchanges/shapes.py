"""Frames that differ from one that was read before in nothing but digits: they are read in one step. No I/O.

An exchange sends the same few frames over and over, each time with other numbers. What is left of a frame without its
digits is its shape, and one frame that was read carefully tells of all frames of its shape which values are in quotes
and which have a dot, and that none has a sign, a space, an underscore or a word in place of a number. What msgspec's
lax mode takes too much (5 for "5", "5" or 5.0 for 5, 1 for true, "inf", 0 for "-0") has another shape. So a lax decoder
may make floats at once of a frame of a known shape; where it refuses one, the careful reading has the last word.

For bars alone: of a frame with two numbers the shape costs more than it spares, and one with random letters, such as
the ids of some trades, has a shape of its own. And for `bytes` alone, as they come from the socket: the same frame as
`str` is always read carefully.

    if isinstance(frame, bytes) and frame.translate(None, DIGITS) in self._shapes.known:
"""

import re

from actors.decoding import UNREADABLE
from actors.errors import BadMessage

DIGITS = b"0123456789"
MOST = 4096  # of one connection: a symbol has two where numbers keep their zeros, else a dozen
UNLIKE = (*UNREADABLE, BadMessage)  # what a quick reading raises of a frame that needs a careful one

# In these a digit could change more than a number: escapes, keys with digits, and signs within quotes.
_UNSURE = re.compile(rb'\\|"-|"[^"]*[0-9][^"]*"\s*:')


class Shapes:
    """Those that are known. A plain set is: to look into a kind of one of its own takes twice as long."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()

    def learn(self, frame: str | bytes) -> None:
        """A frame was read carefully, and all of its numbers are some."""
        if isinstance(frame, bytes) and not _UNSURE.search(frame):
            if len(self.known) == MOST:
                self.known.clear()
            self.known.add(frame.translate(None, DIGITS))
