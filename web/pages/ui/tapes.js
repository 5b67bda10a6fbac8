// What happened, newest first. Events are never told apart by their values: two equal ones are two.
import * as d from "./dom.js";
import { baseOf, exchanges, nameOf, places, since } from "./known.js";
import { ask, follow } from "./wire.js";

const HELD_MAX = 200, ROWS_MAX = 100; // two full tapes beside a table of bars stay below 3000 elements
const ASKED_MAX = 15, ASKED_EVENTS = 200; // markets whose past is asked for
const tapes = [];
let isShown = false;

function makeTape(name, topic, route, side) {
  const box = d.panel(name), base = d.role("base", box), least = d.role("least", box);
  let live = [], past = [], first = null, count = 0, isLoaded = false, trouble = "", silent = "", asked = 0;

  function paint() {
    if (!isShown) return; // a hidden page has no rows
    const isWanted = (event) => event.type === "gap" || ((!base.value || baseOf(event.exchange, event.symbol) === base.value) && event.value >= Number(least.value));
    const all = [...live, ...past].filter(isWanted), rows = all.slice(0, ROWS_MAX);
    d.rows(box.querySelector("tbody"), rows, { key: ({ key }) => key, data, cells });
    d.say(d.role("silent", box), rows.some((event) => event.partial) ? "≈ inferred from public trades" : silent);
    total(all.filter((event) => event.type !== "gap"));
    d.note(box, trouble || (!isLoaded ? "loading" : all.length ? "" : `None seen since ${since ? d.clock(since) : "the start"} (start of the daemon)`));
  }

  const data = (event) => event.type === "gap" ? { gap: "" }
    : { exchange: event.exchange, symbol: event.symbol, side: event.side, time: event.timestamp, value: event.value };

  const cells = (event) => event.type === "gap" ? [{ text: d.clock(event.to ?? event.from) }, { text: event.text, kind: "warn" }] : [
    { text: d.clock(event.timestamp), kind: "dim" },
    { text: nameOf(event.exchange) },
    { text: event.symbol },
    { text: side[event.side] + (event.partial ? " ≈" : ""), kind: event.side === "buy" ? "up" : "down" },
    { text: d.number(event.price, places(event.exchange, event.symbol)), kind: "n price-cell" },
    { text: d.number(event.value, 0), kind: "n strong" },
  ];

  function total(events) {
    const sum = { sell: 0, buy: 0 };
    for (const event of events) sum[event.side] += event.value;
    const words = ["sell", "buy"].map((one) => `${side[one]} ${d.compact(sum[one])}`).join("   ");
    d.say(d.role("total", box), events.length ? `${words}   since ${d.clock(events.at(-1).timestamp)}` : "");
  }

  // Subscribed first, asked then, and only what is older than the first live event is taken: nothing falls between, and
  // nothing comes twice. As long as nothing was live, another connection asks anew: there is no place to go on from.
  async function load() {
    const own = ++asked;
    const can = [...exchanges.values()].filter((one) => one.capabilities[route] !== false);
    const markets = can.flatMap((one) => one.symbols.map((symbol) => [one.name, symbol])).slice(0, ASKED_MAX);
    const found = await Promise.allSettled(markets.map(([exchange, symbol]) => ask(`${exchange}/${route}/${encodeURIComponent(symbol)}?limit=${ASKED_EVENTS}`)));
    if (own !== asked) return;
    trouble = found.find((one) => one.status === "rejected")?.reason.message ?? "";
    past = found.flatMap((one) => one.value ?? []).filter((event) => first === null || event.timestamp < first);
    past.sort((a, b) => (a.timestamp < b.timestamp ? 1 : -1)).splice(HELD_MAX);
    for (const event of past) event.key = `p${count++}`;
    isLoaded = true;
    d.soon(paint);
  }

  function take(frames) {
    for (const frame of frames) {
      if (frame.type === "ack" && first === null) load();
      else if (frame.type === "gap" && !frame.repaired && frame.from) {
        const minutes = Math.max(1, Math.round((Date.parse(frame.to ?? frame.from) - Date.parse(frame.from)) / 60_000));
        frame.text = frame.reason === "resume_too_old" ? `${minutes} minute${minutes === 1 ? "" : "s"} not seen here` : `gap: ${frame.reason}`;
        live.unshift(Object.assign(frame, { key: `g${count++}` }));
      } else if (frame.value !== undefined) {
        if (first === null) {
          first = frame.timestamp;
          past = past.filter((event) => event.timestamp < first);
        }
        places(frame.exchange, frame.symbol, frame.price);
        live.unshift(Object.assign(frame, { key: `l${count++}` }));
      }
    }
    live.splice(HELD_MAX);
    d.soon(paint);
  }

  follow(topic, take);
  for (const field of [base, least]) field.addEventListener("change", paint);
  const bases = new Set([...exchanges.values()].flatMap((one) => one.symbols.map((symbol) => baseOf(one.name, symbol))));
  for (const one of [...bases].sort()) base.append(d.make("option", { text: one }));
  const unpublished = [...exchanges.values()].filter((one) => one.capabilities[route] === false).map((one) => nameOf(one.name));
  silent = unpublished.length ? `${unpublished.join(", ")}: not published by this exchange` : "";
  tapes.push({ paint, clear: () => box.querySelector("tbody").replaceChildren() });
}

export function start() {
  makeTape("liquidations", "all:liquidations", "liquidations", { sell: "▼ long", buy: "▲ short" });
  makeTape("large-trades", "all:large_trades", "large_trades", { sell: "▼ sell", buy: "▲ buy" });
}

export function leave() {
  isShown = false;
  for (const tape of tapes) tape.clear();
}

export function open(exchange, symbol) {
  isShown = true;
  for (const tape of tapes) d.soon(tape.paint);
  for (const [name, route] of [["liquidations", "liquidations"], ["large-trades", "large_trades"]]) {
    d.role("source", d.panel(name)).href = `${exchange}/${route}/${encodeURIComponent(symbol)}`;
  }
}
