// Open interest and funding of one base asset on every venue: now by the socket, the past once a minute.
import * as d from "./dom.js";
import { exchanges, instruments, keyOf, nameOf } from "./known.js";
import { colourOf, draw } from "./lines.js";
import { ask, follow, now } from "./wire.js";

const DAY = 86_400_000, SETTLEMENTS = 30, SETTLEMENTS_MOST = 240;
const boxes = { oi: d.panel("open-interest"), funding: d.panel("funding"), predicted: d.panel("predicted-funding") };
let stops = [], venues = [], base = "";

const yearly = (rate, hours) => (hours ? rate * (8760 / hours) : null);
const venueCell = ({ exchange, index }) => ({ text: nameOf(exchange), swatch: colourOf(index) });
const venueData = ({ exchange, symbol }) => ({ exchange, symbol });
const venueKey = ({ exchange, symbol }) => keyOf(exchange, symbol);

function paintInterest() {
  const told = venues.filter((venue) => venue.oi);
  d.rows(boxes.oi.querySelector("tbody"), told, {
    key: venueKey,
    data: venueData,
    cells: (venue) => {
      const before = venue.interests?.[0]?.[1], change = before ? venue.oi.open_interest / before - 1 : null;
      const none = !venue.can.open_interest_history ? "not published" : venue.interests ? "no history" : "";
      return [
        venueCell(venue),
        { field: "open_interest", value: venue.oi.open_interest, text: `${d.number(venue.oi.open_interest, 0)} ${base}`, kind: "n" },
        { text: change === null ? none : d.change(change), kind: change === null ? "n dim" : d.direction(change) },
      ];
    },
  });
  if (told.length) d.note(boxes.oi, "");
}

// As changes since the first hour: as amounts, one large venue would flatten the others.
function drawInterest() {
  const series = venues.filter(({ interests }) => interests?.length > 1)
    .map(({ index, exchange, interests }) => ({ index, exchange, values: interests.map(([time, value]) => [time, value / interests[0][1] - 1]) }));
  const spans = draw(boxes.oi.querySelector("svg"), series, { zero: true });
  d.say(d.role("caption", boxes.oi), spans ? `24 h, change: ${d.percent(spans.low, 1)} … ${d.percent(spans.high, 1)}` : "");
}

function paintFunding() {
  const told = venues.filter((venue) => venue.funding);
  d.rows(boxes.funding.querySelector("tbody"), told, {
    key: venueKey,
    data: venueData,
    cells: (venue) => {
      const { funding_rate: rate, funding_interval_hours: hours, funding_time: time } = venue.funding, year = yearly(rate, hours);
      return [
        venueCell(venue),
        { field: "funding_rate", value: rate, text: d.percent(rate, 4), kind: d.direction(rate) },
        { text: year === null ? "" : d.percent(year, 1), kind: "n" },
        { text: d.span(Date.parse(time) - now()), kind: "n" },
      ];
    },
  });
  const years = told.map(({ funding }) => yearly(funding.funding_rate, funding.funding_interval_hours)).filter((year) => year !== null);
  d.say(d.role("count", boxes.funding), years.length > 1 ? `spread ${d.number((Math.max(...years) - Math.min(...years)) * 100, 2)} %/y` : "");
  if (told.length) d.note(boxes.funding, "");
}

// All venues over the same time, that of thirty settlements of the slowest one: where one settles every hour, its
// thirty would fill a corner.
function drawFunding() {
  const settled = venues.filter(({ rates }) => rates?.length > 1);
  const from = Math.min(...settled.map(({ rates }) => rates.at(-SETTLEMENTS)?.[0] ?? rates[0][0]));
  const series = settled.map(({ index, exchange, rates }) => ({ index, exchange, values: rates.filter(([time]) => time >= from) }));
  const spans = draw(boxes.funding.querySelector("svg"), series, { isStepped: true, zero: true });
  d.say(d.role("caption", boxes.funding), spans ? `${d.span(spans.to - spans.from)}, a year: ${d.percent(spans.low, 1)} … ${d.percent(spans.high, 1)}` : "");
}

async function present(kind, box, paint) {
  const asked = base;
  try {
    const { errors = {}, ...told } = await ask(`multi/${kind}/${encodeURIComponent(base)}`);
    if (asked !== base) return;
    for (const venue of venues) if (told[venue.exchange]?.symbol === venue.symbol) venue[kind] ??= told[venue.exchange];
    const missing = Object.entries(errors).filter(([, problem]) => problem.code !== "unknown_symbol");
    d.note(box, missing.map(([name, problem]) => `${nameOf(name)}: ${problem.detail}`).join(" · "));
    paint();
  } catch (error) {
    if (asked === base) d.note(box, error.message);
  }
}

async function interestOf({ exchange, symbol }) {
  const since = new Date(now() - DAY).toISOString();
  const found = await ask(`${exchange}/oi-hist/${encodeURIComponent(symbol)}?period=1h&limit=24&start_time=${encodeURIComponent(since)}`);
  return found.map((one) => [Date.parse(one.timestamp), one.open_interest]);
}

async function ratesOf({ exchange, symbol, funding }, own) {
  const slowest = Math.max(...own.map((venue) => venue.funding?.funding_interval_hours ?? 8));
  const limit = Math.min(SETTLEMENTS_MOST, Math.ceil((SETTLEMENTS * slowest) / (funding?.funding_interval_hours ?? 8)));
  const found = await ask(`${exchange}/funding-hist/${encodeURIComponent(symbol)}?limit=${limit}`);
  return found.map((one) => [Date.parse(one.funding_time), yearly(one.funding_rate, one.funding_interval_hours) ?? one.funding_rate]);
}

async function past(own) {
  for (const venue of own) {
    try {
      if (venue.can.open_interest_history) venue.interests = await interestOf(venue);
      if (own !== venues) return;
      // Settled rates are asked for again only when there is another one.
      const next = venue.funding?.funding_time;
      if (venue.can.funding_rate_history && (!venue.rates || next !== venue.askedFor)) {
        venue.rates = await ratesOf(venue, own);
        venue.askedFor = next;
      }
    } catch (error) {
      if (own === venues) d.note(boxes.oi, `${nameOf(venue.exchange)}: ${error.message}`);
    }
    if (own !== venues) return;
    for (const paint of [paintInterest, drawInterest, drawFunding]) d.soon(paint);
  }
}

async function predicted() {
  const who = [...exchanges.values()].find((one) => one.capabilities.predicted_funding), asked = base;
  if (!who) return d.note(boxes.predicted, "Not published by these exchanges");
  const path = `${who.name}/predicted-funding?coin=${encodeURIComponent(base)}`;
  d.role("source", boxes.predicted).href = path;
  try {
    const [coin] = await ask(path);
    if (asked !== base) return;
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
    if (asked === base) d.note(boxes.predicted, error.message);
  }
}

export function leave() {
  for (const stop of stops) stop();
  [stops, venues, base] = [[], [], ""];
  for (const box of Object.values(boxes)) {
    box.querySelector("tbody").replaceChildren();
    box.querySelector("svg")?.replaceChildren();
    for (const name of ["caption", "count"]) if (d.role(name, box)) d.say(d.role(name, box), "");
    d.note(box, "loading");
  }
}

export function open(exchange, symbol) {
  leave();
  base = instruments.get(keyOf(exchange, symbol)).base;
  const collected = [...exchanges.values()].flatMap((one) => one.symbols.map((name) => ({ exchange: one.name, symbol: name, can: one.capabilities })));
  venues = collected.filter((venue) => instruments.get(keyOf(venue.exchange, venue.symbol))?.base === base);
  venues.forEach((venue, index) => (venue.index = index));
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
  const own = venues;
  const begin = () => own === venues && stops.push(d.every(60_000, () => past(own)));
  Promise.all([present("oi", boxes.oi, paintInterest), present("funding", boxes.funding, paintFunding)]).then(begin);
  stops.push(d.every(60_000, predicted), d.every(1000, () => d.soon(paintFunding)));
}
