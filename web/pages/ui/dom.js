// Elements, rows and numbers. Text reaches the document by textContent alone.

export const panel = (name) => document.querySelector(`[data-panel="${name}"]`);
export const role = (name, within = document) => within.querySelector(`[data-role="${name}"]`);

export function make(tag, { text, data, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A row for each of `list`, kept by key: a focused row stays the same element.
// cells: [{text, value?, field?, kind?, link?}]
export function rows(body, list, { key, data, cells }) {
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  let place = body.firstElementChild;
  for (const item of list) {
    const name = key(item);
    const row = old.get(name) ?? make("tr", { data: { key: name } });
    old.delete(name);
    for (const [field, value] of Object.entries(data(item))) if (row.dataset[field] !== String(value)) row.dataset[field] = value;
    cells(item).forEach((told, index) => cell(row.children[index] ?? row.appendChild(make("td")), told));
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  for (const row of old.values()) row.remove();
}

function cell(element, { text, value, field, kind = "", link, node }) {
  if (field) element.dataset.field = field;
  if (value !== undefined) element.dataset.value = value;
  if (element.className !== kind) element.className = kind;
  if (node) {
    if (element.firstChild !== node) element.replaceChildren(node);
  } else if (link) {
    if (!element.firstElementChild) element.append(make("a"));
    element.firstElementChild.setAttribute("href", link);
    say(element.firstElementChild, text);
  } else say(element, text ?? "");
}

export const note = (box, text) => {
  const line = box.querySelector(".note");
  say(line, text);
  line.hidden = !text;
};

export const decimals = (step) => {
  if (!step) return 2;
  const [digits, power] = String(step).split("e-");
  return (digits.split(".")[1]?.length ?? 0) + Number(power ?? 0);
};
export const number = (value, places) =>
  value === null || value === undefined ? "" : value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
export const percent = (value, places = 2) => `${value < 0 ? "−" : "+"}${number(Math.abs(value) * 100, places)} %`;
export const clock = (time) => new Date(time).toISOString().slice(11, 19);
export const minute = (time) => new Date(time).toISOString().slice(0, 16).replace("T", " ");
export const span = (ms) => {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}`;
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
