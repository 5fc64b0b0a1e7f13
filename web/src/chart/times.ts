// Times as people at a desk read them: New York's clocks.
import type { UTCTimestamp } from "lightweight-charts";

const ZONE = "America/New_York";
const clock = new Intl.DateTimeFormat("en-GB", { timeZone: ZONE, hour: "2-digit", minute: "2-digit" });
const seconds = new Intl.DateTimeFormat("en-GB", {
  timeZone: ZONE,
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const day = new Intl.DateTimeFormat("en-GB", { timeZone: ZONE, weekday: "short", day: "numeric", month: "short" });

export const stamp = (ts: string): UTCTimestamp => (Date.parse(ts) / 1000) as UTCTimestamp;
export const hhmm = (ms: number): string => clock.format(ms);
export const hhmmss = (ms: number): string => seconds.format(ms);
export const date = (ms: number): string => day.format(ms);
export const moment = (ms: number): string => `${date(ms)} ${hhmm(ms)} ET`;
