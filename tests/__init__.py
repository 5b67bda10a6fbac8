"""Tests: of one module each, or of the running program; what they share is in daemon_fixtures and served."""
