"""The server in the middle of several machines: one log per lane, memory per topic, the present, and who may write.

The engine decides who writes a lane and refuses everybody else; it numbers nothing, the writer does. Nothing here knows
feeds, clients or the configuration, and `remote.py` alone knows the library that speaks to a server. `words.py` says
what an engine promises; `memory.py` keeps the same promises within a process, for tests that control time.
"""
