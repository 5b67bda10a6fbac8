// What is drawn beside the bars: liquidations of each bar, and where something was lost.
import { seconds } from "./bars.js";
import { ask } from "./wire.js";

const AT_ONCE = 500; // bars

// Marks of the bars that are drawn: longs below, shorts above.
export async function marksOf(market, colour) {
  const found = await ask(`${market.exchange}/liquidations/${encodeURIComponent(market.symbol)}/bars?interval=${market.interval}&limit=${AT_ONCE}`);
  const drawn = new Set(market.bars.list.map((bar) => bar.timestamp));
  return found.filter((bar) => drawn.has(bar.timestamp)).flatMap((bar) => [
    ...(bar.long_value ? [{ time: seconds(bar.timestamp), position: "belowBar", shape: "arrowDown", size: 0.6, color: colour("down") }] : []),
    ...(bar.short_value ? [{ time: seconds(bar.timestamp), position: "aboveBar", shape: "arrowUp", size: 0.6, color: colour("up") }] : []),
  ]);
}

export const gapOf = ({ from, to }) => ({ key: from, from: seconds(from), to: to ? seconds(to) : Infinity });

// What was lost before this page was there; what is lost from now on says the topic itself.
export async function formerGaps(topic) {
  const told = (await ask("quality")).flatMap((feed) => feed.topics).find((one) => one.topic === topic);
  return (told?.gaps ?? []).filter((gap) => !gap.repaired).map(gapOf);
}
