"""Measurements of the running program; none of them is a test, and nothing here is imported by one."""
