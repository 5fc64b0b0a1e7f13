// The line, its minutes and the price, drawn by lightweight-charts.
import { effect, signal } from "@preact/signals";
import {
  ColorType,
  createChart,
  createSeriesMarkers,
  CrosshairMode,
  HistogramSeries,
  type IChartApi,
  type ISeriesApi,
  LineSeries,
  type SeriesMarker,
  type Time,
  type UTCTimestamp,
} from "lightweight-charts";
import type { DivergencePoint, Point, SessionDay } from "../api";
import { line, readings } from "../live";
import { isLight } from "../session";
import { view } from "../view";
import { type Band, Bands } from "./bands";
import { date, hhmm, moment, stamp } from "./times";

declare global {
  interface Window {
    /** For tests and measurements. */
    flowtape: { points: () => Point[]; drawn: () => object; again: () => void };
  }
}

/** The point under the crosshair, null when it is nowhere. */
export const hovered = signal<Point | null>(null);

const colour = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const netOf = (point: Point): number => point.netVolume ?? point.netPremium ?? 0;
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export class FlowChart {
  private readonly chart: IChartApi;
  private readonly cumulative: ISeriesApi<"Line">;
  private readonly net: ISeriesApi<"Histogram">;
  private readonly price: ISeriesApi<"Line">;
  private readonly bands = new Bands();
  private readonly marks;
  private readonly stops: (() => void)[] = [];
  private byTime = new Map<Time, Point>();
  private moved = false;

  constructor(private readonly box: HTMLElement) {
    this.chart = createChart(box, {
      autoSize: true,
      // Its logo brings a style element, which the page's policy keeps out; the footer names the library.
      layout: { attributionLogo: false },
      crosshair: { mode: CrosshairMode.Magnet },
      localization: { timeFormatter: (time: Time) => moment(Number(time) * 1000) },
      leftPriceScale: { visible: true },
      timeScale: {
        timeVisible: true,
        minBarSpacing: 0.01,
        rightOffset: 2,
        tickMarkFormatter: (time: Time, kind: number) =>
          // The library's days begin at midnight UTC, which is no midnight here: those ticks tell both.
          (kind <= 2 ? `${date(Number(time) * 1000)} ` : "") + hhmm(Number(time) * 1000),
      },
    });
    const numbers = { type: "custom" as const, minMove: 0.01, formatter: (value: number) => compact.format(value) };
    this.price = this.chart.addSeries(LineSeries, { priceScaleId: "left", lineWidth: 1, title: "price" });
    this.cumulative = this.chart.addSeries(LineSeries, { lineWidth: 2, priceFormat: numbers, title: "cumulative" });
    this.net = this.chart.addSeries(HistogramSeries, { priceFormat: numbers, title: "net" }, 1);
    this.chart.panes()[0]?.setStretchFactor(4);
    this.chart.panes()[1]?.setStretchFactor(1);
    this.cumulative.attachPrimitive(this.bands);
    this.marks = createSeriesMarkers(this.cumulative, []);
    this.chart.subscribeCrosshairMove(({ time }) => {
      hovered.value = time === undefined ? null : (this.byTime.get(time) ?? null);
    });
    for (const kind of ["pointerdown", "wheel"]) {
      box.addEventListener(kind, () => (this.moved = true), { passive: true, capture: true });
    }
    this.stops.push(
      effect(() => this.paint(isLight())),
      effect(() => {
        void view.value;
        this.moved = false;
      }),
      effect(() => this.draw(line.value)),
      effect(() => this.mark()),
    );
    window.flowtape = {
      points: () => line.peek().points,
      drawn: () => this.drawn(),
      again: () => this.draw({ points: line.peek().points, tail: line.peek().points.slice(-1) }),
    };
  }

  /** What the series hold. */
  private drawn(): object {
    return { cumulative: this.cumulative.data(), net: this.net.data(), price: this.price.data() };
  }

  private draw({ points, tail }: { points: Point[]; tail: Point[] | null }): void {
    if (tail === null) {
      this.byTime = new Map(points.map((point) => [stamp(point.ts), point]));
      this.cumulative.setData(points.map((point) => ({ time: stamp(point.ts), value: point.cumulative })));
      this.net.setData(points.map((point) => this.bar(point)));
      if (!this.moved) this.chart.timeScale().fitContent();
      return;
    }
    for (const point of tail) {
      this.byTime.set(stamp(point.ts), point);
      this.cumulative.update({ time: stamp(point.ts), value: point.cumulative });
      this.net.update(this.bar(point));
    }
  }

  private bar(point: Point): { time: UTCTimestamp; value: number; color: string } {
    const value = netOf(point);
    return { time: stamp(point.ts), value, color: this.tints[value < 0 ? 1 : 0] };
  }

  private tints: [string, string] = ["", ""];

  private paint(_light: boolean): void {
    const text = colour("quiet");
    const grid = { color: colour("grid") };
    this.tints = [colour("buy"), colour("sell")];
    this.chart.applyOptions({
      layout: {
        background: { type: ColorType.Solid, color: colour("ground") },
        textColor: text,
        panes: { separatorColor: colour("edge") },
        fontFamily: "system-ui, sans-serif",
      },
      grid: { vertLines: grid, horzLines: grid },
      leftPriceScale: { borderColor: colour("edge") },
      rightPriceScale: { borderColor: colour("edge") },
      timeScale: { borderColor: colour("edge") },
    });
    this.cumulative.applyOptions({ color: colour("line") });
    this.price.applyOptions({ color: colour("price") });
    this.net.setData(line.peek().points.map((point) => this.bar(point)));
    this.mark();
  }

  /** The price, and what the readings say of the line. */
  private mark(): void {
    const { divergence, turns, sessions } = readings.value;
    const found = divergence?.points ?? [];
    this.price.setData(found.map(({ ts, price }) => ({ time: stamp(ts), value: price })));
    const held = line.peek().points;
    this.bands.set([...sessionBands(held, sessions), ...divergenceBands(found)]);
    const times = new Set(held.map((point) => point.ts));
    // They are those of the line of volume from the window's start; on another they would lie.
    const { measure, anchor } = view.peek();
    const marks = turns
      .filter((turn) => measure === "volume" && anchor === "window" && times.has(turn.ts))
      .map((turn): SeriesMarker<Time> => ({
        time: stamp(turn.ts),
        position: turn.kind === "high" ? "aboveBar" : "belowBar",
        shape: turn.kind === "high" ? "arrowDown" : "arrowUp",
        color: colour("mark"),
        size: 0.8,
      }));
    this.marks.setMarkers(marks.sort((one, other) => Number(one.time) - Number(other.time)));
  }

  /** Move the crosshair by so many points, from the last one when it is nowhere. */
  step(by: number): void {
    const { points } = line.peek();
    const at = hovered.peek() ? points.findIndex((point) => point.ts === hovered.peek()!.ts) : points.length - 1;
    const point = points[Math.max(0, Math.min(points.length - 1, at + by))];
    if (!point) return;
    this.chart.setCrosshairPosition(point.cumulative, stamp(point.ts), this.cumulative);
    hovered.value = point;
  }

  /** The picture, as a PNG. */
  async png(): Promise<Blob> {
    const canvas = this.chart.takeScreenshot(true);
    return new Promise((resolve, reject) =>
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture could be made")))),
    );
  }

  close(): void {
    for (const stop of this.stops) stop();
    this.chart.remove();
    this.box.replaceChildren();
  }
}

function sessionBands(points: Point[], sessions: SessionDay[]): Band[] {
  const color = colour("session");
  const bands: Band[] = [];
  for (const { open, close } of sessions) {
    if (!open || !close) continue;
    const first = points.find((point) => point.ts >= open && point.ts < close);
    const last = points.findLast((point) => point.ts >= open && point.ts < close);
    if (first && last) bands.push({ from: stamp(first.ts), to: stamp(last.ts), color });
  }
  return bands;
}

function divergenceBands(points: DivergencePoint[]): Band[] {
  const bands: Band[] = [];
  let last = "";
  for (const { ts, state } of points) {
    const diverges = state === "bullish_divergence" || state === "bearish_divergence";
    const color = colour(state === "bullish_divergence" ? "bullish" : "bearish");
    const open = bands.at(-1);
    if (diverges && last === state && open) open.to = stamp(ts);
    else if (diverges) bands.push({ from: stamp(ts), to: stamp(ts), color });
    last = state;
  }
  return bands;
}
