// What is shown, in words: for captions, file names and the tables' notes.
import type { Nets } from "./api";
import { line, replay, shown, simulated } from "./live";
import { hhmm, isoDay, longDate } from "./times";
import { FILTERS, type Measure, type View, WINDOWS } from "./view";

interface Named {
  name: string;
  field: keyof Nets;
  unit: (asset: View["asset"]) => string;
}
export const MEASURES: Record<Measure, Named> = {
  volume: { name: "net volume", field: "netVolume", unit: (asset) => (asset === "options" ? "contracts" : "shares") },
  premium: { name: "net premium", field: "netPremium", unit: () => "USD" },
  directional: { name: "directional volume", field: "netDirectional", unit: () => "contracts" },
  directional_premium: { name: "directional premium", field: "netDirectionalPremium", unit: () => "USD" },
};
const NAMES: Record<(typeof FILTERS)[number], string> = {
  expiry: "expiry",
  right: "right",
  dte: "days to expiry",
  strike: "strike",
  exclude: "without",
  side: "side",
};
const VALUES: Record<string, string> = { C: "calls", P: "puts", buy: "buys", sell: "sells" };

export const windowName = (minutes: number): string =>
  WINDOWS.find(([, each]) => each === minutes)?.[0] ?? `${minutes}m`;

/** A window's length in words. */
export function windowWords(minutes: number): string {
  const many = (count: number, word: string) => `${count} ${word}${count === 1 ? "" : "s"}`;
  if (minutes % 1440 === 0 && minutes > 1440) return many(minutes / 1440, "day");
  return minutes % 60 === 0 ? many(minutes / 60, "hour") : many(minutes, "minute");
}

/** The filters that are set, as name and value in words. */
export const filtersOf = (of: View): [string, string][] =>
  FILTERS.filter((name) => of[name]).map((name) => [NAMES[name], VALUES[of[name]] ?? of[name]]);

export const filterWords = (of: View): string =>
  filtersOf(of).map(([name, value]) => `${name} ${value}`).join(", ") || "none";

/** Where the prints come from, where that is not a market as it trades. */
export const tape = (): string => {
  const played = replay.value;
  if (played) return `replay of ${played.day}`;
  return simulated.value ? "simulated" : "";
};

export const unit = (of: View): string => MEASURES[of.measure].unit(of.asset);

export function title(of: View): string {
  const split = of.split ? ", calls and puts" : "";
  const from = of.anchor === "session" ? " since each session's open" : "";
  return `${of.symbol} ${of.asset}: cumulative ${MEASURES[of.measure].name} in ${unit(of)}${split}${from}`;
}

/** The first and last minute drawn. */
function span(): [number, number] | null {
  const { points } = line.value;
  const [first, last] = [points[0], points.at(-1)];
  return first && last ? [Date.parse(first.ts), Date.parse(last.ts)] : null;
}

/** The lines under a picture's title. */
export function captionLines(): string[] {
  const of = shown.value;
  const drawn = span();
  const when = drawn
    ? `${longDate(drawn[0])} ${hhmm(drawn[0])} to ${longDate(drawn[1])} ${hhmm(drawn[1])} ET`
    : `no print in ${windowWords(of.minutes)}`;
  const from = tape() ? ` · ${tape()}` : "";
  return [`${when}${from} · filters: ${filterWords(of)}`, "flowtape · aggressor side inferred from the prevailing quote"];
}

/** A file's name that tells what is in it, without its ending. */
export function fileName(what: string): string {
  const of = shown.value;
  const drawn = span();
  const days = drawn ? [...new Set(drawn.map(isoDay))].join("_to_") : "";
  const until = of.at && drawn ? `until-${hhmm(Date.parse(of.at)).replace(":", "")}ET` : "";
  const set = filtersOf(of).map(([name, value]) => `${name}-${value}`);
  const anchor = of.anchor === "session" ? "by-session" : "";
  const split = of.split ? "calls-puts" : "";
  return [of.symbol, of.asset, what, of.measure, split, anchor, days, windowName(of.minutes), until, ...set, tape()]
    .map((part) => part.replace(/[^A-Za-z0-9._]+/g, "-"))
    .filter(Boolean)
    .join("-")
    .slice(0, 180);
}

/** A CSV of the API whose every row also says what it is of. */
export function described(csv: string): string {
  const of = shown.value;
  const [head = "", ...rows] = csv.split(/\r?\n/);
  const values = [of.symbol, of.asset, of.measure, unit(of), filterWords(of), tape() || "as ingested"];
  const more = `,${values.map(cell).join(",")}`;
  const lines = [`${head},symbol,asset,measure,unit,filters,tape`, ...rows.map((row) => (row ? row + more : row))];
  return lines.join(csv.includes("\r\n") ? "\r\n" : "\n");
}

function cell(text: string): string {
  // No spreadsheet may take a text for a formula.
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
