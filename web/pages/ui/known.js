// What every part wants to know: exchanges, the catalogue, and the state of each feed.
import { every } from "./dom.js";
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
