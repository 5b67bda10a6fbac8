"""The exchange-shaped façade as clients reach it: `/as/{exchange}` and behind it the exchange's own paths.

Below `/as/` every answer has the exchange's shape: no problem+json, no redirect. Knows no exchange.
"""
