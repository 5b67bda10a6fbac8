// The bars of one market, in order: a closed bar is never replaced by an open one.

export const BARS_MAX = 1500;

export function makeBars() {
  const byTime = new Map();
  let sorted = [];
  return {
    get list() { return sorted; },
    // Whether all of them are drawn by updates at the right edge; else everything is to be drawn anew.
    take(bars) {
      let isAppended = true;
      for (const bar of bars) {
        const old = byTime.get(bar.timestamp);
        if (old?.is_closed && !bar.is_closed) continue;
        byTime.set(bar.timestamp, bar);
        const last = sorted.at(-1);
        if (last === undefined || bar.timestamp > last.timestamp) sorted.push(bar);
        else if (bar.timestamp === last.timestamp) sorted[sorted.length - 1] = bar;
        else isAppended = false;
      }
      if (!isAppended) sorted = [...byTime.values()].sort((a, b) => (a.timestamp < b.timestamp ? -1 : 1));
      if (sorted.length > BARS_MAX) {
        for (const bar of sorted.splice(0, sorted.length - BARS_MAX + 100)) byTime.delete(bar.timestamp);
        isAppended = false;
      }
      return isAppended;
    },
  };
}

export const seconds = (time) => Date.parse(time) / 1000;
