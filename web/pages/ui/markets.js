// Every collected market, grouped by base, venues side by side; and spikes of open interest.
import * as d from "./dom.js";
import { baseOf, exchanges, heard, instruments, keyOf, nameOf, onStates, states } from "./known.js";
import { follow } from "./wire.js";

const PAINT_EVERY = 250, SPIKES_MAX = 100;
const box = d.panel("markets"), markets = new Map(), stops = [];
let timer = 0;

function paint() {
  timer = 0;
  const list = [...markets.values()];
  d.rows(box.querySelector("tbody"), list, {
    key: ({ exchange, symbol }) => keyOf(exchange, symbol),
    data: ({ exchange, symbol }) => ({ exchange, symbol }),
    cells: ({ exchange, symbol, base, one, day, oi, funding }) => {
      const change = day ? day.close / day.open - 1 : null, places = d.decimals(one?.tick_size);
      const state = states.get(keyOf(exchange, symbol))?.state;
      return [
        { text: base },
        { text: nameOf(exchange) },
        { text: symbol, link: d.chartLink(exchange, symbol, "1m") },
        { field: "last", value: day?.close ?? "", text: d.number(day?.close, places), kind: "n" },
        { text: change === null ? "" : `${change < 0 ? "▼" : "▲"} ${d.percent(change)}`, kind: change === null ? "n" : d.direction(change) },
        { text: d.number(day?.volume, 0), kind: "n" },
        { field: "open_interest", value: oi?.open_interest ?? "", text: d.number(oi?.open_interest, 0), kind: "n" },
        { field: "funding_rate", value: funding?.funding_rate ?? "", text: funding ? d.percent(funding.funding_rate, 4) : "", kind: "n" },
        { field: "state", value: state ?? "", text: state ?? "", kind: state === "live" ? "" : "warn" },
      ];
    },
  });
  d.note(box, list.length ? "" : "No market is collected yet");
}

const later = () => (timer ||= setTimeout(() => d.soon(paint), PAINT_EVERY));

export function open() {
  const all = [...exchanges.values()].flatMap((exchange) => exchange.symbols.map((symbol) => ({ exchange: exchange.name, symbol, can: exchange })));
  for (const { exchange, symbol, can } of all) {
    const market = { exchange, symbol, base: baseOf(exchange, symbol), one: instruments.get(keyOf(exchange, symbol)) };
    markets.set(keyOf(exchange, symbol), market);
    const topic = `${exchange}:${symbol}:`;
    const hear = (name, type) => stops.push(follow(topic + name, (frames) => {
      for (const frame of frames) {
        if (frame.type === type) market[name === "ohlc:1d" ? "day" : name] = frame;
        else if (frame.type === "status") heard(exchange, symbol, frame);
      }
      later();
    }));
    if (can.intervals.includes("1d")) hear("ohlc:1d", "ohlc");
    if (can.capabilities.funding_rate) hear("funding", "funding_rate");
    if (can.capabilities.open_interest) hear("oi", "open_interest");
  }
  const order = [...markets.values()].sort((a, b) => a.base.localeCompare(b.base) || a.exchange.localeCompare(b.exchange));
  markets.clear();
  for (const market of order) markets.set(keyOf(market.exchange, market.symbol), market);
  paint();
}

export function leave() {
  for (const stop of stops.splice(0)) stop();
  markets.clear();
  box.querySelector("tbody").replaceChildren(); // a hidden page has no rows
}

export function start() {
  const spikes = d.panel("spikes"), seen = [];
  let count = 0;
  follow("oi-vol", (frames) => {
    for (const frame of frames) if (frame.type === "oi_spike") seen.unshift({ ...frame, key: `s${count++}` });
    seen.splice(SPIKES_MAX);
    d.soon(() => {
      d.rows(spikes.querySelector("tbody"), seen, {
        key: ({ key }) => key,
        data: ({ exchange, symbol, timestamp }) => ({ exchange, symbol, time: timestamp }),
        cells: (one) => [
          { text: d.clock(one.timestamp) },
          { text: nameOf(one.exchange) },
          { text: one.symbol, link: d.chartLink(one.exchange, one.symbol, one.timeframe) },
          { text: one.timeframe },
          { text: d.number(one.z_oi, 1), kind: "n" },
          { text: d.number(one.z_vol, 1), kind: "n" },
          { text: one.confirmed ? "confirmed" : "not confirmed" },
        ],
      });
      d.note(spikes, seen.length ? "" : "None since this page was opened");
    });
  });
}

onStates(later);
