// What of the chart library is used: candles, volume below, marks of liquidations, hatched gaps.
import { make, number, role } from "./dom.js";
import { seconds } from "./bars.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// onLeft(): the oldest bars are in sight. onPoint(seconds or null): over which bar the pointer is.
export function makeCanvas(box, onLeft, onPoint) {
  const { createChart, createSeriesMarkers, CandlestickSeries, HistogramSeries } = window.LightweightCharts;
  const chart = createChart(box, {
    autoSize: true,
    layout: { attributionLogo: false },
    timeScale: { timeVisible: true, secondsVisible: false, rightOffset: 4, borderVisible: false },
  });
  const candles = chart.addSeries(CandlestickSeries, {});
  const volume = chart.addSeries(HistogramSeries, { priceScaleId: "volume", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false });
  chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
  chart.priceScale("right").applyOptions({ scaleMargins: { top: 0.06, bottom: 0.22 } });
  const marks = createSeriesMarkers(candles, []);
  let gaps = [];

  function dress() {
    chart.applyOptions({
      layout: { background: { color: colour("panel") }, textColor: colour("dim"), fontFamily: "system-ui, sans-serif" },
      grid: { vertLines: { color: colour("grid") }, horzLines: { color: colour("grid") } },
      rightPriceScale: { borderColor: colour("edge") },
      crosshair: { mode: 0, vertLine: { labelBackgroundColor: colour("edge") }, horzLine: { labelBackgroundColor: colour("edge") } },
    });
    const [up, down] = [colour("up"), colour("down")];
    candles.applyOptions({ upColor: up, borderUpColor: up, wickUpColor: up, downColor: down, borderDownColor: down, wickDownColor: down });
    volume.applyOptions({ color: `${colour("dim")}66` });
  }

  function hatch() {
    if (!gaps.length && !box.querySelector(".gap")) return;
    for (const old of box.querySelectorAll(".gap")) old.remove();
    const scale = chart.timeScale(), bars = candles.data();
    for (const { from, to } of gaps) {
      const before = bars.findLast((bar) => bar.time <= from), after = bars.find((bar) => bar.time >= to);
      const left = before ? scale.timeToCoordinate(before.time) : null;
      const right = after ? scale.timeToCoordinate(after.time) : scale.width();
      if (left === null || right === null || right <= 0 || left >= scale.width()) continue;
      const mark = box.appendChild(make("div", { class: "gap" }));
      mark.style.left = `${Math.max(0, left)}px`;
      mark.style.width = `${Math.max(4, right - Math.max(0, left))}px`;
    }
  }

  const candle = (bar) => ({ time: seconds(bar.timestamp), open: bar.open, high: bar.high, low: bar.low, close: bar.close });
  const column = (bar) => ({ time: seconds(bar.timestamp), value: bar.volume });
  chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
    hatch();
    if (range && range.from < 10) onLeft();
  });
  chart.subscribeCrosshairMove(({ time }) => onPoint(time ?? null));
  dress();
  return {
    dress,
    drawn: () => candles.data().map(({ time, open, high, low, close }) => ({ time, open, high, low, close })),
    all(bars) {
      candles.setData(bars.map(candle));
      volume.setData(bars.map(column));
    },
    append(bar) {
      candles.update(candle(bar));
      volume.update(column(bar));
    },
    show(count) { chart.timeScale().setVisibleLogicalRange({ from: count - 140, to: count + 4 }); },
    decimals(places) {
      candles.applyOptions({ priceFormat: { type: "custom", formatter: (price) => number(price, places), minMove: 10 ** -places } });
    },
    move(by) { chart.timeScale().scrollToPosition(chart.timeScale().scrollPosition() + by, false); },
    mark(list) { marks.setMarkers(list); },
    gaps(list) {
      gaps = list;
      hatch();
    },
    colour,
  };
}

export const canvasBox = (within) => role("canvas", within);
