// One market's chart: its bars by the socket, its state in a sentence, and the same bars as a table.
import { makeBars, seconds, BARS_MAX } from "./bars.js";
import { canvasBox, makeCanvas } from "./canvas.js";
import * as d from "./dom.js";
import { exchanges, heard, instruments, keyOf, nameOf, onStates, states } from "./known.js";
import { ask, follow, now, onSocket, retryIn } from "./wire.js";

const box = d.panel("chart"), details = d.role("bars-table"), line = d.role("chart-status");
let canvas, shown = null; // the market that is shown, with all that belongs to it

box.drawn = () => canvas?.drawn() ?? [];
export const dress = () => canvas?.dress();
export const move = (by) => canvas?.move(by);

function stateNow() {
  if (shown.error) return "error";
  if (document.documentElement.dataset.socket === "reconnecting") return "disconnected";
  const { state } = states.get(keyOf(shown.exchange, shown.symbol)) ?? {};
  if (!shown.bars.list.length) return state && state !== "live" ? state : "loading";
  return state ?? "live";
}

export function tell() {
  if (!shown) return;
  const state = stateNow(), feed = states.get(keyOf(shown.exchange, shown.symbol));
  box.dataset.state = state;
  const why = feed?.reason ? `: ${feed.reason}` : "";
  const next = feed?.next_retry ? `, next try in ${d.span(Date.parse(feed.next_retry) - now())}` : "";
  const age = shown.heardAt ? `, last update ${d.span(now() - shown.heardAt)} ago` : "";
  d.say(line, {
    loading: "loading", starting: "starting", live: "● Live", error: shown.error,
    stale: `stale${why}${age}`, failed: `failed${why}${age}`,
    down: `reconnecting to ${nameOf(shown.exchange)}${why}${next}${age}`,
    disconnected: `reconnecting to the daemon in ${retryIn()} s${age}`,
  }[state]);
}

function header() {
  const last = shown.bars.list.at(-1), price = d.role("price", box);
  if (!last) return d.say(price, "");
  const day = shown.interval === "1d" ? last : shown.day;
  const change = day ? last.close / day.open - 1 : null;
  d.say(price, `${d.number(last.close, shown.places)}${change === null ? "" : `  ${change < 0 ? "▼" : "▲"} ${d.percent(change)}`}`);
  price.className = `price ${change === null ? "" : change < 0 ? "down" : "up"}`;
}

function paint() {
  if (!shown) return;
  const { bars, pending } = shown, { list } = bars;
  shown.pending = [];
  if (shown.isWhole) {
    canvas.all(list);
    if (!shown.wasPlaced && list.length) canvas.show(list.length);
    shown.wasPlaced ||= list.length > 0;
    shown.isWhole = false;
  } else for (const bar of pending) canvas.append(bar);
  Object.assign(box.dataset, { bars: list.length, first: list[0]?.timestamp ?? "", last: list.at(-1)?.timestamp ?? "" });
  header();
  tell();
  if (details.open && !shown.tableTimer) shown.tableTimer = setTimeout(() => d.soon(table), 350);
}

export function table() {
  if (!shown) return;
  clearTimeout(shown.tableTimer);
  shown.tableTimer = 0;
  if (!details.open) return;
  const cell = (bar, field, places) => ({ field, value: bar[field], text: d.number(bar[field], places), kind: "n" });
  d.rows(details.querySelector("tbody"), shown.bars.list.slice(-120), {
    key: (bar) => bar.timestamp,
    data: (bar) => ({ time: bar.timestamp, closed: bar.is_closed }),
    cells: (bar) => [{ text: d.minute(bar.timestamp) }, ...["open", "high", "low", "close"].map((field) => cell(bar, field, shown.places)), cell(bar, "volume", shown.volumePlaces)],
  });
}
details.addEventListener("toggle", table);

function take(market, frames) {
  if (market !== shown) return;
  const bars = [];
  for (const frame of frames) {
    if (frame.type === "ohlc") bars.push(frame);
    else if (frame.type === "status") heard(market.exchange, market.symbol, frame);
    else if (frame.type === "error") market.error = frame.detail;
    else if (frame.type === "gap" && frame.from) {
      market.gaps = market.gaps.filter((gap) => gap.key !== frame.from);
      if (!frame.repaired && frame.reason !== "resume_too_old") market.gaps.push({ key: frame.from, from: seconds(frame.from), to: frame.to ? seconds(frame.to) : Infinity });
      canvas.gaps(market.gaps);
    }
  }
  add(market, bars);
  if (bars.length) market.heardAt = now();
}

function add(market, bars) {
  const before = new Set(market.bars.list.slice(-2).map((bar) => bar.timestamp)), last = market.bars.list.at(-1);
  if (!market.bars.take(bars)) market.isWhole = true;
  else if (!last) market.isWhole = true;
  else market.pending.push(...bars.filter((bar) => !(last.timestamp === bar.timestamp && last.is_closed && !bar.is_closed && before.has(bar.timestamp))));
  d.soon(paint);
}

async function older() {
  const market = shown, first = market?.bars.list[0];
  if (!first || market.isAsking || market.bars.list.length >= BARS_MAX - 200 || !market.wasPlaced) return;
  market.isAsking = true;
  try {
    const bars = await ask(`${market.path}?end_time=${encodeURIComponent(first.timestamp)}&limit=500`);
    if (market === shown && bars.length) add(market, bars.slice(-(BARS_MAX - market.bars.list.length)));
    market.isAsking = bars.length === 0; // nothing older: not asked again
  } catch (error) {
    d.say(line, error.message);
    setTimeout(() => (market.isAsking = false), 10_000);
  }
}

async function marks(market) {
  if (exchanges.get(market.exchange).capabilities.liquidations === false) return;
  try {
    const found = await ask(`${market.exchange}/liquidations/${encodeURIComponent(market.symbol)}/bars?interval=${market.interval}&limit=500`);
    if (market !== shown) return;
    const drawn = new Set(market.bars.list.map((bar) => bar.timestamp));
    canvas.mark(found.filter((bar) => drawn.has(bar.timestamp)).flatMap((bar) => [
      ...(bar.long_value ? [{ time: seconds(bar.timestamp), position: "belowBar", shape: "arrowDown", size: 0.6, color: canvas.colour("down") }] : []),
      ...(bar.short_value ? [{ time: seconds(bar.timestamp), position: "aboveBar", shape: "arrowUp", size: 0.6, color: canvas.colour("up") }] : []),
    ]));
  } catch (error) {
    d.say(d.role("near"), `Liquidations per bar: ${error.message}`);
  }
}

export function leave() {
  for (const stop of shown?.stops ?? []) stop();
  clearTimeout(shown?.tableTimer);
  shown = null;
  Object.assign(box.dataset, { bars: 0, first: "", last: "", state: "loading" });
  canvas?.all([]);
  canvas?.mark([]);
  canvas?.gaps([]);
  details.querySelector("tbody").replaceChildren();
}

export function open({ exchange, symbol, interval }) {
  leave();
  const path = `${exchange}/ohlc/${encodeURIComponent(symbol)}/${interval}`;
  const one = instruments.get(keyOf(exchange, symbol));
  const market = { exchange, symbol, interval, path, bars: makeBars(), pending: [], gaps: [], stops: [], isWhole: true, places: d.decimals(one?.tick_size), volumePlaces: d.decimals(one?.step_size) };
  shown = market;
  Object.assign(box.dataset, { exchange, symbol, interval, bars: 0, first: "", last: "", state: "loading" });
  d.say(box.querySelector("h1"), `${symbol} on ${nameOf(exchange)}`);
  d.role("near").replaceChildren();
  d.role("source", box).href = path;
  d.role("price", box).textContent = "";
  const known = exchanges.get(exchange);
  if (!known || !one) return unknown(market);
  if (!known.intervals.includes(interval)) {
    market.error = `There is no interval ${interval} on ${exchange}`;
    return tell();
  }
  canvas ??= makeCanvas(canvasBox(box), older);
  canvas.decimals(market.places, one.tick_size || 0.01);
  const topic = `${exchange}:${symbol}:ohlc:`;
  market.stops.push(follow(topic + interval, (frames) => take(market, frames), 500));
  if (interval !== "1d") {
    market.stops.push(follow(`${topic}1d`, (frames) => {
      market.day = frames.findLast((frame) => frame.type === "ohlc") ?? market.day;
      d.soon(paint);
    }));
  }
  market.stops.push(d.every(15_000, () => marks(market)), d.every(1000, tell));
  tell();
}

function unknown(market) {
  market.error = `There is no ${market.symbol} on ${market.exchange}`;
  const start = market.symbol.slice(0, 3).toUpperCase();
  const near = [...instruments.values()].filter((one) => one.symbol.toUpperCase().startsWith(start)).slice(0, 8);
  d.role("near").replaceChildren(...near.flatMap((one) => [d.make("a", { text: `${one.symbol} on ${nameOf(one.exchange)}`, href: d.chartLink(one.exchange, one.symbol, market.interval) }), " "]));
  tell();
}

onStates(tell);
onSocket(tell);
