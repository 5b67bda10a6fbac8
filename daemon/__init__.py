"""The process: starts, watches and stops the others."""
