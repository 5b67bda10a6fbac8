// The way to the daemon: JSON by HTTP, one socket for all topics, and the daemon's clock.

const here = location.href.split("#")[0];
let ahead = 0; // ms that the daemon's clock is ahead of the browser's, which may be wrong by hours

export const address = (path) => new URL(path, here).href;
export const now = () => Date.now() + ahead;

export async function ask(path) {
  const answer = await fetch(address(path), { headers: { Accept: "application/json" } });
  const date = Date.parse(answer.headers.get("Date"));
  if (!Number.isNaN(date)) ahead = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
  const body = await answer.json();
  if (answer.ok) return body;
  const wait = body.retry_after ? ` (again in ${body.retry_after} s)` : "";
  throw new Error(`${body.detail ?? answer.statusText}${wait}`);
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

function subscribe(names) {
  // Bars may be refilled over what is there; a tape has no past to ask for.
  for (const backfill of new Set(names.map((name) => topics.get(name).backfill))) {
    const some = names.filter((name) => topics.get(name).backfill === backfill);
    const since = Object.fromEntries(some.map((name) => [name, topics.get(name).position]).filter(([, at]) => at));
    socket.send(JSON.stringify({ op: "subscribe", topics: some, since, ...(backfill && { backfill }) }));
  }
}

export function follow(topic, take, backfill = 0) {
  topics.set(topic, { take, backfill, position: null });
  if (socket?.readyState === WebSocket.OPEN) subscribe([topic]);
  return () => {
    topics.delete(topic);
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ op: "unsubscribe", topics: [topic] }));
  };
}

export function connect() {
  clearTimeout(timer);
  const url = new URL("ws?batch_ms=50", here);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.onopen = () => {
    delay = 500;
    become("open");
    if (topics.size) subscribe([...topics.keys()]);
  };
  socket.onmessage = ({ data }) => {
    const frames = JSON.parse(data), byTopic = new Map();
    for (const frame of Array.isArray(frames) ? frames : [frames]) {
      if (frame.type === "ack") for (const name of frame.topics ?? []) topics.get(name)?.take([frame]);
      const topic = topics.get(frame.topic);
      if (!topic) continue;
      if (frame.seq !== undefined) topic.position = { epoch: frame.epoch, seq: frame.seq };
      if (!byTopic.has(topic)) byTopic.set(topic, []);
      byTopic.get(topic).push(frame);
    }
    for (const [topic, some] of byTopic) topic.take(some);
  };
  socket.onclose = () => {
    const wait = delay * (0.75 + Math.random() / 2);
    delay = Math.min(delay * 2, 8000);
    retryAt = Date.now() + wait;
    become("reconnecting");
    timer = setTimeout(connect, wait);
  };
}
