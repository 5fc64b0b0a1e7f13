// The chart's axes: days that begin at New York's midnight, exact numbers, and prices without lone bad quotes.
import {
  defaultHorzScaleBehavior,
  type IHorzScaleBehavior,
  type Time,
  type TimeScalePoint,
} from "lightweight-charts";
import { date, DAY, hhmm, newYork } from "../times";

/** Lengths in minutes that a tick can begin, with the library's weight of each. */
const WITHIN_A_DAY: [number, number][] = [[720, 33], [360, 32], [180, 31], [60, 30], [30, 22], [5, 21], [1, 20]];
const MINUTE = 60_000;

/** The weight of a tick at `now` that follows `before`; both in ms by New York's clock. */
function weight(now: number, before: number): number {
  if (Math.floor(now / DAY) === Math.floor(before / DAY)) {
    const begins = ([minutes]: [number, number]): boolean =>
      Math.floor(now / (minutes * MINUTE)) !== Math.floor(before / (minutes * MINUTE));
    return WITHIN_A_DAY.find(begins)?.[1] ?? 0;
  }
  const [one, other] = [new Date(now), new Date(before)];
  if (one.getUTCFullYear() !== other.getUTCFullYear()) return 70;
  return one.getUTCMonth() === other.getUTCMonth() ? 50 : 60;
}

const Behavior = defaultHorzScaleBehavior();

/** The library's time scale, whose days and hours are New York's in place of UTC's. */
export class NewYorkScale extends Behavior implements IHorzScaleBehavior<Time> {
  override fillWeightsForPoints(points: Parameters<IHorzScaleBehavior<Time>["fillWeightsForPoints"]>[0], first: number): void {
    const clock = (point: TimeScalePoint): number => newYork(Number(point.originalTime) * 1000);
    if (!points.length) return;
    // The first point is taken as if it followed the minute before it.
    let before = first ? clock(points[first - 1]!) : clock(points[0]!) - MINUTE;
    for (let place = first; place < points.length; place += 1) {
      const now = clock(points[place]!);
      points[place]!.timeWeight = weight(now, before) as TimeScalePoint["timeWeight"];
      before = now;
    }
  }
}

/** A tick's text: the day where a day (2), month (1) or year (0) begins, else the hour. */
export const tick = (time: Time, kind: number): string =>
  kind <= 2 ? date(Number(time) * 1000) : hhmm(Number(time) * 1000);

const UNITS: [number, string][] = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]];
const MOST_DECIMALS = 4;

/** The axis' ticks in one unit, with as many decimals as tell them exactly. */
export function exactTicks(values: readonly number[]): string[] {
  const largest = Math.max(...values.map(Math.abs));
  const [unit, letter] = UNITS.find(([size]) => largest >= size) ?? [1, ""];
  const exact = (decimals: number): boolean =>
    values.every((value) => Math.abs(Number((value / unit).toFixed(decimals)) * unit - value) < 1e-9 * (largest || 1));
  let decimals = 0;
  while (decimals < MOST_DECIMALS && !exact(decimals)) decimals += 1;
  return values.map((value) => {
    const text = (Math.abs(value) / unit).toFixed(decimals);
    return value === 0 ? "0" : (value < 0 ? "−" : "") + text + letter;
  });
}

const NEIGHBOURS = 7;
const ENOUGH = 3;
const SUSPECT = 0.002;

function median(values: number[]): number {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Places of lone prices far from all others: each differs from the prices before it and from those after it, and lies
 * beyond the range of the rest by more than half of that range. The newest few are never among them: a jump may stay. */
export function loneOutliers(prices: readonly number[]): Set<number> {
  const suspects: number[] = [];
  prices.forEach((price, place) => {
    const near = (other: number | undefined): boolean =>
      other !== undefined && Math.abs(price - other) <= SUSPECT * Math.abs(price);
    if (near(prices[place - NEIGHBOURS]) || near(prices[place + NEIGHBOURS])) return;
    const before = prices.slice(Math.max(0, place - NEIGHBOURS), place);
    const after = prices.slice(place + 1, place + 1 + NEIGHBOURS);
    if (after.length < ENOUGH) return;
    const far = (others: number[]): boolean =>
      others.length === 0 || Math.abs(price - median(others)) > SUSPECT * Math.abs(price);
    if (far(before) && far(after)) suspects.push(place);
  });
  if (!suspects.length) return new Set();
  const suspected = new Set(suspects);
  const rest = prices.filter((_, place) => !suspected.has(place));
  if (rest.length < ENOUGH) return new Set();
  let [low, high] = [Infinity, -Infinity];
  for (const price of rest) [low, high] = [Math.min(low, price), Math.max(high, price)];
  const margin = Math.max(high - low, SUSPECT * Math.abs(high)) / 2;
  return new Set(suspects.filter((place) => prices[place]! < low - margin || prices[place]! > high + margin));
}
