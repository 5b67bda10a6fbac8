"""Hypercorn, guarded: connections, protocol, way out. Knows no market and no route; one connection's fault ends that
connection and nothing else.
"""
