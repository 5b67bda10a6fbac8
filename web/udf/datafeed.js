// A complete datafeed for TradingView's charting library: history by UDF, live bars over one WebSocket.
//   import { datafeed } from "http://127.0.0.1:8000/udf/datafeed.js";
//   new TradingView.widget({ datafeed, symbol: "BINANCE:BTCUSDT", … });
// Law: a listener is told of bars in order, none left out; where that cannot be, its cache is reset.

const BASE = new URL(".", import.meta.url);
const SOCKET = new URL("../ws?batch_ms=50", BASE);
SOCKET.protocol = SOCKET.protocol.replace("http", "ws");
const CATCH_UP = 500; // bars that may have passed between a chart's history and its first live one
const [WAIT_LEAST, WAIT_MOST] = [500, 8000]; // ms between attempts to connect

async function ask(path, query = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, value);
  const body = await (await fetch(url)).json();
  if (body.s === "error") throw new Error(body.errmsg);
  return body;
}

const listeners = new Map(); // by the library's id: {topic, onTick, onReset, last}
const shown = new Map(); // by topic: the time of the newest bar that the chart was given as history
const seen = new Map(); // by topic: {epoch, seq}, where to go on after a loss
let socket = null;
let wait = WAIT_LEAST;

function send(command) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
}

function subscribe(topics) {
  const since = {};
  for (const topic of topics) if (seen.has(topic)) since[topic] = seen.get(topic);
  send({ op: "subscribe", topics, since, backfill: CATCH_UP });
}

const topicsInUse = () => [...new Set([...listeners.values()].map((listener) => listener.topic))];

function connect() {
  socket = new WebSocket(SOCKET);
  socket.onopen = () => {
    wait = WAIT_LEAST;
    if (listeners.size) subscribe(topicsInUse());
  };
  socket.onmessage = ({ data }) => {
    const said = JSON.parse(data);
    for (const frame of Array.isArray(said) ? said : [said]) hear(frame);
  };
  socket.onclose = () => {
    socket = null;
    if (!listeners.size) return;
    setTimeout(() => socket || !listeners.size || connect(), wait * (0.5 + Math.random() / 2));
    wait = Math.min(2 * wait, WAIT_MOST);
  };
}

function hear(frame) {
  const { topic } = frame;
  if ("seq" in frame) seen.set(topic, { epoch: frame.epoch, seq: frame.seq });
  if (frame.type !== "ohlc" && frame.type !== "gap") return;
  for (const listener of listeners.values()) {
    if (listener.topic !== topic) continue;
    if (frame.type === "ohlc") tell(listener, frame);
    // What was missed is told behind this frame, or never: the chart asks for its history anew either way.
    else if (frame.repaired || frame.reason === "resume_too_old") listener.onReset();
  }
}

function tell(listener, { timestamp, open, high, low, close, volume }) {
  const time = Date.parse(timestamp);
  if (time < listener.last) return; // the chart has it from the history, or was told of a newer one
  listener.last = time;
  listener.onTick({ time, open, high, low, close, volume });
}

export const datafeed = {
  onReady(done) {
    ask("config").then(done, (error) => console.error("marketd:", error.message));
  },
  searchSymbols(query, exchange, type, done) {
    ask("search", { query, exchange, type, limit: 30 }).then(done, () => done([]));
  },
  resolveSymbol(symbol, done, failed) {
    ask("symbols", { symbol }).then(done, (error) => failed(error.message));
  },
  getBars(symbol, resolution, { from, to, countBack }, done, failed) {
    const query = { symbol: symbol.ticker, resolution, from, to, countback: countBack };
    ask("history", query).then((found) => {
      if (found.s === "no_data") return done([], { noData: true, nextTime: found.nextTime });
      const bars = found.t.map((time, i) => ({
        time: time * 1000,
        ...{ open: found.o[i], high: found.h[i], low: found.l[i], close: found.c[i], volume: found.v[i] },
      }));
      const topic = symbol.marketd.topics[resolution];
      shown.set(topic, Math.max(shown.get(topic) ?? 0, bars.at(-1).time));
      done(bars, { noData: false });
    }, (error) => failed(error.message));
  },
  subscribeBars(symbol, resolution, onTick, id, onReset) {
    const topic = symbol.marketd.topics[resolution];
    const isNew = !topicsInUse().includes(topic);
    listeners.set(id, { topic, onTick, onReset, last: shown.get(topic) ?? 0 });
    if (!socket) connect();
    else if (isNew) subscribe([topic]);
    else {
      // Its bars are on their way already; what lay between its history and them is asked for once more.
      seen.delete(topic);
      send({ op: "unsubscribe", topics: [topic] });
      subscribe([topic]);
    }
  },
  unsubscribeBars(id) {
    const topic = listeners.get(id)?.topic;
    listeners.delete(id);
    if (topic === undefined || topicsInUse().includes(topic)) return;
    seen.delete(topic);
    shown.delete(topic);
    send({ op: "unsubscribe", topics: [topic] });
  },
  getMarks(symbol, from, to, done, resolution) {
    ask("marks", { symbol: symbol.ticker, from, to, resolution }).then(
      (found) => done(found.id.map((id, i) => Object.fromEntries(Object.keys(found).map((name) => [name, found[name][i]])))),
      () => done([]),
    );
  },
  getTimescaleMarks(symbol, from, to, done, resolution) {
    ask("timescale_marks", { symbol: symbol.ticker, from, to, resolution }).then(done, () => done([]));
  },
  getServerTime(done) {
    fetch(new URL("time", BASE)).then((answer) => answer.text()).then((text) => done(Number(text)), () => {});
  },
};
