// Times on New York's clock: how they are written, and how typed ones are read.
import type { UTCTimestamp } from "lightweight-charts";

const ZONE = "America/New_York";
const HOUR = 3_600_000;
export const DAY = 24 * HOUR;

const parts = new Intl.DateTimeFormat("en-CA", {
  timeZone: ZONE,
  hourCycle: "h23",
  year: "numeric",
  month: "2-digit",
  day: "2-digit",
  hour: "2-digit",
});
const offsets = new Map<number, number>();
let [lastHour, lastOffset] = [NaN, 0];

/** How far New York's clock is ahead of UTC at an instant, in ms. It changes on whole hours of UTC only. */
function offset(ms: number): number {
  const hour = Math.floor(ms / HOUR) * HOUR;
  if (hour === lastHour) return lastOffset;
  let found = offsets.get(hour);
  if (found === undefined) {
    const read = Object.fromEntries(parts.formatToParts(hour).map(({ type, value }) => [type, Number(value)]));
    found = Date.UTC(read.year!, read.month! - 1, read.day!, read.hour!) - hour;
    offsets.set(hour, found);
  }
  [lastHour, lastOffset] = [hour, found];
  return found;
}

/** The instant in ms since 1970 at which UTC's clock shows what New York's shows at `ms`. */
export const newYork = (ms: number): number => ms + offset(ms);

/** The instants at which New York's clock shows `local`: none in the hour left out in spring, two in autumn. */
function instants(local: number): number[] {
  return [4, 5].map((hours) => local + hours * HOUR).filter((ms) => newYork(ms) === local);
}

const two = (value: number): string => String(value).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

function written(local: Date, year: boolean): string {
  const day = `${WEEKDAYS[local.getUTCDay()]} ${local.getUTCDate()} ${MONTHS[local.getUTCMonth()]}`;
  return year ? `${day} ${local.getUTCFullYear()}` : day;
}

const thisYear = (): number => new Date(newYork(Date.now())).getUTCFullYear();

export const stamp = (ts: string): UTCTimestamp => (Date.parse(ts) / 1000) as UTCTimestamp;
export function hhmm(ms: number): string {
  const local = new Date(newYork(ms));
  return `${two(local.getUTCHours())}:${two(local.getUTCMinutes())}`;
}
export const hhmmss = (ms: number): string => `${hhmm(ms)}:${two(new Date(ms).getUTCSeconds())}`;
/** The day, with its year where that is not this one. */
export function date(ms: number): string {
  const local = new Date(newYork(ms));
  return written(local, local.getUTCFullYear() !== thisYear());
}
/** The day of a text YYYY-MM-DD, with its year where that is not this one. */
export function dayName(day: string): string {
  const local = new Date(`${day}T00:00:00Z`);
  return written(local, local.getUTCFullYear() !== thisYear());
}
export const longDate = (ms: number): string => written(new Date(newYork(ms)), true);
export const moment = (ms: number): string => `${date(ms)} ${hhmm(ms)} ET`;
export const isoDay = (ms: number): string => new Date(newYork(ms)).toISOString().slice(0, 10);
/** The first instant after a day YYYY-MM-DD. */
export const dayEnd = (day: string): number => instants(Date.parse(`${day}T00:00:00Z`) + DAY)[0]!;

/** An instant as the field "As of" shows it. */
export function typed(at: string): string {
  const ms = Date.parse(at);
  if (isBareDay(at) || Number.isNaN(ms)) return at;
  const seconds = new Date(ms).getUTCSeconds();
  return `${isoDay(ms)} ${hhmm(ms)}${seconds ? `:${two(seconds)}` : ""} ET`;
}

export const isBareDay = (text: string): boolean => /^\d{4}-\d\d-\d\d$/.test(text);

const TYPED = new RegExp(
  "^(?:(\\d{4})-(\\d{1,2})-(\\d{1,2})(?:[T, ]+|$))?" +
    "(?:(\\d{1,2})(?::(\\d\\d)(?::(\\d\\d)(?:\\.\\d+)?)?)? ?(am|pm)? ?(z|utc|gmt|et|est|edt|[+-]\\d\\d:?\\d\\d)?)?$",
  "i",
);
const WRONG = "is not a time. Write 2026-11-27 15:00 (New York), 15:00, or 2026-11-27 for the end of that session.";

/** What a typed time says: an instant with its zone, a day, "" for now, or why it cannot be read. Without a zone it is
 * New York's, and without a date it is of the day `today`. */
export function parseTime(text: string, today: string): { at: string } | { wrong: string } {
  const given = text.trim();
  if (/^(now|live|)$/i.test(given)) return { at: "" };
  const found = TYPED.exec(given);
  if (!found) return { wrong: `"${given}" ${WRONG}` };
  const [, year, month, day, hours, minutes = "00", seconds = "00", half, zone = "et"] = found;
  const on = year ? `${year}-${two(Number(month))}-${two(Number(day))}` : today;
  const start = Date.parse(`${on}T00:00:00Z`);
  if (Number.isNaN(start) || new Date(start).toISOString().slice(0, 10) !== on) return { wrong: `"${given}" ${WRONG}` };
  if (hours === undefined) return { at: on };
  const hour = half ? (Number(hours) % 12) + (half.toLowerCase() === "pm" ? 12 : 0) : Number(hours);
  if (hour > 23 || Number(minutes) > 59 || Number(seconds) > 59) return { wrong: `"${given}" ${WRONG}` };
  const local = start + hour * HOUR + Number(minutes) * 60_000 + Number(seconds) * 1000;
  const instant = inZone(local, zone.toLowerCase());
  if (instant === undefined) return { wrong: `New York's clock skips ${two(hour)}:${minutes} on ${on}.` };
  return { at: new Date(instant).toISOString().replace(".000", "") };
}

function inZone(local: number, zone: string): number | undefined {
  if (zone === "et") return instants(local)[0];
  if (zone === "est") return local + 5 * HOUR;
  if (zone === "edt") return local + 4 * HOUR;
  const numbers = /([+-])(\d\d):?(\d\d)/.exec(zone);
  if (!numbers) return local;
  const ahead = Number(numbers[2]) * HOUR + Number(numbers[3]) * 60_000;
  return numbers[1] === "+" ? local - ahead : local + ahead;
}
