// Calls and puts beside the total: running sums of what the API gives of each minute.
import { computed, effect, signal } from "@preact/signals";
import { type Cumulative, get, netOf, type Point } from "./api";
import { line, shown } from "./live";
import { asked, path, type View } from "./view";

export interface Parts {
  calls: number;
  puts: number;
}

const A_DAY = 1440;
/** The sum of calls from the open of the first session in the window to the window's first point. */
const opening = signal<{ ts: string; calls: number } | null>(null);
let former = new Map<string, Parts>();

// Premium is in ten-thousandths of a dollar at the finest.
const exact = (value: number): number => Number(value.toFixed(4));
/** The running sum before a point. */
const before = (point: Point): number => exact(point.cumulative - netOf(point));

/** The running sums by minute, null where calls and puts were not asked for. Each session begins anew where the points
 * name their sessions. Minutes of a session whose sums before the window are not known yet have none. */
export const split = computed<Map<string, Parts> | null>(() => {
  const { points } = line.value;
  former = points[0]?.calls === undefined ? new Map<string, Parts>() : running(points, known(points[0]));
  return former.size ? former : null;
});

/** The sum of calls before the first point: as it was asked for, or as it was before the window moved on. */
function known(first: Point): number | undefined {
  if (first.session === undefined) return 0;
  const found = opening.value;
  if (found?.ts === first.ts) return found.calls;
  let last: Parts | undefined;
  for (const [ts, parts] of former) {
    if (ts >= first.ts) break;
    last = parts;
  }
  return last && exact(last.calls + last.puts) === before(first) ? last.calls : undefined;
}

function running(points: Point[], start: number | undefined): Map<string, Parts> {
  const sums = new Map<string, Parts>();
  const first = points[0]!;
  let session = first.session;
  let calls = start;
  let puts = start === undefined ? 0 : exact(before(first) - start);
  for (const point of points) {
    if (point.session !== session) [calls, puts, session] = [0, 0, point.session];
    if (calls === undefined) continue;
    calls = exact(calls + (point.calls ?? 0));
    puts = exact(puts + (point.puts ?? 0));
    sums.set(point.ts, { calls, puts });
  }
  return sums;
}

/** The first point of a sum from the session's open, and the view that it is of; as text, so that equal ones are equal. */
const wanted = computed(() => {
  const first = line.value.points[0];
  if (first?.calls === undefined || first.session === undefined) return "";
  return JSON.stringify([shown.value, first.ts, first.session, before(first)]);
});

effect(() => {
  const stop = new AbortController();
  if (wanted.value) {
    const [of, ts, session] = JSON.parse(wanted.value) as [View, string, string];
    void ask(of, ts, session, stop.signal);
  } else opening.value = null;
  return () => stop.abort();
});

/** Ask for the sum of calls from the session's open to a minute of it. */
async function ask(of: View, ts: string, session: string, stop: AbortSignal): Promise<void> {
  if (of.right === "P") {
    opening.value = { ts, calls: 0 };
    return;
  }
  const params = { ...asked(of), right: "C", split: "", at: ts, minutes: A_DAY };
  try {
    const { body } = await get<Cumulative>(path(of, "cumulative"), params, stop);
    const last = body.points.findLast((point) => point.session === session);
    opening.value = { ts, calls: last?.cumulative ?? 0 };
  } catch {
    // Without it calls and puts are drawn from the next session's open on.
  }
}
