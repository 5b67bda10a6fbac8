"""Tests mirror the program's folders; what some of them share lies beside what it serves. Benchmarks are programs of
their own.
"""
