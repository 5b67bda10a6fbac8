// Open interest and funding of one base asset on every venue: now by the socket, the past once a minute.
import * as d from "./dom.js";
import { exchanges, instruments, keyOf, nameOf } from "./known.js";
import { ask, follow, now } from "./wire.js";

const DAY = 86_400_000, SETTLEMENTS = 30;
const COLOURS = ["--link", "--up", "--down", "--warn", "--dim"];
const boxes = { oi: d.panel("open-interest"), funding: d.panel("funding"), predicted: d.panel("predicted-funding") };
let stops = [], venues = [], base = "";

const dateOf = (told) => Date.parse(told);
const yearly = (rate, hours) => (hours ? rate * (8760 / hours) : null);

// Lines of several venues on one scale: [{values: [[time, value]], …}]. Drawn as shares of each line's first value where
// `relative`, or one large venue would flatten the others.
function lines(box, series, relative) {
  const svg = box.querySelector("svg");
  const all = series.map(({ values }) => values.map(([time, value]) => [time, relative ? value / values[0][1] : value]));
  const flat = all.flat();
  svg.replaceChildren();
  if (flat.length < 2) return;
  const [from, to] = [Math.min(...flat.map(([time]) => time)), Math.max(...flat.map(([time]) => time))];
  const [low, high] = [Math.min(...flat.map(([, value]) => value)), Math.max(...flat.map(([, value]) => value))];
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  all.forEach((values, index) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const place = ([time, value]) => `${((time - from) / (to - from || 1)) * 100},${38 - ((value - low) / (high - low || 1)) * 36}`;
    line.setAttribute("points", values.map(place).join(" "));
    line.style.stroke = `var(${COLOURS[index % COLOURS.length]})`;
    svg.append(line);
  });
}

function paintInterest() {
  const told = venues.filter((venue) => venue.oi);
  d.rows(boxes.oi.querySelector("tbody"), told, {
    key: ({ exchange, symbol }) => keyOf(exchange, symbol),
    data: ({ exchange, symbol }) => ({ exchange, symbol }),
    cells: ({ exchange, oi, interests }) => {
      const before = interests?.[0]?.[1], change = before ? oi.open_interest / before - 1 : null;
      return [
        { text: nameOf(exchange) },
        { field: "open_interest", value: oi.open_interest, text: `${d.number(oi.open_interest, 0)} ${base}`, kind: "n" },
        { text: change === null ? "" : d.percent(change), kind: change === null ? "n" : d.direction(change) },
      ];
    },
  });
  if (told.length) d.note(boxes.oi, "");
  lines(boxes.oi, venues.filter((venue) => venue.interests?.length > 1).map((venue) => ({ values: venue.interests })), true);
}

function paintFunding() {
  const told = venues.filter((venue) => venue.funding);
  d.rows(boxes.funding.querySelector("tbody"), told, {
    key: ({ exchange, symbol }) => keyOf(exchange, symbol),
    data: ({ exchange, symbol }) => ({ exchange, symbol }),
    cells: ({ exchange, funding }) => {
      const year = yearly(funding.funding_rate, funding.funding_interval_hours);
      return [
        { text: nameOf(exchange) },
        { field: "funding_rate", value: funding.funding_rate, text: d.percent(funding.funding_rate, 4), kind: d.direction(funding.funding_rate) },
        { text: year === null ? "" : d.percent(year, 1), kind: "n" },
        { text: d.span(dateOf(funding.funding_time) - now()), kind: "n" },
      ];
    },
  });
  const years = told.map(({ funding }) => yearly(funding.funding_rate, funding.funding_interval_hours)).filter((year) => year !== null);
  d.say(d.role("spread", boxes.funding), years.length > 1 ? `Spread between venues ${d.number((Math.max(...years) - Math.min(...years)) * 100, 1)} % a year` : "");
  if (told.length) d.note(boxes.funding, "");
  lines(boxes.funding, venues.filter((venue) => venue.rates?.length > 1).map((venue) => ({ values: venue.rates })), false);
}

async function present(kind, box, paint) {
  try {
    const { errors = {}, ...told } = await ask(`multi/${kind}/${encodeURIComponent(base)}`);
    for (const venue of venues) if (told[venue.exchange]?.symbol === venue.symbol) venue[kind] ??= told[venue.exchange];
    const missing = Object.entries(errors).filter(([, problem]) => problem.code !== "unknown_symbol");
    d.note(box, missing.map(([name, problem]) => `${nameOf(name)}: ${problem.detail}`).join(" · "));
    paint();
  } catch (error) {
    d.note(box, error.message);
  }
}

async function past(own) {
  for (const venue of own) {
    const { exchange, symbol, can } = venue, name = `${encodeURIComponent(symbol)}`;
    try {
      if (can.open_interest_history) {
        const since = new Date(now() - DAY).toISOString();
        const found = await ask(`${exchange}/oi-hist/${name}?period=1h&limit=24&start_time=${encodeURIComponent(since)}`);
        venue.interests = found.map((one) => [dateOf(one.timestamp), one.open_interest]);
      }
      if (can.funding_rate_history) {
        const found = await ask(`${exchange}/funding-hist/${name}?limit=${SETTLEMENTS}`);
        venue.rates = found.map((one) => [dateOf(one.funding_time), yearly(one.funding_rate, one.funding_interval_hours) ?? one.funding_rate]);
      }
    } catch (error) {
      d.note(boxes.oi, `${nameOf(exchange)}: ${error.message}`);
    }
    if (own !== venues) return;
    d.soon(paintInterest);
    d.soon(paintFunding);
  }
}

async function predicted() {
  const who = [...exchanges.values()].find((one) => one.capabilities.predicted_funding);
  if (!who) return d.note(boxes.predicted, "Not published by these exchanges");
  const path = `${who.name}/predicted-funding?coin=${encodeURIComponent(base)}`;
  d.role("source", boxes.predicted).href = path;
  try {
    const [coin] = await ask(path);
    d.rows(boxes.predicted.querySelector("tbody"), coin?.venues ?? [], {
      key: ({ venue }) => venue,
      data: ({ venue }) => ({ venue }),
      cells: (one) => {
        const year = yearly(one.funding_rate, one.funding_interval_hours);
        return [
          { text: one.venue },
          { field: "funding_rate", value: one.funding_rate, text: d.percent(one.funding_rate, 4), kind: d.direction(one.funding_rate) },
          { text: one.funding_interval_hours ? `${one.funding_interval_hours} h` : "", kind: "n" },
          { text: year === null ? "" : d.percent(year, 1), kind: "n" },
        ];
      },
    });
    d.note(boxes.predicted, coin ? "" : "None for this asset");
  } catch (error) {
    d.note(boxes.predicted, error.message);
  }
}

export function leave() {
  for (const stop of stops) stop();
  [stops, venues] = [[], []];
  for (const box of Object.values(boxes)) {
    box.querySelector("tbody").replaceChildren();
    box.querySelector("svg")?.replaceChildren();
    d.note(box, "loading");
  }
}

export function open(exchange, symbol) {
  leave();
  base = instruments.get(keyOf(exchange, symbol)).base;
  const collected = [...exchanges.values()].flatMap((one) => one.symbols.map((name) => ({ exchange: one.name, symbol: name, can: one.capabilities })));
  venues = collected.filter((venue) => instruments.get(keyOf(venue.exchange, venue.symbol))?.base === base);
  d.role("source", boxes.oi).href = `multi/oi/${encodeURIComponent(base)}`;
  d.role("source", boxes.funding).href = `multi/funding/${encodeURIComponent(base)}`;
  for (const venue of venues) {
    const topic = `${venue.exchange}:${venue.symbol}:`;
    const hear = (kind, type, paint) => stops.push(follow(topic + kind, (frames) => {
      venue[kind] = frames.findLast((frame) => frame.type === type) ?? venue[kind];
      d.soon(paint);
    }));
    if (venue.can.open_interest) hear("oi", "open_interest", paintInterest);
    if (venue.can.funding_rate) hear("funding", "funding_rate", paintFunding);
  }
  present("oi", boxes.oi, paintInterest);
  present("funding", boxes.funding, paintFunding);
  const own = venues;
  stops.push(d.every(60_000, () => past(own)), d.every(60_000, predicted), d.every(1000, () => d.soon(paintFunding)));
}
