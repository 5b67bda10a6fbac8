"""One socket that carries many feeds' topics, and the sockets of one exchange together. What frames mean is the
session's business, in the exchange's folder.
"""
