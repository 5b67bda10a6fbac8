"""Sinks: what feeds say, written to other people's systems.

`sink.py` keeps what is to be written and says how that goes; `rows.py` decides what a row looks like, `patterns.py`
which topics are meant; `kafka.py` alone knows the broker's client. Nothing here is ever waited for by a feed.
"""
