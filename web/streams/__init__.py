"""Topics to clients: an event is encoded once, numbered, remembered, written to every client; none is waited for."""
