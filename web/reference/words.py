"""What the OpenAPI document says in words: the meaning of fields, parameters and codes. Only text lives here."""

from actors.exchanges.exchange import load_exchanges

ABOUT = """\
Bars, trades, liquidations, funding and open interest of crypto derivatives exchanges, in one shape for all of them.

**Times** in answers are ISO 8601 in UTC, ending in `Z`. In queries they are Unix milliseconds or ISO 8601, and ranges \
are half-open: `[start_time, end_time)`. **Lists** ascend by time. **Symbols** are the exchange's own spelling, in any \
case where that is unambiguous. **Quantities** are in units of the base asset, **values** in units of the quote asset. \
A field is `null` where the exchange does not say.

**Errors** are `application/problem+json` (RFC 9457): `detail` is for a person, `code` is for programs. A query \
parameter that a route does not know is an error, so that a misspelt one is never ignored.

**Streams** are WebSockets: `/ws-catalog` lists them, `/asyncapi.json` describes every frame. `/sse` carries the same \
to programs that only have an HTTP client. TradingView's charts load bars from `/udf`, in the protocol of that name."""

TAGS = {
    "daemon": "The daemon itself: its health, its exchanges, their instruments.",
    "market data": "One exchange's data on one symbol: from memory where it is current, else asked of the exchange.",
    "archive": "What this daemon has kept on its own disk.",
    "all exchanges": "One question to every exchange at once. One that fails is explained under `errors`.",
    "streams": "What happens, as it happens.",
}

PARAMETERS = {
    "exchange": "Name of an exchange, in any case",
    "symbol": "The exchange's own symbol: letters of any script, and a colon where the exchange uses one (`xyz:AAPL`)",
    "interval": "Length of a bar; `/exchanges` says which an exchange has",
    "period": "Time between two rows",
    "coin": "One coin, in any case",
    "kind": "What to export; the two of `_history` are what exchanges tell afterwards, the others what was seen",
    "format": "Kind of file; `parquet` and `arrow` need the extra `arrow`",
    "limit": "Most rows to answer: the first of the range where it has a start, else the last ones",
    "start_time": "Start of the range, inclusive",
    "end_time": "End of the range, exclusive",
}

CODES = {
    "unknown_exchange": "There is no such exchange here; the detail names those there are.",
    "unknown_symbol": "The exchange lists no such symbol, or it is not collected here.",
    "unknown_interval": "The exchange has no bars of this length; the detail names those it has.",
    "unsupported": "The exchange has no such data.",
    "not_found": "There is nothing at this path.",
    "unauthorized": "A key is needed here, or the one given is not valid.",
    "forbidden": "The key does not allow this; the detail names the scope that would.",
    "method_not_allowed": "Every route is read with GET.",
    "unknown_host": "The `Host` header names none that this daemon answers to (`server.allowed_hosts`).",
    "invalid_parameter": "A query parameter is unknown, repeated or unusable; `errors` names every bad one.",
    "range_not_satisfiable": "The file has nothing within the range that was asked for; `Content-Range` says its size.",
    "invalid_command": "What was sent on /ws is not a command: malformed JSON, an unknown `op` or field.",
    "invalid_config": "The configuration to be loaded is wrong; the detail says where. Nothing was changed.",
    "rate_limited": "This client asked for more than its share; `limit` names the limit.",
    "too_many_topics": "The connection follows as many topics as one may; unsubscribe from some, or open another.",
    "too_many_commands": "The connection sends more commands a second than one may; this one was ignored.",
    "upgrade_required": "This is a WebSocket path; connect to it with a WebSocket client.",
    "bad_request": "The request has no `Host` header.",
    "forbidden_origin": "The configuration does not allow pages of this origin to open streams.",
    "overloaded": "The daemon has no room for more at the moment; the detail says of what.",
    "upstream_error": "The exchange refused the request or broke.",
    "upstream_geo_blocked": "The exchange does not serve the region that this daemon runs in.",
    "upstream_limited": "The exchange's rate limit is used up, or it has banned this address for a while.",
    "upstream_timeout": "The exchange did not answer in time.",
    "not_ready": "What was asked for has not arrived from the exchange yet.",
    "internal_error": "The daemon failed to answer; its log says why.",
}
"""What each problem's `code` means."""

FIELDS = {
    "exchange": "Name of the exchange",
    "symbol": "The exchange's own symbol",
    "timestamp": "When it happened, at the exchange",
    "Ohlc.timestamp": "Open of the bar",
    "OhlcAcross.timestamp": "Open of the bar",
    "interval": "Length of the bar",
    "open": "First price",
    "high": "Highest price",
    "low": "Lowest price",
    "close": "Last price so far",
    "volume": "Traded quantity, in base units",
    "quote_volume": "Traded value, in quote units",
    "trades_count": "Number of trades",
    "is_closed": "Whether the bar can no longer change",
    "side": "The aggressor's side",
    "Liquidation.side": "`sell`: a long was liquidated; `buy`: a short",
    "price": "In quote units per base unit",
    "Liquidation.price": "Average fill price where the exchange gives it",
    "method": "`market`: filled by the book; `backstop`: taken over by the exchange's liquidator vault; left out where "
    "that cannot be told",
    "partial": "Inferred from public trades, which show some liquidations only (Hyperliquid); left out elsewhere",
    "quantity": "In base units",
    "value": "Price times quantity, in quote units",
    "is_buyer_maker": "Whether the buyer's order was resting in the book",
    "trade_id": "The exchange's own",
    "open_interest": "Open contracts of one side, in base units",
    "open_interest_value": "The same in quote units",
    "funding_rate": "As a decimal per funding interval; positive: longs pay shorts",
    "funding_time": "When the rate applies",
    "funding_interval_hours": "Hours between two payments of funding",
    "mark_price": "In quote units per base unit",
    "base": "Base asset",
    "quote": "Quote asset, in which prices are",
    "settle": "Asset in which profit and loss are paid",
    "tick_size": "Smallest step of a price",
    "step_size": "Smallest step of a quantity",
    "contract_size": "Base units in one contract, where the exchange counts in contracts; left out elsewhere",
    "Instrument.status": "`TRADING`, or the exchange's own word for why it is not",
    "name": "Name of the exchange",
    "Root.name": "`marketd`",
    "version": "Version of the daemon",
    "Live.status": "It answers, so it lives",
    "Ready.status": "`ready` when every exchange has a live feed",
    "Root.status": "State of all feeds together",
    "Root.docs": "Path of the API's pages",
    "Root.exchanges": "Names of the exchanges",
    "ExchangesAnswer.exchanges": "One entry per exchange",
    "Health.status": "`healthy` when every feed is live, `starting` while some have yet to begin, else `degraded`",
    "Health.exchanges": "By exchange: whether at least one of its feeds delivers",
    "Health.feeds": "Every feed",
    "Health.archive": "The archive; null where it is switched off",
    "ArchiveReport.state": "`failing`: the disk does not take what is written; it waits in memory, within a bound",
    "ArchiveReport.reason": "What the disk or the database says",
    "written": "Rows on disk",
    "pending": "Rows that wait in memory",
    "dropped": "Rows lost because memory was full while the disk took none",
    "lagged": "Times that events were lost because they came faster than they were collected",
    "multiplier": "Tokens in one unit of the exchange's own contract (1000 of 1000PEPE and kPEPE), while prices and "
    "quantities are of the unit that was asked for; left out where both are single tokens",
    "LiquidationBar.timestamp": "Open of the bar",
    "LargeTradeBar.timestamp": "Open of the bar",
    "count": "How many were seen",
    "long_value": "Value of longs that were liquidated, in quote units",
    "short_value": "Value of shorts that were liquidated, in quote units",
    "buy_value": "Value of those whose aggressor bought, in quote units",
    "sell_value": "Value of those whose aggressor sold, in quote units",
    "state": "`stale`: connected, but data no longer comes; `failed`: given up",
    "since": "When the state began",
    "restarts": "How often the feed had to be restarted",
    "last_event": "When the last event came",
    "reason": "Why it is not live",
    "next_retry": "When the next attempt is due",
    "Health.budgets": "By exchange: how much was asked of its REST host lately",
    "budget": "How much was asked of its REST host lately",
    "buckets": "What the exchange counts, each by itself",
    "BucketReport.name": "Name of the count",
    "used": "Weight spent within the window",
    "BucketReport.limit": "Weight that the exchange allows within the window",
    "by": "Of the used weight our own, by whom it was spent for",
    "window_seconds": "Length of the window",
    "waiting": "Background requests that wait for room",
    "closed_for": "Seconds until requests may leave again, after a rate limit or a ban",
    "closed_reason": "Why none may leave",
    "FeedQuality.state": "State of the feed",
    "clock_skew_ms": "The exchange's clock minus ours, in milliseconds",
    "topics": "One entry per topic that said anything since the feed began",
    "TopicReport.topic": "Name of the topic",
    "TopicReport.since": "When the first event was received",
    "events": "Events told to readers",
    "covered": "Share of the time since then without unrepaired loss, 0 to 1",
    "gaps_repaired": "Losses that were noticed and fetched",
    "gaps_unrepaired": "Losses that could not be had again",
    "gaps": "The recent ones of both",
    "Gap.from": "Start of the lost range, inclusive",
    "Gap.to": "End of the lost range, exclusive",
    "Gap.timestamp": "When it was noticed, at the exchange",
    "Gap.reason": "What happened",
    "repaired": "Whether the range was fetched and told before anything newer",
    "duplicates": "Events that came more than once, or too late, and were dropped",
    "TopicReport.last_event": "When the newest event was received",
    "last_event_age": "Seconds since then",
    "lag": "From the exchange's pushing to our receiving, without the skew of the clocks",
    "median_ms": "Half of the recent events were faster",
    "p99_ms": "99 of 100 of the recent events were faster",
    "reasons": "By exchange: why it is not ready",
    "capabilities": "By kind of data: `true`, `false`, or `partial` where the exchange holds some of it back",
    "symbols": "Symbols collected now",
    "intervals": "Lengths of bars",
    "Problem.type": "A URN of the code",
    "title": "The status in words",
    "Problem.status": "The HTTP status",
    "detail": "What is wrong, in a sentence for a person",
    "code": "What is wrong, for programs",
    "errors": "Every bad parameter",
    "retry_after": "Seconds to wait, as in the `Retry-After` header",
    "limit": "Of `rate_limited`: which of the limits of one client, by its key within `[limits]`",
    "parameter": "Its name",
    "streams": "One entry per stream",
    "coin": "The coin, as this exchange spells it",
    "venues": "What each venue is going to charge",
    "venue": "Name of the venue",
    "next_funding_time": "When the rate applies",
    "path": "Path to connect to",
    "summary": "What it carries",
    "topic": "Name of the stream in subscriptions",
    "parameters": "Query parameters that it takes",
    "event": "`type` of its frames; `any` where that is up to the topics",
    "example": "A path that works here",
    **{name: f"The answer of {name}" for name in load_exchanges()},
}
"""What a field means: by `Struct.field`, else by the field's name alone."""

KEYS = """\
A key of this daemon, which its operator makes by `marketd key new`; needed where the configuration does not let \
everybody in. A key that is unknown, has expired or was revoked is refused everywhere. What it may do is its scopes: \
`read`, `export`, `metrics`, `admin` (all of them)."""
CHALLENGE = 'What is needed: `Bearer realm="marketd"`, and what is wrong with the key that was given'
RATE_LIMIT = {
    "RateLimit-Policy": "Requests at once (`q`), and the seconds in which they are earned anew (`w`); on every answer "
    "to a client that has a limit",
    "RateLimit": "What is left of them (`r`), and the seconds until all are there again (`t`); on the same answers",
}
"""Headers of draft-ietf-httpapi-ratelimit-headers-10."""
