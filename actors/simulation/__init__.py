"""The seeded market and the server under every simulated exchange. Simulators, `daemon/demo.py` and tests alone import
it: the program never knows that its exchange is simulated.
"""
