"""What is said on `/ws` besides topics: the commands of a client and the answers to them. Only data lives here.

A refusal is a Problem whose `type` is "error", with the command's `id` and the topic it is about where there is one.
"""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from web.streams.memory import Position

Id = int | Annotated[str, Meta(max_length=64)]
NAME_LENGTH = 200
Name = Annotated[str, Meta(max_length=NAME_LENGTH)]


class Subscribe(Struct, frozen=True, tag_field="op", tag="subscribe", forbid_unknown_fields=True):
    """Follow topics. `since`: by topic, the last event the client had. `backfill`: closed bars to be told before what
    is live, of those topics that are bars."""

    topics: Annotated[list[Name], Meta(min_length=1, max_length=10_000)]
    id: Id | None = None
    since: dict[Name, Position] = {}
    backfill: Annotated[int, Meta(ge=1, le=1500)] | None = None


class Unsubscribe(Struct, frozen=True, tag_field="op", tag="unsubscribe", forbid_unknown_fields=True):
    """Leave topics."""

    topics: Annotated[list[Name], Meta(min_length=1, max_length=10_000)]
    id: Id | None = None


class Ping(Struct, frozen=True, tag_field="op", tag="ping"):
    """Answered by `pong`."""

    id: Id | None = None


class Ack(Struct, frozen=True, kw_only=True, tag_field="type", tag="ack"):
    """The topics that a command changed, each by its one name."""

    id: Id | UnsetType = UNSET
    topics: list[str]


class Pong(Struct, frozen=True, tag_field="type", tag="pong"):
    """Answers a ping."""

    id: Id | UnsetType = UNSET


class Live(Struct, frozen=True, tag_field="type", tag="live"):
    """The past of a topic has been told; what follows is its present."""

    topic: str
