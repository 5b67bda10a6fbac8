"""One exchange, one symbol: order, gaps, bars closed once, last values. Nothing here opens a connection, and no
exchange is named.
"""
