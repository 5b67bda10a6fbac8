"""The exchange-shaped façade: requests and streams in an exchange's own dialect, answered out of what is held here,
else asked of the exchange once for all who ask. Knows no exchange; each brings its dialect as a `Facade`.
"""
