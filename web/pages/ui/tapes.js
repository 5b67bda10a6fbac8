// What happened, newest first. Events are never told apart by their values: two equal ones are two.
import * as d from "./dom.js";
import { baseOf, exchanges, nameOf, since } from "./known.js";
import { ask, follow } from "./wire.js";

const ROWS_MAX = 200, ASKED_MAX = 15; // markets whose past is asked for

function makeTape(name, topic, route, side) {
  const box = d.panel(name), base = d.role("base", box), least = d.role("least", box);
  let live = [], past = [], first = null, count = 0, isLoaded = false, wasAsked = false, trouble = "";

  function paint() {
    const all = [...live, ...past].filter((event) => event.type === "gap" || ((!base.value || baseOf(event.exchange, event.symbol) === base.value) && event.value >= Number(least.value)));
    d.rows(box.querySelector("tbody"), all.slice(0, ROWS_MAX), {
      key: (event) => event.key,
      data: (event) => event.type === "gap" ? { gap: "" } : { exchange: event.exchange, symbol: event.symbol, side: event.side, time: event.timestamp, value: event.value },
      cells: (event) => event.type === "gap"
        ? [{ text: d.clock(event.to ?? event.from) }, { text: event.text, kind: "warn" }]
        : [{ text: d.clock(event.timestamp) }, { text: nameOf(event.exchange) }, { text: event.symbol }, { text: side[event.side], kind: event.side === "buy" ? "up" : "down" }, { text: event.price.toLocaleString("en", { maximumFractionDigits: 8 }), kind: "n" }, { text: d.number(event.value, 0), kind: "n" }],
    });
    d.note(box, trouble || (!isLoaded ? "loading" : all.length ? "" : `None seen since ${since ? d.clock(since) : "the start"} (start of the daemon)`));
  }

  async function load() {
    wasAsked = true;
    const markets = [...exchanges.values()].filter((one) => one.capabilities[route] !== false).flatMap((one) => one.symbols.map((symbol) => [one.name, symbol]));
    const found = await Promise.allSettled(markets.slice(0, ASKED_MAX).map(([exchange, symbol]) => ask(`${exchange}/${route}/${encodeURIComponent(symbol)}?limit=${ROWS_MAX}`)));
    trouble = found.find((one) => one.status === "rejected")?.reason.message ?? "";
    past = found.flatMap((one) => one.value ?? []).filter((event) => first === null || event.timestamp < first);
    past.sort((a, b) => (a.timestamp < b.timestamp ? 1 : -1)).splice(ROWS_MAX);
    for (const event of past) event.key = `p${count++}`;
    isLoaded = true;
    d.soon(paint);
  }

  follow(topic, (frames) => {
    for (const frame of frames) {
      if (frame.type === "ack" && !wasAsked) load(); // subscribed first, asked then: nothing falls between
      else if (frame.type === "gap" && !frame.repaired && frame.from) {
        const minutes = Math.max(1, Math.round((Date.parse(frame.to ?? frame.from) - Date.parse(frame.from)) / 60_000));
        frame.text = frame.reason === "resume_too_old" ? `${minutes} minutes not seen here` : `gap: ${frame.reason}`;
        live.unshift(Object.assign(frame, { key: `g${count++}` }));
      } else if (frame.value !== undefined) {
        if (first === null) {
          first = frame.timestamp;
          past = past.filter((event) => event.timestamp < first);
        }
        live.unshift(Object.assign(frame, { key: `l${count++}` }));
      }
    }
    live.splice(ROWS_MAX * 5);
    d.soon(paint);
  });
  for (const field of [base, least]) field.addEventListener("change", paint);
  const bases = new Set([...exchanges.values()].flatMap((one) => one.symbols.map((symbol) => baseOf(one.name, symbol))));
  for (const one of [...bases].sort()) base.append(d.make("option", { text: one }));
}

export function start() {
  makeTape("liquidations", "all:liquidations", "liquidations", { sell: "▼ long", buy: "▲ short" });
  makeTape("large-trades", "all:large_trades", "large_trades", { sell: "▼ sell", buy: "▲ buy" });
}

export function sources(exchange, symbol) {
  for (const [name, route] of [["liquidations", "liquidations"], ["large-trades", "large_trades"]]) {
    d.role("source", d.panel(name)).href = `${exchange}/${route}/${encodeURIComponent(symbol)}`;
  }
}
