// A chart's bars in words and numbers: the price above it, the bar under the pointer, and the newest bars as a table.
import { seconds } from "./bars.js";
import * as d from "./dom.js";

const ROWS_MAX = 120, RENEWED_EVERY = 350; // ms
const box = d.panel("chart"), details = d.role("bars-table"), legend = d.role("legend"), price = d.role("price", box);
let timer = 0;

export function tellPrice({ bars, places, interval, day }) {
  const last = bars.list.at(-1), today = interval === "1d" ? last : day;
  const change = last && today ? last.close / today.open - 1 : null;
  d.say(price, last ? `${d.number(last.close, places)}${change === null ? "" : `  ${d.change(change)}`}` : "");
  const kind = `price ${change === null ? "" : change < 0 ? "down" : "up"}`;
  if (price.className !== kind) price.className = kind;
}

// The bar under the pointer, else the last one.
export function tellBar({ bars, places, volumePlaces, pointed }) {
  const bar = pointed === null ? bars.list.at(-1) : bars.list.findLast((one) => seconds(one.timestamp) === pointed);
  legend.hidden = !bar;
  if (!bar) return;
  const prices = [bar.open, bar.high, bar.low, bar.close].map((value) => d.number(value, places));
  const told = [...prices, d.number(bar.volume, volumePlaces), d.change(bar.close / bar.open - 1)];
  told.forEach((text, index) => d.say(legend.querySelectorAll("b")[index], text));
  legend.className = bar.close < bar.open ? "down" : "up";
}

export function table({ bars, places, volumePlaces }) {
  clearTimeout(timer);
  timer = 0;
  if (!details.open) return;
  const cell = (bar, field, digits) => ({ field, value: bar[field], text: d.number(bar[field], digits), kind: "n" });
  d.rows(details.querySelector("tbody"), bars.list.slice(-ROWS_MAX), {
    key: (bar) => bar.timestamp,
    data: (bar) => ({ time: bar.timestamp, closed: bar.is_closed }),
    cells: (bar) => [{ text: d.minute(bar.timestamp) }, ...["open", "high", "low", "close"].map((field) => cell(bar, field, places)), cell(bar, "volume", volumePlaces)],
  });
}

export function tableLater(draw) {
  if (details.open) timer ||= setTimeout(() => d.soon(draw), RENEWED_EVERY);
}

export function clear() {
  clearTimeout(timer);
  timer = 0;
  d.say(price, "");
  legend.hidden = true;
  details.querySelector("tbody").replaceChildren();
}
