"""TradingView's chart by URL: its UDF protocol over the same bars, catalogue and liquidations.

Law: the adapter that asks is not ours. It ignores the HTTP status, so every error says `s: "error"` in its body; it
asks for the last bars every few seconds for ever, so those come from memory. Nothing is ever `no_data` because an
exchange failed: the chart would never ask again.
Source: https://www.tradingview.com/charting-library-docs/latest/connecting_data/UDF/
"""
