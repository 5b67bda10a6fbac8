// Lines of several venues in one small picture, on one scale of time and value, with what it spans in words beside it.
import { nameOf } from "./known.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, EDGE] = [300, 60, 3];

export const colourOf = (index) => `var(--line${(index % 5) + 1})`;

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// series: [{index, exchange, values: [[ms, value], …]}]; `isStepped`: a value holds until the next.
// The one with most corners is whole, the others have ever longer pauses: lines that lie upon each other are all seen.
export function draw(svg, series, { isStepped = false, zero = false } = {}) {
  const flat = series.flatMap(({ values }) => values);
  svg.replaceChildren();
  if (flat.length < 2) return null;
  const times = flat.map(([time]) => time), values = flat.map(([, value]) => value).concat(zero ? [0] : []);
  const [from, to, low, high] = [Math.min(...times), Math.max(...times), Math.min(...values), Math.max(...values)];
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const x = (time) => (((time - from) / (to - from || 1)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - EDGE - ((value - low) / (high - low || 1)) * (HEIGHT - 2 * EDGE)).toFixed(1);
  if (zero) svg.append(shape("line", { x1: 0, x2: WIDTH, y1: y(0), y2: y(0), class: "zero" }));
  const order = [...series].sort((a, b) => b.values.length - a.values.length);
  order.forEach(({ index, exchange, values }, place) => {
    const corners = values.flatMap(([time, value], at) => (isStepped && at > 0 ? [`${x(time)},${y(values[at - 1][1])}`] : []).concat(`${x(time)},${y(value)}`));
    if (isStepped) corners.push(`${WIDTH},${y(values.at(-1)[1])}`);
    const line = shape("polyline", { points: corners.join(" "), "stroke-dasharray": place ? `8 ${8 * place}` : "none" });
    line.style.stroke = colourOf(index);
    line.append(shape("title", {}));
    line.firstChild.textContent = nameOf(exchange);
    svg.append(line);
  });
  return { from, to, low, high };
}
