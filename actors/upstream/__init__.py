"""How an exchange is reached, and how much of it. Only here are connections to the outer world made; nothing here knows
what a market is.
"""
