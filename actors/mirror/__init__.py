"""The mirror of an exchange: what its lanes' writers say to the engine, told on this node to whoever reads.

Nothing here reaches an exchange. Order, gaps and numbers are the writers'.
"""
