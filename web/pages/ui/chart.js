// One market's chart: its bars by the socket, its state in a sentence.
import { makeBars, BARS_MAX } from "./bars.js";
import { canvasBox, makeCanvas } from "./canvas.js";
import * as d from "./dom.js";
import { exchanges, heard, instruments, keyOf, nameOf, onStates, places, states } from "./known.js";
import * as reading from "./reading.js";
import { formerGaps, gapOf, marksOf } from "./signs.js";
import { ask, follow, now, onSocket, retryIn } from "./wire.js";

const box = d.panel("chart"), details = d.role("bars-table"), line = d.role("chart-status");
let canvas, shown = null; // the market that is shown, with all that belongs to it

box.drawn = () => canvas?.drawn() ?? [];
export const dress = () => {
  canvas?.dress();
  if (shown) marks(shown); // they have the colours of their making
};
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

// As many decimals as the prices of these bars have.
function measure(bars) {
  const { exchange, symbol } = shown;
  const most = places(exchange, symbol, ...bars.flatMap(({ open, high, low, close }) => [open, high, low, close]));
  if (most === shown.places) return;
  shown.places = most;
  canvas.decimals(most);
}

function paint() {
  if (!shown) return;
  const { bars, pending } = shown, { list } = bars;
  measure(shown.isWhole ? list : pending);
  shown.pending = [];
  if (shown.isWhole) {
    canvas.all(list);
    if (!shown.wasPlaced && list.length) canvas.show(list.length);
    shown.wasPlaced ||= list.length > 0;
    shown.isWhole = false;
  } else for (const bar of pending) canvas.append(bar);
  Object.assign(box.dataset, { bars: list.length, first: list[0]?.timestamp ?? "", last: list.at(-1)?.timestamp ?? "" });
  reading.tellPrice(shown);
  reading.tellBar(shown);
  tell();
  reading.tableLater(table);
}

const table = () => shown && reading.table(shown);
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
      if (!frame.repaired && frame.reason !== "resume_too_old") market.gaps.push(gapOf(frame));
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
  if (document.documentElement.dataset.socket === "reconnecting") return; // it is said already that the daemon is away
  try {
    const found = await marksOf(market, canvas.colour);
    if (market !== shown) return;
    canvas.mark(found);
    if (!market.error) d.role("near").replaceChildren();
  } catch (error) {
    d.role("near").replaceChildren(`Liquidations per bar: ${error.message}`);
  }
}

async function gaps(market) {
  try {
    const found = await formerGaps(`${market.exchange}:${market.symbol}:ohlc:${market.interval}`);
    if (market !== shown) return;
    market.gaps.push(...found);
    canvas.gaps(market.gaps);
  } catch (error) {
    d.role("near").replaceChildren(`Gaps: ${error.message}`);
  }
}

export function leave() {
  for (const stop of shown?.stops ?? []) stop();
  shown = null;
  Object.assign(box.dataset, { bars: 0, first: "", last: "", state: "loading" });
  canvas?.all([]);
  canvas?.mark([]);
  canvas?.gaps([]);
  reading.clear();
}

export function open({ exchange, symbol, interval }) {
  leave();
  const path = `${exchange}/ohlc/${encodeURIComponent(symbol)}/${interval}`;
  const one = instruments.get(keyOf(exchange, symbol));
  const market = { exchange, symbol, interval, path, bars: makeBars(), pending: [], gaps: [], stops: [], isWhole: true, pointed: null, places: places(exchange, symbol), volumePlaces: d.decimals(one?.step_size) };
  shown = market;
  Object.assign(box.dataset, { exchange, symbol, interval, bars: 0, first: "", last: "", state: "loading" });
  d.say(box.querySelector("h1"), `${symbol} on ${nameOf(exchange)}`);
  d.role("near").replaceChildren();
  d.role("source", box).href = path;
  d.role("csv", box).href = `${path}?format=csv&limit=1500`;
  const known = exchanges.get(exchange);
  if (!known || !one) return unknown(market);
  if (!known.intervals.includes(interval)) {
    market.error = `There is no interval ${interval} on ${exchange}`;
    return tell();
  }
  canvas ??= makeCanvas(canvasBox(box), older, (time) => {
    if (!shown) return;
    shown.pointed = time;
    reading.tellBar(shown);
  });
  canvas.decimals(market.places);
  const topic = `${exchange}:${symbol}:ohlc:`;
  market.stops.push(follow(topic + interval, (frames) => take(market, frames), 500));
  if (interval !== "1d") {
    market.stops.push(follow(`${topic}1d`, (frames) => {
      market.day = frames.findLast((frame) => frame.type === "ohlc") ?? market.day;
      d.soon(paint);
    }));
  }
  market.stops.push(d.every(15_000, () => marks(market)), d.every(1000, tell));
  gaps(market);
  tell();
}

function unknown(market) {
  market.error = market.symbol ? `There is no ${market.symbol} on ${market.exchange}` : `There is no page ${market.exchange}`;
  const start = market.symbol.slice(0, 3).toUpperCase();
  const near = [...instruments.values()].filter((one) => one.symbol.toUpperCase().startsWith(start)).slice(0, 8);
  d.role("near").replaceChildren(...near.flatMap((one) => [d.make("a", { text: `${one.symbol} on ${nameOf(one.exchange)}`, href: d.chartLink(one.exchange, one.symbol, market.interval) }), " "]));
  tell();
}

onStates(tell);
onSocket(tell);
