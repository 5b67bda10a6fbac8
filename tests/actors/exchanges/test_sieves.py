"""What goes on to a façade's clients: once, in order, what was missed first."""

from actors.exchanges.sieves import LATE, Bar, Bars, Distinct, Found, Identified, Numbered, Remembered


def number(frame: bytes) -> tuple[int, int]:
    return int(frame), int(frame)


def found(*numbers: int) -> list[Found]:
    return [Found(one, one, b"%d" % one) for one in numbers]


def test_numbered_trades_wait_for_those_before_them() -> None:
    sieve = Numbered(number)
    assert sieve.take(b"5") == (b"5",)
    assert sieve.take(b"5") == ()
    assert sieve.take(b"8") == []
    assert sieve.take(b"9") == []
    assert sieve.waits
    assert sieve.learn(found(4, 5, 6), 0) == [b"6"]
    assert sieve.learn(found(6, 7), 0) == [b"7", b"8", b"9"]
    assert not sieve.waits
    assert sieve.take(b"10") == [b"10"]


def test_numbered_trades_that_nobody_has_are_waited_for_no_longer() -> None:
    sieve = Numbered(number)
    sieve.take(b"1")
    sieve.take(b"4")
    sieve.take(b"3")
    assert sieve.give_up() == [b"3", b"4"]
    assert sieve.take(b"5") == [b"5"]
    assert sieve.take(b"3") == ()


def test_trades_that_are_counted_anew_go_on() -> None:
    sieve = Numbered(lambda frame: (int(frame) % 100, int(frame)))
    assert sieve.take(b"190") == (b"190",)
    assert sieve.take(b"201") == (b"201",)
    assert sieve.take(b"202") == [b"202"]


def ids(frame: bytes) -> list[tuple[str, int]]:
    return [(one, ord(one)) for one in frame.decode()]


def identified() -> Identified:
    return Identified(ids, lambda frame, known: "".join(c for c in frame.decode() if c not in known).encode())


def test_trades_by_id_are_told_once() -> None:
    sieve = identified()
    assert sieve.take(b"ab") == (b"ab",)
    assert sieve.take(b"bc") == (b"c",)
    assert sieve.take(b"ac") == ()


def test_trades_by_id_are_joined_to_what_the_exchange_shows() -> None:
    sieve = identified()
    sieve.take(b"bc")
    sieve.interrupt()
    assert sieve.take(b"f") == ()
    older, whole = [Found(c, ord(c), c.encode()) for c in "abcd"], [Found(c, ord(c), c.encode()) for c in "abcdef"]
    assert sieve.learn(older, 0) == (), "it does not reach what waits"
    assert sieve.learn(whole, 0) == [b"d", b"e", b"f"]
    assert sieve.take(b"g") == (b"g",)


def bar(frame: bytes) -> Bar:
    """`12.` is the last word on the bar that opens at 12; `11.12a` says that of the one before it, too."""
    opens = [*map(int, frame.rstrip(b".ab").split(b"."))]
    return Bar(opens[-1], opens[-1] + 1, frame.endswith(b"."), 0, opens[0])


def missed(*opens: int) -> list[Found]:
    return [Found(one, one + 1, b"%d." % one) for one in opens]


def test_a_bar_is_closed_once() -> None:
    sieve = Bars(bar)
    frames = (b"1a", b"1b", b"1.", b"1b", b"1.", b"2a", b"2a")
    assert [list(sieve.take(frame)) for frame in frames] == [[b"1a"], [b"1b"], [b"1."], [], [], [b"2a"], []]


def test_a_bar_that_is_closed_after_the_next_one_has_begun_is_closed_first() -> None:
    sieve = Bars(bar)
    frames = (b"1a", b"2a", b"1b", b"1.", b"1.", b"2b")
    assert [told for frame in frames for told in sieve.take(frame)] == [b"1a", b"1.", b"2a", b"2b"]


def test_bars_that_ended_unheard_come_first() -> None:
    sieve = Bars(bar)
    sieve.take(b"1a")
    sieve.interrupt()
    assert sieve.take(b"3a") == ()
    assert sieve.take(b"3b") == ()
    assert sieve.learn(missed(1), 0) == (), "not all of them"
    assert sieve.learn(missed(0, 1, 2, 3), 0) == [b"1.", b"2.", b"3a", b"3b"]
    assert sieve.take(b"3.") == (b"3.",)


def test_bars_found_before_the_stream_comes_again_count_where_another_follows_them() -> None:
    """REST may be asked and answer before the other connection is up that carries bars."""
    sieve = Bars(bar)
    sieve.take(b"1a")
    sieve.interrupt()
    assert sieve.heeds
    assert sieve.learn(missed(0, 1, 2, 3), 0) == []
    assert sieve.take(b"3a") == [b"1.", b"2.", b"3a"]
    sieve.interrupt()
    assert sieve.learn(missed(3, 4), 0) == []
    assert sieve.take(b"5a") == (), "the bar of 4 was not over when it was found"
    assert sieve.learn(missed(3, 4), 0) == [b"3.", b"4.", b"5a"]


def test_a_bar_whose_closing_frame_did_not_come_is_closed_by_what_is_found() -> None:
    sieve = Bars(bar)
    sieve.take(b"1a")
    assert sieve.take(b"2a") == (), "the connection was not lost, and yet"
    assert sieve.learn(missed(1, 2), 0) == [b"1.", b"2a"]
    assert sieve.take(b"2.") == (b"2.",)
    assert sieve.take(b"4a") == (), "nor is a whole bar left out"
    assert sieve.learn(missed(3, 4), 0) == [b"3.", b"4a"]


def test_a_frame_may_close_one_bar_and_begin_the_next() -> None:
    sieve = Bars(bar)
    sieve.take(b"1a")
    assert sieve.take(b"1.2a") == (b"1.2a",)
    assert sieve.take(b"3.4a") == (), "but not the one before"
    assert sieve.learn(missed(2, 3, 4), 0) == [b"2.", b"3.", b"3.4a"]


def test_where_nothing_says_that_a_bar_is_over_the_next_one_does() -> None:
    sieve = Bars(bar, has_holes=True)
    assert [list(sieve.take(frame)) for frame in (b"1a", b"2a", b"9a")] == [[b"1a"], [b"2a"], [b"9a"]]


def test_bars_of_a_quiet_market_are_told_when_their_closing_frames_are_overdue() -> None:
    sieve = Bars(bar)
    sieve.take(b"1.")
    assert sieve.learn(missed(0, 1, 2, 3, 4), 3 + LATE) == [b"2."], "that of 3 may still come"
    assert sieve.take(b"3.") == (b"3.",)
    assert sieve.learn(missed(2, 3, 4, 5, 6), 10 + LATE) == [b"4.", b"5."], "nothing follows 6"
    assert sieve.take(b"5.") == ()
    assert sieve.take(b"6.") == (b"6.",)
    assert sieve.learn(missed(8, 9), 10 + LATE) == [], "where 7 is, nobody says"


def test_an_outage_within_a_bar_is_no_matter() -> None:
    sieve = Bars(bar)
    sieve.take(b"1a")
    sieve.interrupt()
    assert sieve.take(b"1b") == (b"1b",)
    sieve.take(b"1.")
    sieve.interrupt()
    assert sieve.take(b"2a") == (b"2a",), "nothing lies between"


def test_where_bars_have_holes_those_found_are_all() -> None:
    sieve = Bars(bar, has_holes=True, greets=True)
    sieve.take(b"1a")
    sieve.interrupt()
    sieve.take(b"9a")
    assert sieve.greeting() == (b"1a",)
    assert sieve.learn(missed(1, 4), 0) == [b"1.", b"4.", b"9a"]
    assert sieve.greeting() == (b"9a",)


def test_equal_frames_of_two_connections_are_one() -> None:
    sieve = Remembered(Distinct())
    assert [list(sieve.take(frame)) for frame in (b"1", b"1", b"2", b"1")] == [[b"1"], [], [b"2"], []]
