// What every part wants to know: exchanges, the catalogue, and the state of each feed.
import { decimals, every } from "./dom.js";
import { ask } from "./wire.js";

export const exchanges = new Map(); // name → as /exchanges tells it
export const instruments = new Map(); // "exchange symbol" → as /symbols tells it
export const states = new Map(); // "exchange symbol" → as /health tells it
export let since = null; // when the daemon's first feed began

const listeners = new Set();
export const onStates = (tell) => listeners.add(tell);
export const keyOf = (exchange, symbol) => `${exchange} ${symbol}`;
export const baseOf = (exchange, symbol) => instruments.get(keyOf(exchange, symbol))?.base ?? symbol.replace(/[-_]?USD[TC]?.*$/, "");
export const nameOf = (exchange) => (exchange.length > 3 ? exchange.charAt(0).toUpperCase() + exchange.slice(1) : exchange.toUpperCase());

// Decimals of a market's prices: as many as came, within the tick's. Where an exchange takes five digits of any price,
// the tick alone would show zeros that no price can have. They never become fewer, so that columns stay where they are.
const seen = new Map();
export function places(exchange, symbol, ...prices) {
  const key = keyOf(exchange, symbol), most = decimals(instruments.get(key)?.tick_size);
  let found = seen.get(key) ?? 0;
  for (const price of prices) if (found < most && price) found = Math.max(found, Math.min(most, decimals(price)));
  seen.set(key, found);
  return found;
}

export function heard(exchange, symbol, { state, reason, next_retry }) {
  states.set(keyOf(exchange, symbol), { ...states.get(keyOf(exchange, symbol)), exchange, symbol, state, reason, next_retry });
  for (const tell of listeners) tell();
}

export async function learn() {
  const [told, listed] = await Promise.all([ask("exchanges"), ask("symbols")]);
  for (const exchange of told.exchanges) exchanges.set(exchange.name, exchange);
  for (const one of listed) instruments.set(keyOf(one.exchange, one.symbol), one);
}

export function watch() {
  every(5000, async () => {
    try {
      const { feeds } = await ask("health");
      for (const feed of feeds) {
        states.set(keyOf(feed.exchange, feed.symbol), feed);
        if (since === null || feed.since < since) since = feed.since;
      }
    } catch {
      return; // the socket's state says that the daemon is away
    }
    for (const tell of listeners) tell();
  });
}
