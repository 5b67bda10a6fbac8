"""The HTTP face: REST routes and WebSocket streams over the feeds."""
