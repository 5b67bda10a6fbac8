"""What feeds say, said to the engine: one writer for each lane, who numbers it.

`writer.py` decides what is said, without I/O, from what `hearing.py` remembers and `closes.py` knows of bars;
`relay.py` leads lanes; `saying.py` says what those of all exchanges have to say; `sharing.py` copies into the streams
over everything. `members.py` knows which nodes are there, `claims.py` what of an exchange is this node's. One that does
not lead a lane remembers what it would have said, so that it can go on where another one stopped.
"""
