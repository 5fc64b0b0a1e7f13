// The line as it is now: a stream where the API gives one, asked again and again where it does not.
import { batch, effect, signal } from "@preact/signals";
import {
  about,
  type About,
  ApiError,
  ask,
  type Change,
  type Cumulative,
  type Divergence,
  get,
  type Point,
  type Replay,
  type SessionDay,
  type Turn,
} from "./api";
import { key, refusal } from "./session";
import { asked, filters, path, view, type View } from "./view";

export type Connection = "connecting" | "loading" | "live" | "polling" | "past" | "lost" | "doubtful" | "refused" | "wrong";
export interface Readings {
  divergence: Divergence | null;
  turns: Turn[];
  sessions: SessionDay[];
}

const NOTHING: Readings = { divergence: null, turns: [], sessions: [] };
const TURNS = 6;
const DAYS = 5;
const POLL = 2_000;
const POLLS = 15;
/** How often the readings are asked again, in ms: of long windows they are large. */
const readingsEvery = (of: View): number => (of.minutes > 1440 ? 30_000 : 5_000);
/** Without a byte for so long, comments included, a line is dead: a live one has one every 15 s. */
const SILENT = 40_000;
const LONGEST_WAIT = 10_000;

export const connection = signal<Connection>("connecting");
/** The points held, oldest first. `tail` are those that changed at the end, null where any may have. */
export const line = signal<{ points: Point[]; tail: Point[] | null }>({ points: [], tail: null });
/** Whether `line` is an answer for the present view. */
export const loaded = signal(false);
export const readings = signal<Readings>(NOTHING);
/** When the newest print known of was, ms since 1970. */
export const newest = signal<number | null>(null);
export const simulated = signal(false);
export const replay = signal<Replay | null>(null);
export const problem = signal<ApiError | null>(null);
export const readingsProblem = signal("");

/** Follow the view and the key from now on. */
export function start(): void {
  effect(() => {
    const [of, given] = [view.value, key.value];
    const stop = new AbortController();
    batch(() => {
      line.value = { points: [], tail: null };
      loaded.value = false;
      readings.value = NOTHING;
      newest.value = null;
      problem.value = null;
      connection.value = given ? "connecting" : "refused";
    });
    if (given) void follow(of, stop.signal);
    return () => stop.abort();
  });
}

async function follow(of: View, signal: AbortSignal): Promise<void> {
  const read = readAlong(of, signal);
  const stream = { lastId: "" };
  let failures = 0;
  while (!signal.aborted) {
    try {
      if (of.at) return await once(of, signal, read);
      await listen(of, signal, stream, read, () => (failures = 0));
      connection.value = "lost";
    } catch (error) {
      if (signal.aborted) return;
      const found = error instanceof ApiError ? error : new ApiError(0, "failed", String(error));
      if (tell(found)) return;
      if (found.code === "too_many_streams") {
        await poll(of, signal, read).catch(() => (connection.value = "lost"));
        continue;
      }
    }
    failures += 1;
    await pause(Math.min(500 * 2 ** failures, LONGEST_WAIT), signal);
  }
}

/** Show what went wrong; true where asking again is no use. */
function tell(error: ApiError): boolean {
  const final = error.status >= 400 && error.status < 500 && error.status !== 429;
  batch(() => {
    problem.value = error;
    if (error.status === 401 || error.status === 403) {
      refusal.value = error.message;
      connection.value = "refused";
    } else {
      connection.value = final ? "wrong" : untrusted(error.status, error.code);
    }
  });
  return final;
}

/** What it is called when there is no answer that can be trusted. */
function untrusted(status: number, code: string): Connection {
  if (status !== 502) return "lost";
  return code === "loading" ? "loading" : "doubtful";
}

async function once(of: View, signal: AbortSignal, read: () => void): Promise<void> {
  const answer = await get<Cumulative>(path(of, "cumulative"), asked(of), signal);
  batch(() => {
    take(answer.body.points, null);
    note(answer);
    connection.value = of.at ? "past" : "polling";
  });
  read();
}

/** Ask for a while; then the stream may have room again. */
async function poll(of: View, signal: AbortSignal, read: () => void): Promise<void> {
  for (let turn = 0; turn < POLLS && !signal.aborted; turn += 1) {
    await once(of, signal, read);
    await pause(POLL, signal);
  }
}

function note(of: About): void {
  seen(of.asOf);
  simulated.value = of.simulated;
  if (JSON.stringify(of.replay) !== JSON.stringify(replay.peek())) replay.value = of.replay;
}

function seen(asOf: number | null): void {
  newest.value = Math.max(newest.peek() ?? 0, asOf ?? 0) || null;
}

function take(points: Point[], tail: Point[] | null): void {
  line.value = { points, tail };
  loaded.value = true;
  problem.value = null;
}

async function listen(
  of: View,
  signal: AbortSignal,
  stream: { lastId: string },
  read: () => void,
  begun: () => void,
): Promise<void> {
  const quiet = new AbortController();
  const either = AbortSignal.any([signal, quiet.signal]);
  let alarm = setTimeout(() => quiet.abort(), SILENT);
  const hush = () => quiet.abort();
  addEventListener("offline", hush);
  const headers: Record<string, string> = stream.lastId ? { "Last-Event-ID": stream.lastId } : {};
  try {
    const response = await ask(path(of, "cumulative/stream"), asked(of), { signal: either, headers });
    batch(() => note(about(response)));
    for await (const event of events(response.body!, () => {
      clearTimeout(alarm);
      alarm = setTimeout(() => quiet.abort(), SILENT);
    })) {
      if (signal.aborted) return;
      stream.lastId = event.id || stream.lastId;
      handle(event);
      begun();
      read();
    }
  } catch (error) {
    if (quiet.signal.aborted) throw new ApiError(0, "silent", "The server has fallen silent.");
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError(0, "cut", "The connection was lost.");
  } finally {
    clearTimeout(alarm);
    removeEventListener("offline", hush);
  }
}

function handle(event: ServerEvent): void {
  const body = JSON.parse(event.data);
  batch(() => {
    if (event.name === "unavailable") {
      problem.value = new ApiError(502, body.error, body.message);
      connection.value = untrusted(502, body.error);
      return;
    }
    if (event.name === "window") {
      take((body as Cumulative).points, null);
    } else if (event.name === "change") {
      const changed = applied(line.peek().points, body as Change);
      take(changed.points, changed.tail);
    }
    const last = line.peek().points.at(-1);
    if (last) seen(Date.parse(last.ts));
    connection.value = "live";
  });
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

interface ServerEvent {
  id: string;
  name: string;
  data: string;
}

/** The events of a stream by https://html.spec.whatwg.org/multipage/server-sent-events.html */
async function* events(body: ReadableStream<Uint8Array>, heard: () => void): AsyncGenerator<ServerEvent> {
  const reader = body.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = { id: "", name: "message", data: "" };
        for (const row of block.split("\n")) {
          const at = row.indexOf(":");
          const text = row.slice(at + 1).replace(/^ /, "");
          if (row.startsWith("id:")) event.id = text;
          else if (row.startsWith("event:")) event.name = text;
          else if (row.startsWith("data:")) event.data += (event.data && "\n") + text;
        }
        if (event.data) yield event;
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

/** What asks for the readings of a view when called, but not more than every few seconds. */
function readAlong(of: View, signal: AbortSignal): () => void {
  let busy = false;
  let again = false;
  const run = async (): Promise<void> => {
    busy = true;
    again = false;
    await readingsOf(of, signal);
    await pause(readingsEvery(of), signal);
    busy = false;
    if (again && !signal.aborted) void run();
  };
  return () => {
    again = true;
    if (!busy) void run();
  };
}

async function readingsOf(of: View, signal: AbortSignal): Promise<void> {
  const of_all = { ...filters(of), at: of.at };
  const window = { minutes: of.minutes, ...of_all };
  const [divergence, turns, sessions] = await Promise.allSettled([
    get<Divergence>(path(of, "divergence"), window, signal),
    get<{ points: Turn[] }>(path(of, "turning-points"), { ...window, limit: TURNS }, signal),
    get<{ sessions: SessionDay[] }>(path(of, "sessions"), { ...of_all, days: DAYS }, signal),
  ]);
  if (signal.aborted) return;
  const failed = [divergence, turns, sessions].filter((one) => one.status === "rejected");
  batch(() => {
    if (divergence.status === "fulfilled") note(divergence.value);
    readingsProblem.value = [...new Set(failed.map((one) => String(one.reason.message)))].join(" ");
    // What could not be asked again stays as it was, with the reason beside it.
    const before = readings.peek();
    readings.value = {
      divergence: divergence.status === "fulfilled" ? divergence.value.body : before.divergence,
      turns: turns.status === "fulfilled" ? turns.value.body.points : before.turns,
      sessions: sessions.status === "fulfilled" ? sessions.value.body.sessions : before.sessions,
    };
  });
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
