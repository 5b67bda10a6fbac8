"""Who may ask, for what and how much: hosts, origins, credentials, keys, limits, connections of one client.

Nothing here knows a market or a route's answer; what a request costs is told by its caller.
"""
