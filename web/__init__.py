"""The HTTP face: REST routes and WebSocket streams over the feeds. No exchange is named, and no task waits for one
client while others want their data.
"""
