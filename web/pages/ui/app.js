// Which view is shown, keys, theme; everything else is in the module of its name.
import * as chart from "./chart.js";
import * as derivatives from "./derivatives.js";
import * as d from "./dom.js";
import * as health from "./health.js";
import { exchanges, instruments, keyOf, learn, watch } from "./known.js";
import * as markets from "./markets.js";
import * as tapes from "./tapes.js";
import { connect, now, onSocket, retryIn, useKey } from "./wire.js";

const root = document.documentElement, search = d.role("search"), help = document.querySelector("dialog");
const NAMES_MAX = 20, INTERVALS = ["1m", "5m", "15m", "1h", "4h", "1d"];
let place = {}, last = "";

function plain(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // typed by hand, and no encoding of anything: there is no such market
  }
}

function parse() {
  const [, first = "", symbol = "", interval = "1m"] = location.hash.split("/").map(plain);
  if (first === "health") return { view: "health" };
  return first ? { view: "chart", exchange: first.toLowerCase(), symbol, interval } : { view: "markets" };
}

function turn(to) {
  place = to;
  root.dataset.view = place.view;
  for (const page of document.querySelectorAll("[data-page]")) page.hidden = page.dataset.page !== place.view;
  for (const link of document.querySelectorAll("[data-nav]")) {
    if (link.dataset.nav === place.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function show() {
  markets.leave();
  health.leave();
  chart.leave();
  derivatives.leave();
  tapes.leave();
  turn(parse());
  if (place.view === "markets") markets.open();
  else if (place.view === "health") health.open();
  else openChart();
  document.title = place.view === "chart" ? `${place.symbol} · marketd` : "marketd";
}

const isMeant = (one, exchange, symbol) => one.exchange === exchange && one.symbol.toUpperCase() === symbol.toUpperCase();

function openChart() {
  const { exchange, symbol, interval } = place;
  const meant = instruments.has(keyOf(exchange, symbol)) ? [] : [...instruments.values()].filter((one) => isMeant(one, exchange, symbol));
  if (meant.length === 1) return location.replace(d.chartLink(exchange, meant[0].symbol, interval)); // and so it comes here again
  const known = exchanges.get(exchange)?.intervals ?? INTERVALS;
  last = location.hash;
  document.querySelector('[data-nav="chart"]').href = last;
  d.role("intervals").replaceChildren(...INTERVALS.filter((one) => known.includes(one)).map((one) => {
    const link = d.make("a", { text: one, href: d.chartLink(exchange, symbol, one) });
    if (one === interval) link.setAttribute("aria-current", "true");
    return link;
  }));
  chart.open(place);
  if (!instruments.has(keyOf(exchange, symbol))) return;
  derivatives.open(exchange, symbol);
  tapes.open(exchange, symbol);
}

function find(text) {
  const wanted = text.trim().toUpperCase();
  const all = [...instruments.values()];
  return all.find((one) => `${one.symbol} ${one.exchange}`.toUpperCase() === wanted) ?? all.find((one) => one.symbol.toUpperCase() === wanted)
    ?? all.find((one) => one.base.toUpperCase() === wanted) ?? all.find((one) => one.symbol.toUpperCase().startsWith(wanted));
}

// Thousands of names are listed by the exchanges; the document holds those that begin as what is typed.
search.addEventListener("input", () => {
  const typed = search.value.trim().toUpperCase(), begins = (one) => one.symbol.toUpperCase().startsWith(typed) || one.base.toUpperCase().startsWith(typed);
  const found = typed ? [...instruments.values()].filter(begins).slice(0, NAMES_MAX) : [];
  search.list.replaceChildren(...found.map((one) => d.make("option", { value: `${one.symbol} ${one.exchange}` })));
});
search.addEventListener("change", () => {
  const one = search.value && find(search.value);
  if (one) location.hash = d.chartLink(one.exchange, one.symbol, place.interval ?? "1m").slice(1);
  search.value = "";
  search.blur();
});

const actions = {
  "/": () => (location.hash = last || firstChart(), setTimeout(() => search.focus())),
  m: () => (location.hash = "#/"), c: () => (location.hash = last || firstChart()), h: () => (location.hash = "#/health"),
  t: () => (d.role("bars-table").open = !d.role("bars-table").open), "?": () => help.showModal(),
  ArrowLeft: () => chart.move(-5), ArrowRight: () => chart.move(5),
};
for (const [index, interval] of INTERVALS.entries()) {
  actions[index + 1] = () => place.view === "chart" && (location.hash = d.chartLink(place.exchange, place.symbol, interval));
}

function firstChart() {
  const [exchange] = exchanges.values();
  return exchange?.symbols.length ? d.chartLink(exchange.name, exchange.symbols[0], "1m") : "#/";
}

document.addEventListener("keydown", (event) => {
  const inField = event.target.closest("input, select, textarea, dialog, button, summary, [tabindex='0']");
  const isArrow = event.key.startsWith("Arrow");
  if (event.ctrlKey || event.metaKey || event.altKey || (inField && (isArrow || event.target.closest("input, select, dialog")))) return;
  if (!d.role("letters").checked && !isArrow) return;
  if (!actions[event.key] || (isArrow && place.view !== "chart")) return;
  event.preventDefault();
  actions[event.key]();
});

function theme(name) {
  if (name) root.dataset.theme = name;
  chart.dress();
}

d.role("theme").addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem("theme", isDark ? "light" : "dark");
  theme(localStorage.getItem("theme"));
});
d.role("help").addEventListener("click", () => help.showModal());
d.role("letters").checked = localStorage.getItem("letters") !== "off";
d.role("letters").addEventListener("change", (event) => localStorage.setItem("letters", event.target.checked ? "on" : "off"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => chart.dress());

function socketLine() {
  const state = root.dataset.socket, where = d.role("socket");
  d.say(where, state === "open" ? "● Live" : state === "connecting" ? "Connecting" : `reconnecting in ${retryIn()} s`);
  where.className = state === "open" ? "up" : "warn";
  for (const box of document.querySelectorAll("section")) {
    box.classList.toggle("dimmed", state === "reconnecting");
    if (box.dataset.panel === "chart") continue; // it says more
    if (state === "reconnecting") box.dataset.state = "disconnected";
    else delete box.dataset.state;
  }
}

// The daemon's page is for everybody, its data is not. The key stays in this page alone: another visit asks again.
function askKey(why) {
  const box = d.role("key"), form = box.querySelector("form");
  box.hidden = false;
  d.say(box.querySelector("[role=status]"), why);
  form.elements.key.type = "password"; // not before: of a form for passwords that nobody sees, browsers complain
  form.elements.key.focus();
  return new Promise((given) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      useKey(form.elements.key.value.trim());
      box.hidden = true;
      given();
    };
  });
}

async function begin() {
  turn(parse()); // of the right shape before anything is known
  theme(localStorage.getItem("theme"));
  onSocket(socketLine);
  d.every(1000, () => {
    d.say(d.role("clock"), `${d.clock(now())} UTC`);
    if (root.dataset.socket === "reconnecting") socketLine();
  });
  for (;;) {
    try {
      await learn();
      break;
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        await askKey(error.message);
        continue;
      }
      d.note(d.panel("markets"), error.message);
      d.say(d.role("chart-status"), error.message);
      await new Promise((go) => setTimeout(go, 2000));
    }
  }
  document.querySelector('[data-nav="chart"]').href = firstChart();
  markets.start();
  tapes.start();
  watch();
  addEventListener("hashchange", show);
  show();
  connect();
}

begin();
