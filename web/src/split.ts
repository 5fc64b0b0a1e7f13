// Calls and puts beside the total: running sums of the parts that the API gives a minute.
import { computed } from "@preact/signals";
import type { Point } from "./api";
import { line } from "./live";

export interface Parts {
  calls: number;
  puts: number;
}

/** The running sums by minute, null where calls and puts were not asked for. Each session begins anew where the points
 * name their sessions. Where the first session began before the window, its calls and puts up to there are not known,
 * and its minutes have no sums. */
export const split = computed<Map<string, Parts> | null>(() => {
  const { points } = line.value;
  return points[0]?.calls === undefined ? null : running(points);
});

function running(points: Point[]): Map<string, Parts> {
  const sums = new Map<string, Parts>();
  let [calls, puts, session] = [0, 0, points[0]?.session];
  for (const point of points) {
    if (point.session !== session) [calls, puts, session] = [0, 0, point.session];
    // Premium is in ten-thousandths of a dollar at the finest.
    calls = Number((calls + (point.calls ?? 0)).toFixed(4));
    puts = Number((puts + (point.puts ?? 0)).toFixed(4));
    if (Math.abs(calls + puts - point.cumulative) < 1) sums.set(point.ts, { calls, puts });
  }
  return sums;
}
