"""Requests and their answers. What memory can answer is answered before the framework sees the request."""
