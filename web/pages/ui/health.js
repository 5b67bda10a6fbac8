// Is the data good: feeds, gaps, what is covered, and what may still be asked of the exchanges.
import * as d from "./dom.js";
import { exchanges, nameOf, onStates, states } from "./known.js";
import { ask, now } from "./wire.js";

const boxes = { feeds: d.panel("feeds"), gaps: d.panel("gaps"), quality: d.panel("quality"), budgets: d.panel("budgets") };
let stops = [];

const ago = (time) => (time ? `${d.span(now() - Date.parse(time))} ago` : "");
const bodyOf = (box) => box.querySelector("tbody");

function feeds() {
  const live = [...states.values()].filter((feed) => feed.state === "live");
  const list = [...states.values()].filter((feed) => feed.state !== "live").concat(live); // what needs eyes comes first
  d.rows(bodyOf(boxes.feeds), list, {
    key: ({ exchange, symbol }) => `${exchange} ${symbol}`,
    data: ({ exchange, symbol, state }) => ({ exchange, symbol, state }),
    cells: (feed) => [
      { text: nameOf(feed.exchange) },
      { text: feed.symbol },
      { text: `● ${feed.state}`, kind: feed.state === "live" ? "up" : "warn" },
      { text: feed.since ? d.minute(feed.since) : "" },
      { text: String(feed.restarts ?? ""), kind: "n" },
      { text: ago(feed.last_event), kind: "n" },
      { text: feed.next_retry ? d.clock(feed.next_retry) : "" },
      { text: feed.reason ?? "" },
    ],
  });
  d.say(d.role("count", boxes.feeds), list.length ? `${live.length} of ${list.length} live` : "");
  d.note(boxes.feeds, list.length ? "" : "No feed yet");
}

async function quality() {
  try {
    const topics = (await ask("quality")).flatMap((feed) => feed.topics.map((topic) => ({ ...topic, skew: feed.clock_skew_ms })));
    const gaps = topics.flatMap((topic) => topic.gaps.map((gap) => ({ ...gap, topic: topic.topic })));
    gaps.sort((a, b) => Number(a.repaired) - Number(b.repaired) || (a.from < b.from ? 1 : -1));
    d.rows(bodyOf(boxes.gaps), gaps.slice(0, 200), {
      key: (gap) => `${gap.topic} ${gap.from} ${gap.to} ${gap.repaired}`,
      data: (gap) => ({ topic: gap.topic, from: gap.from, to: gap.to ?? "", repaired: gap.repaired }),
      cells: (gap) => [
        { text: gap.topic },
        { text: d.minute(gap.from) },
        { text: gap.to ? d.minute(gap.to) : "open" },
        { text: gap.reason },
        { text: gap.repaired ? "repaired" : "lost", kind: gap.repaired ? "" : "warn" },
      ],
    });
    const open = gaps.filter((gap) => !gap.repaired).length;
    d.say(d.role("count", boxes.gaps), gaps.length ? `${open} not repaired, ${gaps.length - open} repaired` : "");
    d.note(boxes.gaps, gaps.length ? "" : "None since the start of the daemon");
    const ms = (value) => (value === null || value === undefined ? "" : `${d.number(value, 1)} ms`);
    d.rows(bodyOf(boxes.quality), topics, {
      key: ({ topic }) => topic,
      data: ({ topic }) => ({ topic }),
      cells: (topic) => [
        { text: topic.topic },
        { text: topic.covered === null ? "" : `${d.number(topic.covered * 100, 3)} %`, kind: "n" },
        { text: String(topic.duplicates), kind: "n" },
        { text: ms(topic.lag?.median_ms), kind: "n" },
        { text: ms(topic.lag?.p99_ms), kind: "n" },
        { text: ms(topic.skew), kind: "n" },
      ],
    });
    d.note(boxes.quality, topics.length ? "" : "Nothing heard yet");
  } catch (error) {
    d.note(boxes.quality, error.message);
    d.note(boxes.gaps, error.message);
  }
}

const meters = new Map();
function meter(exchange, bucket) {
  const key = `${exchange} ${bucket.name}`, share = Math.min(1, bucket.used / bucket.limit);
  if (!meters.has(key)) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 100 8");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.append(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
    svg.firstChild.setAttribute("height", "8");
    meters.set(key, d.make("span", { role: "meter", "aria-label": `${nameOf(exchange)} ${bucket.name} used`, data: { exchange, bucket: bucket.name } }, svg));
  }
  const element = meters.get(key), bar = element.querySelector("rect");
  element.setAttribute("aria-valuenow", bucket.used);
  element.setAttribute("aria-valuemin", 0);
  element.setAttribute("aria-valuemax", bucket.limit);
  bar.setAttribute("width", share * 100);
  bar.style.fill = share > 0.9 ? "var(--warn)" : "var(--link)";
  return element;
}

async function budgets() {
  try {
    const told = await ask("exchanges");
    for (const one of told.exchanges) exchanges.set(one.name, one);
    const list = told.exchanges.flatMap(({ name, budget }) => budget.buckets.map((bucket) => ({ exchange: name, bucket, budget })));
    d.rows(bodyOf(boxes.budgets), list, {
      key: ({ exchange, bucket }) => `${exchange} ${bucket.name}`,
      data: ({ exchange, bucket }) => ({ exchange, name: bucket.name }),
      cells: ({ exchange, bucket, budget }) => [
        { text: nameOf(exchange) },
        { text: bucket.name },
        { node: meter(exchange, bucket) },
        { text: `${d.number(bucket.used, 0)} / ${d.number(bucket.limit, 0)}`, kind: "n" },
        { text: String(budget.waiting), kind: "n" },
        { text: budget.closed_for ? d.span(budget.closed_for * 1000) : "", kind: "warn" },
      ],
    });
    d.note(boxes.budgets, "");
  } catch (error) {
    d.note(boxes.budgets, error.message);
  }
}

export function open() {
  feeds();
  stops = [d.every(5000, quality), d.every(5000, budgets), d.every(1000, feeds)];
}

export function leave() {
  for (const stop of stops.splice(0)) stop();
  for (const box of Object.values(boxes)) bodyOf(box).replaceChildren(); // a hidden page has no rows
}

onStates(() => stops.length && feeds());
