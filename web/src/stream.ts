// Server-sent events, and the changes of the line that they carry.
import type { Change, Point } from "./api";

export interface ServerEvent {
  id: string;
  name: string;
  data: string;
}

/** The events of a stream by https://html.spec.whatwg.org/multipage/server-sent-events.html; `heard` gets each piece of
 * text as it comes. */
export async function* events(
  body: ReadableStream<Uint8Array>,
  heard: (text: string) => void,
): AsyncGenerator<ServerEvent> {
  let rest = "";
  for await (const text of pieces(body)) {
    heard(text);
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const event = { id: "", name: "message", data: "" };
      for (const row of block.split("\n")) {
        const at = row.indexOf(":");
        const value = row.slice(at + 1).replace(/^ /, "");
        if (row.startsWith("id:")) event.id = value;
        else if (row.startsWith("event:")) event.name = value;
        else if (row.startsWith("data:")) event.data += (event.data && "\n") + value;
      }
      if (event.data) yield event;
    }
  }
}

/** A body as text, piece by piece. */
export async function* pieces(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

/** The points after a change, and which of them are new at the end; null where more than the end changed. */
export function applied(points: Point[], change: Change): { points: Point[]; tail: Point[] | null } {
  const { first, shift } = change;
  const last = points.at(-1)?.ts ?? "";
  const atEnd = change.points.every((point) => point.ts >= last);
  if (first !== null && first <= (points[0]?.ts ?? "") && !shift && !change.gone?.length && atEnd && points.length) {
    const kept = change.points[0]?.ts === last ? points.slice(0, -1) : points;
    return { points: [...kept, ...change.points], tail: change.points };
  }
  const gone = new Set(change.gone);
  const byTime = new Map<string, Point>();
  for (const point of points) {
    if (first === null || point.ts < first || gone.has(point.ts)) continue;
    // Premium is in ten-thousandths of a dollar at the finest.
    const cumulative = shift ? Number((point.cumulative + shift).toFixed(4)) : point.cumulative;
    byTime.set(point.ts, { ...point, cumulative });
  }
  for (const point of change.points) byTime.set(point.ts, point);
  const sorted = [...byTime.values()].sort((one, other) => (one.ts < other.ts ? -1 : 1));
  return { points: sorted, tail: null };
}
