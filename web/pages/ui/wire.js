// The way to the daemon: JSON by HTTP, one socket for all topics, and the daemon's clock.

const here = location.href.split("#")[0];
const AT_ONCE = 100; // topics in one command
let ahead = 0; // ms that the daemon's clock is ahead of the browser's, which may be wrong by hours
let key = ""; // held nowhere else

export const address = (path) => new URL(path, here).href;
export const now = () => Date.now() + ahead;
export const useKey = (text) => (key = text);

export async function ask(path) {
  const headers = { Accept: "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(address(path), { headers });
  const date = Date.parse(answer.headers.get("Date"));
  if (!Number.isNaN(date)) ahead = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
  const body = await answer.json();
  if (answer.ok) return body;
  const wait = body.retry_after ? ` (again in ${body.retry_after} s)` : "";
  throw Object.assign(new Error(`${body.detail ?? answer.statusText}${wait}`), { status: answer.status });
}

const topics = new Map(); // topic → {take, backfill, position}
let socket, delay = 500, retryAt = 0, timer;
const changed = new Set();

export const onSocket = (tell) => changed.add(tell);
export const retryIn = () => Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));

function become(state) {
  if (document.documentElement.dataset.socket === state) return;
  document.documentElement.dataset.socket = state;
  for (const tell of changed) tell(state);
}

// A view takes up and lays down hundreds of topics in one go: they leave in as few commands as may be.
const begun = new Set(), ended = new Set();
let isDue = false;

function later() {
  if (isDue) return;
  isDue = true;
  queueMicrotask(() => {
    isDue = false;
    const [some, others] = [[...ended], [...begun]];
    ended.clear();
    begun.clear();
    if (socket?.readyState !== WebSocket.OPEN) return; // when it opens, all that is followed is subscribed
    inParts(some, (names) => command({ op: "unsubscribe", topics: names }));
    subscribe(others);
  });
}

const command = (what) => socket.send(JSON.stringify(what));

function inParts(names, act) {
  for (let start = 0; start < names.length; start += AT_ONCE) act(names.slice(start, start + AT_ONCE));
}

function subscribe(names) {
  // Bars may be refilled over what is there; a tape has no past to ask for.
  for (const backfill of new Set(names.map((name) => topics.get(name).backfill))) {
    inParts(names.filter((name) => topics.get(name).backfill === backfill), (some) => {
      const since = Object.fromEntries(some.map((name) => [name, topics.get(name).position]).filter(([, at]) => at));
      command({ op: "subscribe", topics: some, since, ...(backfill && { backfill }) });
    });
  }
}

export function follow(topic, take, backfill = 0) {
  topics.set(topic, { take, backfill, position: null });
  begun.add(topic);
  later();
  return () => {
    topics.delete(topic);
    if (!begun.delete(topic)) ended.add(topic);
    later();
  };
}

function hear(frames) {
  const byTopic = new Map();
  for (const frame of frames) {
    if (frame.type === "ack") for (const name of frame.topics ?? []) topics.get(name)?.take([frame]);
    const topic = topics.get(frame.topic);
    if (!topic) continue;
    if (frame.seq !== undefined) topic.position = { epoch: frame.epoch, seq: frame.seq };
    if (!byTopic.has(topic)) byTopic.set(topic, []);
    byTopic.get(topic).push(frame);
  }
  for (const [topic, some] of byTopic) topic.take(some);
}

export function connect() {
  clearTimeout(timer);
  const url = new URL("ws?batch_ms=50", here);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url, key ? ["marketd", `marketd.key.${key}`] : []);
  socket.onopen = () => {
    delay = 500;
    become("open");
    begun.clear();
    ended.clear();
    subscribe([...topics.keys()]);
  };
  socket.onmessage = ({ data }) => {
    const told = JSON.parse(data);
    hear(Array.isArray(told) ? told : [told]);
  };
  socket.onclose = ({ code }) => {
    if (code === 4401 || code === 4403) location.reload(); // the page asks for a key
    const wait = delay * (0.75 + Math.random() / 2);
    delay = Math.min(delay * 2, 8000);
    retryAt = Date.now() + wait;
    become("reconnecting");
    timer = setTimeout(connect, wait);
  };
}
