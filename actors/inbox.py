"""A bounded memory channel of one owner, who is spared a turn of the scheduler where there is nothing to schedule.

Whoever puts something in never waits. While the owner waits it lends a plain function: what is put in within a step
(`actors.turns.step`: somebody takes what an exchange sent) is taken by that function at the step's end, in place of the
owner's task, which is woken where the function fails or leaves something. What is put in at any other time wakes the
owner. Either way everything is taken in order, nothing while something else is being taken, and what the function
raises is raised in the owner's task.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import outcome
import trio

from actors import turns

T = TypeVar("T")


class Inbox(Generic[T]):
    def __init__(self, capacity: int) -> None:
        self._in, self._out = trio.open_memory_channel[T](capacity)
        self.given = self.taken = 0  # items so far
        self._is_ended = False
        self._owner: trio.lowlevel.Task | None = None  # while it waits
        self._lent: Callable[[], bool] | None = None  # while it waits and may be stood in for
        self._is_due = False  # its turn comes at the end of the present step
        self._is_cut = False  # the owner was cancelled while it was stood in for

    def put(self, item: T) -> None:
        """Raises trio.WouldBlock where there is no room."""
        self._in.send_nowait(item)
        self.given += 1
        if self._lent is not None and not self._is_due:
            self._is_due = True
            turns.follow(self)

    def take(self) -> T:
        """The next item. Raises trio.WouldBlock where there is none, and as `wait` does."""
        item = self._out.receive_nowait()
        self.taken += 1
        return item

    def end(self) -> None:
        """Nothing more is put in: the owner takes what is left."""
        self._in.close()
        self._finish()

    def close(self) -> None:
        """Nothing more is taken."""
        self._out.close()
        self._finish()

    def _finish(self) -> None:
        self._is_ended = True
        if self._lent is not None:  # while it is stood in for it is woken behind that
            self.wake()

    async def wait(self, take: Callable[[], bool]) -> None:
        """Return when there is something to be taken.

        Meanwhile `take`, which must not wait, may be called to take what there is, and says whether that will do: if it
        leaves something, or says False, this returns; what it raises, this raises.

        Raises trio.EndOfChannel after the last item, trio.ClosedResourceError once it is closed.
        """
        if self.taken == self.given and not self._is_ended:
            assert self._owner is None
            self._owner, self._lent, self._is_cut = trio.lowlevel.current_task(), take, False
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        else:
            await trio.lowlevel.checkpoint()
        if self.taken == self.given and self._is_ended:
            self._out.receive_nowait()  # there is nothing: it raises

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        if self._lent is None:  # woken as soon as that is over
            self._is_cut = True
            return trio.lowlevel.Abort.FAILED
        self._owner = self._lent = None
        return trio.lowlevel.Abort.SUCCEEDED

    # --- the owner's turn (see turns.Follower) ---

    def call(self) -> None:
        take, self._lent, self._is_due = self._lent, None, False
        if take is None:
            return
        try:
            will_do = take()
        except BaseException as error:
            self._wake(outcome.Error(error))
            return
        if will_do and self.taken == self.given and not (self._is_ended or self._is_cut):
            self._lent = take
        else:
            self._wake()

    def wake(self) -> None:
        self._wake()

    def _wake(self, error: outcome.Error | None = None) -> None:
        owner, self._owner, self._lent, self._is_due = self._owner, None, None, False
        if owner is not None:
            trio.lowlevel.reschedule(owner, error or outcome.Value(None))
