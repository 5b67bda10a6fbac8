// Elements, rows and numbers. Text reaches the document by textContent alone.

export const panel = (name) => document.querySelector(`[data-panel="${name}"]`);
export const role = (name, within = document) => within.querySelector(`[data-role="${name}"]`);

export function make(tag, { text, data, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) say(element, text);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

// What an element says is remembered beside it: to ask the document hundreds of times a frame costs more than to paint.
export function say(element, text) {
  if (element.said === text) return false;
  element.said = element.textContent = text;
  return true;
}

// A row for each of `list`, kept by key: a focused row stays the same element, and keeps the focus where it is moved.
// cells: [{text, value?, field?, kind?, link?, node?, flash?, swatch?}]
export function rows(body, list, { key, data, cells }) {
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  let place = body.firstElementChild;
  for (const item of list) {
    const name = String(key(item));
    const row = old.get(name) ?? make("tr", { data: { key: name } });
    old.delete(name);
    for (const [field, value] of Object.entries(data(item))) if (row.dataset[field] !== String(value)) row.dataset[field] = value;
    cells(item).forEach((told, index) => cell(row.children[index] ?? row.appendChild(make("td")), told));
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  for (const row of old.values()) row.remove();
  if (focused && focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

const still = matchMedia("(prefers-reduced-motion: reduce)");
const FLASH = [{ backgroundColor: "color-mix(in srgb, currentColor 14%, transparent)" }, { backgroundColor: "transparent" }];

function cell(element, { text = "", value, field, kind = "", link, node, flash, swatch }) {
  if (field && element.dataset.field !== field) element.dataset.field = field;
  if (value !== undefined && element.dataset.value !== String(value)) element.dataset.value = value;
  if (element.className !== kind) element.className = kind;
  if (node) {
    if (element.firstChild !== node) element.replaceChildren(node);
  } else if (link) {
    if (!element.firstElementChild) element.append(make("a"));
    if (element.firstElementChild.getAttribute("href") !== link) element.firstElementChild.setAttribute("href", link);
    say(element.firstElementChild, text);
  } else if (swatch) {
    if (!element.firstElementChild) element.append(make("i", { class: "swatch", "aria-hidden": "true" }), make("span"));
    element.firstElementChild.style.background = swatch;
    say(element.lastElementChild, text);
  } else {
    const before = element.said;
    if (say(element, text) && flash && before && !still.matches) element.animate(FLASH, 300);
  }
}

export function note(box, text) {
  const line = box.querySelector(".note");
  say(line, text);
  if (line.hidden !== !text) line.hidden = !text;
}

export const decimals = (step) => {
  if (!step) return 2;
  const [digits, power] = String(step).split("e-");
  return (digits.split(".")[1]?.length ?? 0) + Number(power ?? 0);
};

const formats = new Map();
export function number(value, places) {
  if (value === null || value === undefined) return "";
  if (!formats.has(places)) formats.set(places, new Intl.NumberFormat("en", { minimumFractionDigits: places, maximumFractionDigits: places }));
  return formats.get(places).format(value);
}
// As wide as with `most` decimals, so that points stand below each other: a point's and digits' widths of nothing.
export const aligned = (value, places, most) => {
  const missing = value === null || value === undefined ? 0 : most - places;
  return number(value, places) + (missing > 0 && places === 0 ? "\u2008" : "") + "\u2007".repeat(Math.max(0, missing));
};
const short = new Intl.NumberFormat("en", { notation: "compact", minimumFractionDigits: 2, maximumFractionDigits: 2 });
export const compact = (value) => (value === null || value === undefined ? "" : short.format(value));
export const percent = (value, places = 2) => {
  const text = number(Math.abs(value) * 100, places), isLess = value < 0 && /[1-9]/.test(text); // there is no −0.00
  return `${isLess ? "−" : "+"}${text} %`;
};
export const change = (value) => `${value < 0 ? "▼" : "▲"} ${percent(value)}`;
export const clock = (time) => new Date(time).toISOString().slice(11, 19);
export const minute = (time) => new Date(time).toISOString().slice(0, 16).replace("T", " ");
export const span = (ms) => {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}`;
  return `${Math.floor(s / 86_400)} days`;
};
export const direction = (value) => (value < 0 ? "n down" : "n up");
export const chartLink = (exchange, symbol, interval) => `#/${exchange}/${encodeURIComponent(symbol)}/${interval}`;

// One painting per frame, none while the page is hidden.
const due = new Set();
let asked = false;
function paint() {
  asked = false;
  if (document.hidden) return;
  for (const draw of [...due]) {
    due.delete(draw);
    draw();
  }
}
export function soon(draw) {
  due.add(draw);
  if (asked || document.hidden) return;
  asked = true;
  requestAnimationFrame(paint);
}
document.addEventListener("visibilitychange", () => due.size && !document.hidden && paint());

// At once and every `ms` while the page is seen; what it returns stops it.
export function every(ms, act) {
  const step = () => document.hidden || act();
  step();
  const timer = setInterval(step, ms);
  document.addEventListener("visibilitychange", step);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", step);
  };
}
