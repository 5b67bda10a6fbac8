"""How often OKX may be asked: each endpoint has an allowance of its own, and none says how much of it is left."""

from actors.upstream.budget import Window

# Requests within 2 seconds, counted for each endpoint by itself. The catalogue's and the clock's go to "weight".
LIMITS = {
    "candles": 40,
    "history-candles": 20,
    "trades": 100,
    "history-trades": 10,  # 20 by the documents; others have found less
    "open-interest": 20,
    "open-interest-history": 10,
    "funding-rate": 10,
    "funding-rate-history": 10,
    "mark-price": 10,
    "ticker": 20,
    "tickers": 20,
    "books": 20,  # not looked up: what most have
    "liquidation-orders": 10,  # once documented as 40, and seen to refuse bursts
    "other": 10,  # of the façade's clients, all together
    "weight": 10,
}
BUDGET = {name: Window(limit, 2.0) for name, limit in LIMITS.items()}
BUDGET["status"] = Window(2, 12.5)  # one in five seconds
PATHS = {
    "/api/v5/market/candles": "candles",
    "/api/v5/market/history-candles": "history-candles",
    "/api/v5/market/trades": "trades",
    "/api/v5/market/history-trades": "history-trades",
    "/api/v5/public/open-interest": "open-interest",
    "/api/v5/rubik/stat/contracts/open-interest-history": "open-interest-history",
    "/api/v5/public/funding-rate": "funding-rate",
    "/api/v5/public/funding-rate-history": "funding-rate-history",
    "/api/v5/public/mark-price": "mark-price",
    "/api/v5/public/instruments": "weight",
    "/api/v5/public/liquidation-orders": "liquidation-orders",
    "/api/v5/system/status": "status",
    "/api/v5/market/ticker": "ticker",
    "/api/v5/market/tickers": "tickers",
    "/api/v5/market/books": "books",
}
