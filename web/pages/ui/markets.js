// Every collected market, grouped by base, venues side by side; and spikes of open interest.
import * as d from "./dom.js";
import { baseOf, exchanges, heard, instruments, keyOf, nameOf, onStates, places, states } from "./known.js";
import { follow } from "./wire.js";

const PAINT_EVERY = 250, ORDER_EVERY = 15_000, SPIKES_MAX = 100, FLASHING_MAX = 60; // rows; more would flicker
const box = d.panel("markets"), markets = new Map(), stops = [];
let timer = 0, sorting = { by: "base", isFalling: false };

const times = (one, other) => (one === undefined || other === undefined ? null : one * other);
const share = ({ day }) => (day ? day.close / day.open - 1 : null);
const yearly = ({ funding }) => (funding?.funding_interval_hours ? funding.funding_rate * (8760 / funding.funding_interval_hours) : null);
const turnover = ({ day }) => day?.quote_volume ?? times(day?.volume, day?.close);
const interestValue = ({ oi, day }) => times(oi?.open_interest, day?.close);
const stateOf = ({ exchange, symbol }) => states.get(keyOf(exchange, symbol))?.state ?? "";
const SORTED_BY = {
  exchange: (market) => market.exchange, symbol: (market) => market.symbol, state: stateOf, change: share, turnover, "interest-value": interestValue,
  last: ({ day }) => day?.close, volume: ({ day }) => day?.volume, interest: ({ oi }) => oi?.open_interest, funding: ({ funding }) => funding?.funding_rate, year: yearly,
};

// Order is made when it is asked for and every quarter of a minute, not with every price: rows must not run away.
function arrange() {
  const { by, isFalling } = sorting, told = SORTED_BY[by];
  const grouped = (a, b) => a.base.localeCompare(b.base) || a.exchange.localeCompare(b.exchange);
  const valued = (a, b) => {
    const [one, other] = [told(a) ?? null, told(b) ?? null];
    if (one === null || other === null) return (one === null) - (other === null) || grouped(a, b); // what is not known comes last
    return (one < other ? -1 : one > other ? 1 : 0) * (isFalling ? -1 : 1) || grouped(a, b);
  };
  const order = [...markets.values()].sort(told ? valued : grouped);
  markets.clear();
  for (const market of order) markets.set(keyOf(market.exchange, market.symbol), market);
}

function sort(by) {
  const isText = ["base", "exchange", "symbol", "state"].includes(by);
  sorting = { by, isFalling: sorting.by === by ? !sorting.isFalling && by !== "base" : !isText };
  for (const head of box.querySelectorAll("th")) {
    if (head.dataset.sort === by) head.setAttribute("aria-sort", sorting.isFalling ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  arrange();
  paint();
}

function paint() {
  clearTimeout(timer);
  timer = 0;
  if (!stops.length) return;
  const list = [...markets.values()], isGrouped = sorting.by === "base", flash = list.length <= FLASHING_MAX;
  const wide = new Map(); // base → most decimals of its venues
  for (const { exchange, symbol, base, day } of list) wide.set(base, Math.max(wide.get(base) ?? 0, places(exchange, symbol, day?.open, day?.high, day?.low, day?.close)));
  let former = null;
  d.rows(box.querySelector("tbody"), list, {
    key: ({ exchange, symbol }) => keyOf(exchange, symbol),
    data: ({ exchange, symbol, base }) => {
      const isFirst = isGrouped && base !== former;
      former = base;
      return { exchange, symbol, group: isFirst ? "first" : "" };
    },
    cells: (market) => {
      const { exchange, symbol, base, day, oi, funding } = market;
      const change = share(market), year = yearly(market), state = stateOf(market);
      return [
        { text: base, kind: "base" },
        { text: nameOf(exchange) },
        { text: symbol, link: d.chartLink(exchange, symbol, "1m") },
        { field: "last", value: day?.close ?? "", text: d.aligned(day?.close, places(exchange, symbol), isGrouped ? wide.get(base) : 0), kind: "n strong", flash },
        { text: change === null ? "" : d.change(change), kind: change === null ? "n" : d.direction(change) },
        { text: d.number(day?.volume, 0), kind: "n" },
        { text: d.compact(turnover(market)), kind: "n dim" },
        { field: "open_interest", value: oi?.open_interest ?? "", text: d.number(oi?.open_interest, 0), kind: "n" },
        { text: d.compact(interestValue(market)), kind: "n dim" },
        { field: "funding_rate", value: funding?.funding_rate ?? "", text: funding ? d.percent(funding.funding_rate, 4) : "", kind: funding ? d.direction(funding.funding_rate) : "n" },
        { text: year === null ? "" : d.percent(year, 1), kind: "n" },
        { field: "state", value: state, text: state && `● ${state}`, kind: state === "live" ? "up" : "warn" },
      ];
    },
  });
  const live = list.filter((market) => stateOf(market) === "live").length;
  d.say(d.role("count", box), list.length ? `${live} of ${list.length} live` : "");
  d.note(box, list.length ? "" : "No market is collected yet");
}

const later = () => stops.length && (timer ||= setTimeout(() => d.soon(paint), PAINT_EVERY));

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
  stops.push(d.every(ORDER_EVERY, arrange));
  paint();
}

export function leave() {
  for (const stop of stops.splice(0)) stop();
  markets.clear();
  box.querySelector("tbody").replaceChildren(); // a hidden page has no rows
}

export function start() {
  for (const head of box.querySelectorAll("th[data-sort]")) {
    const button = d.make("button", { type: "button", text: head.textContent });
    button.addEventListener("click", () => sort(head.dataset.sort));
    head.replaceChildren(button);
  }
  startSpikes();
}

function startSpikes() {
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
