// What is looked at: kept in the address, so that a link restores it.
import { signal } from "@preact/signals";
import type { Params } from "./api";
import { isoDay, parseTime } from "./times";

export type Measure = "volume" | "premium" | "directional" | "directional_premium";

export interface View {
  asset: "options" | "stocks";
  symbol: string;
  minutes: number;
  measure: Measure;
  split: "" | "right";
  anchor: "window" | "session";
  expiry: string;
  right: "" | "C" | "P";
  dte: string;
  strike: string;
  exclude: string;
  side: "" | "buy" | "sell";
  /** An instant with its zone; a day YYYY-MM-DD until its session's close is known; empty for now. */
  at: string;
}

export const WINDOWS: [string, number][] = [
  ["30m", 30],
  ["1h", 60],
  ["4h", 240],
  ["1d", 1440],
  ["3d", 4320],
  ["7d", 10080],
];
const DEFAULTS: View = {
  asset: "options",
  symbol: "SPY",
  minutes: 240,
  measure: "volume",
  split: "",
  anchor: "window",
  expiry: "",
  right: "",
  dte: "",
  strike: "",
  exclude: "",
  side: "",
  at: "",
};
const CHOICES: Partial<Record<keyof View, readonly string[]>> = {
  asset: ["options", "stocks"],
  measure: ["volume", "premium", "directional", "directional_premium"],
  split: ["", "right"],
  anchor: ["window", "session"],
  right: ["", "C", "P"],
  side: ["", "buy", "sell"],
};
const OF_OPTIONS = ["expiry", "right", "dte", "strike", "split"] as const;
export const FILTERS = ["expiry", "right", "dte", "strike", "exclude", "side"] as const;

/** Parts of the link that could not be used, in words. */
export const misread = signal("");
/** Whether the window was chosen, by a click or by the link, and is not just the default. */
export const windowChosen = signal(new URLSearchParams(location.search).has("minutes"));

function read(): View {
  const view: View = { ...DEFAULTS };
  const wrong: string[] = [];
  for (const [name, value] of new URLSearchParams(location.search)) {
    const choices = CHOICES[name as keyof View];
    if (name === "minutes") {
      const minutes = Number(value);
      if (Number.isInteger(minutes) && minutes >= 1 && minutes <= 10080) view.minutes = minutes;
      else wrong.push(`${name} '${value.slice(0, 40)}'`);
    } else if (!(name in view) || (choices && !choices.includes(value)) || value.length > 400) {
      wrong.push(`${name.slice(0, 40)} '${value.slice(0, 40)}'`);
    } else {
      Object.assign(view, { [name]: value });
    }
  }
  const time = parseTime(view.at, isoDay(Date.now()));
  if ("at" in time) view.at = /[zZ]$|[+-]\d\d:?\d\d$/.test(view.at) ? view.at : time.at;
  if (view.asset === "stocks") wrong.push(...forStocks(view));
  misread.value = wrong.length ? `The link has parts that cannot be used: ${wrong.join(", ")}.` : "";
  return view;
}

/** Clear what stocks do not have, and name what was cleared. */
function forStocks(view: View): string[] {
  const cleared: string[] = OF_OPTIONS.filter((name) => view[name]).map((name) => `${name} '${view[name].slice(0, 40)}' of stocks`);
  for (const name of OF_OPTIONS) Object.assign(view, { [name]: "" });
  if (view.measure.startsWith("directional")) {
    cleared.push(`measure '${view.measure}' of stocks`);
    view.measure = view.measure === "directional" ? "volume" : "premium";
  }
  return cleared;
}

export const view = signal<View>(read());
addEventListener("popstate", () => (view.value = read()));

/** Look at something else; the browser's back button returns. */
export function change(part: Partial<View>): void {
  const next = { ...view.peek(), ...part };
  if (next.asset === "stocks") forStocks(next);
  if (part.minutes) windowChosen.value = true;
  if (link(next) === link(view.peek())) return;
  view.value = next;
  misread.value = "";
  history.pushState(null, "", link(next));
}

/** Write the instant of a day that was asked for in place of the day; the back button does not return to the day. */
export function settle(at: string): void {
  const next = { ...view.peek(), at };
  history.replaceState(null, "", link(next));
  view.value = next;
}

export function link(of: View): string {
  const given = Object.entries(of).filter(([name, value]) => value !== DEFAULTS[name as keyof View]);
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  return query.size ? `${location.pathname}?${query}` : location.pathname;
}

export function path(of: View, name: string): string {
  return `/v1/flow/${of.asset}/${encodeURIComponent(of.symbol)}/${name}`;
}

export function filters(of: View): Params {
  return Object.fromEntries(FILTERS.map((name) => [name, of[name]]));
}

/** The parameters of the line. */
export function asked(of: View): Params {
  const measure = of.measure === "volume" ? "" : of.measure;
  const anchor = of.anchor === "window" ? "" : of.anchor;
  return { minutes: of.minutes, ...filters(of), at: of.at, measure, split: of.split, anchor };
}
