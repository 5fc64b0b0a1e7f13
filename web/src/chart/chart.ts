// The line, its minutes and the price, drawn by lightweight-charts.
import { effect, signal } from "@preact/signals";
import {
  ColorType,
  createChartEx,
  createSeriesMarkers,
  CrosshairMode,
  type DeepPartial,
  HistogramSeries,
  type IChartApiBase,
  type ISeriesApi,
  type LineData,
  LineSeries,
  type SeriesMarker,
  type Time,
  type TimeChartOptions,
  type UTCTimestamp,
} from "lightweight-charts";
import { netOf, type Point } from "../api";
import { line, shown } from "../live";
import { readings } from "../readings";
import { isLight } from "../session";
import { split } from "../split";
import { moment, stamp } from "../times";
import { view } from "../view";
import { Bands, divergenceBands, sessionBands } from "./bands";
import { exactTicks, loneOutliers, NewYorkScale, tick } from "./scale";

/** The point under the crosshair, null when it is nowhere. */
export const hovered = signal<Point | null>(null);
/** How many prices are far from all others and lie beyond the price axis. */
export const offScale = signal(0);
/** Whether the underlying's price is drawn. */
export const priced = signal(false);

export const colour = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });
const label = (value: number): string => (value < 0 ? "−" : "") + compact.format(Math.abs(value));
const CLEAR = "transparent";
const RIGHT_MARGIN = 24;
/** The axes' least width in px: one that grows as numbers arrive would move the chart. */
const NARROW = matchMedia("(max-width: 900px)").matches;
const [LEFT_AXIS, RIGHT_AXIS] = NARROW ? [52, 56] : [64, 76];
/** From this width of a minute on, in px, the library draws markers larger. */
const WIDE_BARS = 12;
const WIDEST_STEP = 1.25;

type Line = ISeriesApi<"Line">;

export class FlowChart {
  private readonly chart: IChartApiBase<Time>;
  private readonly cumulative: Line;
  private readonly calls: Line;
  private readonly puts: Line;
  private readonly net: ISeriesApi<"Histogram">;
  private readonly price: Line;
  private readonly bands = new Bands();
  private readonly marks;
  private readonly stops: (() => void)[] = [];
  private byTime = new Map<Time, Point>();
  private lone = new Set<Time>();
  private tints: [string, string] = ["", ""];
  /** Whether the part in sight was chosen by zooming or scrolling. */
  private moved = false;
  /** The part in sight before the view changed, to be shown again. */
  private kept: { from: Time; to: Time } | null = null;
  /** The minute that the keyboard's crosshair is on. */
  private pinned: string | null = null;
  private period = "";
  /** The texts of the time axis by their times, and the newest ones of the axis of the line. For tests. */
  private readonly ticks = new Map<number, string>();
  private numbers: string[] = [];

  constructor(private readonly box: HTMLElement) {
    const tickMarkFormatter = (time: Time, kind: number): string => {
      this.ticks.set(Number(time), tick(time, kind));
      return tick(time, kind);
    };
    const options: DeepPartial<TimeChartOptions> = {
      autoSize: true,
      // Its logo brings a style element, which the page's policy forbids; the footer names the library.
      layout: { attributionLogo: false },
      crosshair: { mode: CrosshairMode.Magnet },
      localization: { timeFormatter: (time: Time) => moment(Number(time) * 1000) },
      leftPriceScale: { visible: true, minimumWidth: LEFT_AXIS, entireTextOnly: true },
      rightPriceScale: { minimumWidth: RIGHT_AXIS, entireTextOnly: true },
      // A vertical swipe scrolls the page, not the prices.
      handleScroll: { vertTouchDrag: false },
      timeScale: { timeVisible: true, minBarSpacing: 0.01, rightOffsetPixels: RIGHT_MARGIN, tickMarkFormatter },
    };
    this.chart = createChartEx<Time, NewYorkScale>(box, new NewYorkScale(), options);
    const numbers = { type: "custom" as const, minMove: 0.01, formatter: label, tickmarksFormatter: exactTicks };
    const tickmarksFormatter = (values: readonly number[]): string[] => (this.numbers = exactTicks(values));
    const lines = { priceFormat: { ...numbers, tickmarksFormatter } };
    this.price = this.chart.addSeries(LineSeries, {
      priceScaleId: "left",
      lineWidth: 1,
      autoscaleInfoProvider: (original: () => ReturnType<FlowChart["priceRange"]>) => this.priceRange(original),
    });
    this.calls = this.chart.addSeries(LineSeries, { lineWidth: 1, ...lines });
    this.puts = this.chart.addSeries(LineSeries, { lineWidth: 1, ...lines });
    this.cumulative = this.chart.addSeries(LineSeries, { lineWidth: 2, ...lines });
    this.net = this.chart.addSeries(HistogramSeries, { priceFormat: numbers }, 1);
    this.chart.panes()[0]?.setStretchFactor(4);
    this.chart.panes()[1]?.setStretchFactor(1);
    this.cumulative.attachPrimitive(this.bands);
    this.marks = createSeriesMarkers(this.cumulative, []);
    this.listen();
    this.stops.push(
      effect(() => this.paint(isLight())),
      effect(() => this.leave(`${shown.value.minutes} ${shown.value.at}`, view.value)),
      effect(() => this.draw(line.value)),
      // Sums that become known later are drawn with the points that are there.
      effect(() => {
        if (split.value && !this.calls.data().length) this.draw({ points: line.peek().points, tail: null });
      }),
      effect(() => this.mark()),
    );
    window.flowtape = {
      points: () => line.peek().points,
      drawn: () => this.drawn(),
      again: () => this.draw({ points: line.peek().points, tail: line.peek().points.slice(-1) }),
      seen: () => this.seen(),
    };
  }

  private listen(): void {
    this.chart.subscribeCrosshairMove(({ time, sourceEvent }) => {
      if (!sourceEvent && this.pinned) return;
      this.pinned = null;
      hovered.value = time === undefined ? null : (this.byTime.get(time) ?? null);
    });
    const note = (event: Event) => {
      if (event.type === "wheel" || (event as PointerEvent).buttons) this.moved = true;
    };
    for (const kind of ["pointermove", "wheel"]) {
      this.box.addEventListener(kind, note, { passive: true, capture: true });
    }
    this.box.addEventListener("dblclick", () => this.fit());
    this.chart.timeScale().subscribeVisibleLogicalRangeChange(() => {
      this.label();
      this.pin();
    });
  }

  /** What the series hold. */
  private drawn(): object {
    const [cumulative, net, price] = [this.cumulative.data(), this.net.data(), this.price.data()];
    return { cumulative, net, price, calls: this.calls.data(), puts: this.puts.data() };
  }

  /** What is in sight: the range of times and of prices, whether the newest values are labelled, the right margin in px,
   * and the axes' texts. */
  private seen(): object {
    const scale = this.chart.timeScale();
    const range = scale.getVisibleRange();
    const last = line.peek().points.at(-1);
    const end = last && scale.timeToCoordinate(stamp(last.ts));
    return {
      from: range && Number(range.from),
      to: range && Number(range.to),
      labelled: this.cumulative.options().lastValueVisible,
      margin: end == null ? null : scale.width() - end,
      prices: this.price.priceScale().getVisibleRange(),
      ticks: [...this.ticks],
      numbers: this.numbers,
    };
  }

  /** The view changes: keep the part in sight where the period stays the same. */
  private leave(period: string, _view: unknown): void {
    if (period === this.period) {
      if (this.moved && this.byTime.size) this.kept = this.chart.timeScale().getVisibleRange();
    } else {
      this.moved = false;
      this.kept = null;
    }
    this.period = period;
    this.pinned = null;
  }

  private draw({ points, tail }: { points: Point[]; tail: Point[] | null }): void {
    if (tail === null || this.begins(points, tail)) {
      this.redraw(points);
    } else {
      for (const point of tail) {
        this.byTime.set(stamp(point.ts), point);
        for (const [series, value] of this.values(point)) series.update({ time: stamp(point.ts), value });
        this.net.update(this.bar(point));
      }
    }
    this.label();
    this.pin();
    const now = hovered.peek();
    if (now) hovered.value = this.byTime.get(stamp(now.ts)) ?? null;
  }

  /** Whether a session begins within the tail: the stroke to its first point is to be left out. */
  private begins(points: Point[], tail: Point[]): boolean {
    return points.slice(-tail.length - 1).some((point, place, all) => point.session !== (all[place + 1] ?? point).session);
  }

  private values(point: Point): [Line, number][] {
    const found: [Line, number][] = [[this.cumulative, point.cumulative]];
    const sums = split.peek()?.get(point.ts);
    if (sums) found.push([this.calls, sums.calls], [this.puts, sums.puts]);
    return found;
  }

  /** Draw all points again, and leave the same minutes in sight where they were chosen. */
  private redraw(points: Point[]): void {
    const scale = this.chart.timeScale();
    const range = scale.getVisibleLogicalRange();
    const anchor = this.moved && !this.atEnd() ? scale.getVisibleRange()?.from : undefined;
    const place = anchor === undefined ? null : scale.timeToIndex(anchor, true);
    this.byTime = new Map(points.map((point) => [stamp(point.ts), point]));
    const ends = (at: number): boolean => {
      const next = points[at + 1];
      return next !== undefined && next.session !== points[at]!.session;
    };
    const data = (value: (point: Point) => number | undefined): LineData<Time>[] => {
      const found: LineData<Time>[] = [];
      points.forEach((point, at) => {
        const each = value(point);
        // The stroke from a point on has that point's colour.
        if (each !== undefined) found.push({ time: stamp(point.ts), value: each, ...(ends(at) ? { color: CLEAR } : {}) });
      });
      return found;
    };
    this.cumulative.setData(data((point) => point.cumulative));
    const sums = split.peek();
    if (sums || this.calls.data().length) {
      this.calls.setData(data((point) => sums?.get(point.ts)?.calls));
      this.puts.setData(data((point) => sums?.get(point.ts)?.puts));
    }
    this.net.setData(points.map((point) => this.bar(point)));
    if (this.price.data().length) this.prices();
    if (!points.length) return;
    if (this.kept) {
      scale.setVisibleRange(this.kept);
      this.kept = null;
    } else if (!this.moved) {
      scale.fitContent();
    } else if (range && place !== null && anchor !== undefined) {
      const shift = (scale.timeToIndex(anchor, true) ?? place) - place;
      if (shift) scale.setVisibleLogicalRange({ from: range.from + shift, to: range.to + shift });
    }
  }

  private atEnd(): boolean {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    return range === null || range.to >= line.peek().points.length - 1.5;
  }

  /** Label the newest values on the axes, but only while the newest minute is in sight. */
  private label(): void {
    const on = { lastValueVisible: this.atEnd(), priceLineVisible: this.atEnd() };
    if (this.cumulative.options().lastValueVisible === on.lastValueVisible) return;
    for (const series of [this.cumulative, this.net, this.price, this.calls, this.puts]) series.applyOptions(on);
  }

  private bar(point: Point): { time: UTCTimestamp; value: number; color: string } {
    const value = netOf(point);
    return { time: stamp(point.ts), value, color: this.tints[value < 0 ? 1 : 0] };
  }

  private paint(_light: boolean): void {
    const text = colour("quiet");
    const grid = { color: colour("grid") };
    this.tints = [colour("buy"), colour("sell")];
    const borderColor = colour("edge");
    this.chart.applyOptions({
      layout: {
        background: { type: ColorType.Solid, color: colour("ground") },
        textColor: text,
        panes: { separatorColor: borderColor },
        fontFamily: "system-ui, sans-serif",
      },
      grid: { vertLines: grid, horzLines: grid },
      leftPriceScale: { borderColor },
      rightPriceScale: { borderColor },
      timeScale: { borderColor },
    });
    const lines: [Line, string][] = [[this.cumulative, "line"], [this.price, "price"], [this.calls, "calls"], [this.puts, "puts"]];
    for (const [series, name] of lines) {
      series.applyOptions({ color: colour(name), crosshairMarkerBackgroundColor: colour(name) });
    }
    this.net.setData(line.peek().points.map((point) => this.bar(point)));
    this.mark();
  }

  /** Draw the prices of the minutes of the line, less what has left it. */
  private prices(): void {
    const found = (readings.peek().divergence?.points ?? []).filter(({ ts }) => this.byTime.has(stamp(ts)));
    const lone = loneOutliers(found.map(({ price }) => price));
    this.lone = new Set([...lone].map((place) => stamp(found[place]!.ts)));
    this.price.setData(found.map(({ ts, price }) => ({ time: stamp(ts), value: price })));
    offScale.value = lone.size;
    priced.value = found.length > 0;
  }

  /** The range of the prices in sight; lone outliers do not widen it. */
  private priceRange(original: () => { priceRange: { minValue: number; maxValue: number } | null } | null) {
    const [found, range] = [original(), this.chart.timeScale().getVisibleRange()];
    if (!found?.priceRange || !range || !this.lone.size) return found;
    let [minValue, maxValue] = [Infinity, -Infinity];
    for (const one of this.price.data() as LineData<Time>[]) {
      if (one.time < range.from || one.time > range.to || this.lone.has(one.time)) continue;
      [minValue, maxValue] = [Math.min(minValue, one.value), Math.max(maxValue, one.value)];
    }
    return minValue > maxValue ? found : { ...found, priceRange: { minValue, maxValue } };
  }

  /** Draw the price, and what the readings say of the line. */
  private mark(): void {
    const { divergence, turns, sessions } = readings.value;
    this.prices();
    const held = line.peek().points;
    this.bands.set([
      ...sessionBands(held, sessions, colour("session")),
      ...divergenceBands(divergence?.points ?? [], colour("bullish"), colour("bearish")),
    ]);
    const times = new Set(held.map((point) => point.ts));
    // Turning points are those of the sum from the window's start: on another line they would be wrong.
    const { anchor } = view.peek();
    const size = this.chart.timeScale().options().barSpacing > WIDE_BARS ? 0.4 : 0.8;
    const marks = turns
      .filter((turn) => anchor === "window" && times.has(turn.ts))
      .map((turn): SeriesMarker<Time> => ({
        time: stamp(turn.ts),
        position: turn.kind === "high" ? "aboveBar" : "belowBar",
        shape: turn.kind === "high" ? "arrowDown" : "arrowUp",
        color: colour("mark"),
        size,
      }));
    this.marks.setMarkers(marks.sort((one, other) => Number(one.time) - Number(other.time)));
  }

  /** Move the crosshair by so many points, from the last one when it is nowhere. Returns the point it is on. */
  step(by: number): Point | undefined {
    const { points } = line.peek();
    const on = hovered.peek()?.ts;
    const at = on === undefined ? points.length - 1 : points.findIndex((point) => point.ts === on);
    const point = points[Math.max(0, Math.min(points.length - 1, at + by))];
    if (!point) return undefined;
    this.pinned = point.ts;
    this.pin();
    return point;
  }

  /** Put the keyboard's crosshair on its minute again, after the minutes have moved. */
  private pin(): void {
    if (this.pinned === null) return;
    const point = this.byTime.get(stamp(this.pinned)) ?? line.peek().points.find(({ ts }) => ts > this.pinned!);
    if (!point) return;
    this.pinned = point.ts;
    this.chart.setCrosshairPosition(point.cumulative, stamp(point.ts), this.cumulative);
    hovered.value = point;
  }

  /** Take the crosshair away. */
  unpin(): void {
    this.pinned = null;
    this.chart.clearCrosshairPosition();
    hovered.value = null;
  }

  /** Show the whole window. */
  fit(): void {
    this.moved = false;
    this.chart.timeScale().fitContent();
  }

  /** Show more (`by` above 1) or fewer minutes around the middle. */
  zoom(by: number): void {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (!range) return;
    this.moved = true;
    const [middle, half] = [(range.from + range.to) / 2, ((range.to - range.from) / 2) * by];
    if (half >= WIDEST_STEP) this.chart.timeScale().setVisibleLogicalRange({ from: middle - half, to: middle + half });
  }

  /** The chart as it is drawn, in device pixels. */
  picture(): HTMLCanvasElement {
    return this.chart.takeScreenshot(true);
  }

  close(): void {
    for (const stop of this.stops) stop();
    this.chart.remove();
    this.box.replaceChildren();
  }
}
