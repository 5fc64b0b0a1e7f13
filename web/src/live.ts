// The line as it is now: a stream where the API gives one, requests again and again where it does not. Where the window
// of now is empty, the newest day kept is opened.
import { batch, computed, effect, signal } from "@preact/signals";
import {
  about,
  type About,
  ApiError,
  ask,
  type Change,
  type Cumulative,
  get,
  type Point,
  type Replay,
  serverNow,
  type SessionDay,
} from "./api";
import { NOTHING, pause, readAlong, readings } from "./readings";
import { key, refusal } from "./session";
import { applied, events, pieces, type ServerEvent } from "./stream";
import { dayEnd, dayName, isBareDay } from "./times";
import { asked, path, settle, view, type View, windowChosen } from "./view";

export type Connection =
  | "connecting" | "loading" | "live" | "polling" | "past" | "quiet" | "lost" | "doubtful" | "refused" | "wrong";

const POLL = 2_000;
const POLLS = 15;
/** Without a byte for so long, comments included, a line is dead: a live one has one every 15 s. */
const SILENT = 40_000;
const LONGEST_WAIT = 10_000;
const MOST_DAYS = 60;
const A_DAY = 1440;
/** How often the time of the newest print is asked for while prints arrive, in ms. */
const FRESH = 1_000;

export const connection = signal<Connection>("connecting");
/** The points held, oldest first. `tail` are those that changed at the end, null where any may have. */
export const line = signal<{ points: Point[]; tail: Point[] | null }>({ points: [], tail: null });
/** Whether `line` is an answer for the present view. */
export const loaded = signal(false);
/** The newest minute received of an answer that is still coming, ms since 1970, and the share of the window done. */
export const progress = signal<{ until: number; share: number } | null>(null);
/** The newest day kept, where it is shown because the window of now is empty. */
export const opened = signal<{ at: string; day: string; minutes: number } | null>(null);
/** The days of which prints of the symbol are kept, newest first, where the window is empty; null until it is known. */
export const daysKept = signal<string[] | null>(null);
/** What is drawn: the view, or the day opened in its place. */
export const shown = computed<View>(() => {
  const { at, minutes } = opened.value ?? view.value;
  return { ...view.value, at, minutes };
});
/** The time of the newest print, ms since 1970; null while it is not known. */
export const newest = signal<number | null>(null);
export const simulated = signal(false);
export const replay = signal<Replay | null>(null);
export const problem = signal<ApiError | null>(null);

/** Follow the view and the key from now on. */
export function start(): void {
  effect(() => {
    const [of, given] = [view.value, key.value];
    const stop = new AbortController();
    batch(() => {
      line.value = { points: [], tail: null };
      loaded.value = false;
      progress.value = null;
      opened.value = null;
      daysKept.value = null;
      readings.value = NOTHING;
      newest.value = null;
      problem.value = null;
      connection.value = given ? "connecting" : "refused";
    });
    if (given) void new Follower(of, stop.signal).follow();
    return () => stop.abort();
  });
}

function note(of: About): void {
  if (of.asOf !== null) newest.value = of.asOf;
  simulated.value = of.simulated;
  if (JSON.stringify(of.replay) !== JSON.stringify(replay.peek())) replay.value = of.replay;
}

/** Show what went wrong; true where asking again is no use. */
function tell(error: ApiError): boolean {
  const final = error.status >= 400 && error.status < 500 && error.status !== 429;
  batch(() => {
    problem.value = error;
    progress.value = null;
    if (error.status === 401 || error.status === 403) {
      refusal.value = error.message;
      connection.value = "refused";
    } else {
      connection.value = final ? "wrong" : untrusted(error.status, error.code);
    }
  });
  return final;
}

/** The state of the connection while no answer can be trusted. */
function untrusted(status: number, code: string): Connection {
  if (status !== 502) return "lost";
  return code === "loading" ? "loading" : "doubtful";
}

/** Follows one view until its signal stops it. */
class Follower {
  private points: Point[] = [];
  private lastId = "";
  private failures = 0;
  private sought = false;
  private fresh = false;
  private freshAgain = false;
  private readonly read: () => void;

  constructor(
    private readonly of: View,
    private readonly signal: AbortSignal,
  ) {
    this.read = readAlong(() => shown.peek(), signal, note);
  }

  async follow(): Promise<void> {
    const { of, signal } = this;
    while (!signal.aborted) {
      try {
        if (isBareDay(of.at)) return await this.settleDay();
        if (of.at) return await this.once("past");
        await this.listen();
        connection.value = "lost";
      } catch (error) {
        if (signal.aborted) return;
        const found = error instanceof ApiError ? error : new ApiError(0, "failed", String(error));
        if (tell(found)) return;
        if (found.code === "too_many_streams") {
          await this.poll().catch(() => (connection.value = "lost"));
          continue;
        }
      }
      this.failures += 1;
      await pause(Math.min(500 * 2 ** this.failures, LONGEST_WAIT), signal);
    }
  }

  /** Put the close of the session of the day that was asked for in the day's place. */
  private async settleDay(): Promise<void> {
    const day = this.of.at;
    const at = new Date(dayEnd(day)).toISOString();
    const [found] = await this.sessions({ at, days: 1 });
    if (found?.date !== day) {
      const newer = found ? ` The newest before it is ${dayName(found.date)}.` : "";
      throw new ApiError(400, "invalid_at", `No print of ${this.of.symbol} is kept of ${dayName(day)}.${newer}`);
    }
    const close = found.close ?? at;
    settle(Date.parse(close) > serverNow() ? "" : close.replace(".000", ""));
  }

  private async sessions(params: { at?: string; days: number }): Promise<SessionDay[]> {
    return (await get<{ sessions: SessionDay[] }>(path(this.of, "sessions"), params, this.signal)).body.sessions;
  }

  private async once(state: Connection): Promise<void> {
    const { points, rests } = await this.window(this.of);
    batch(() => {
      note(rests);
      this.show(points, null, state);
    });
  }

  /** The points of a view, and what the answer rests on; `progress` follows while they come. */
  private async window(of: View): Promise<{ points: Point[]; rests: About }> {
    const response = await ask(path(of, "cumulative"), asked(of), { signal: this.signal });
    const meter = this.meter(of);
    let text = "";
    for await (const piece of pieces(response.body!)) {
      text += piece;
      meter(piece);
    }
    return { points: (JSON.parse(text) as Cumulative).points, rests: about(response) };
  }

  /** A function that gets the pieces of an answer and says in `progress` how much of the window they hold. */
  private meter(of: View): (piece: string) => void {
    let first = 0;
    return (piece) => {
      if (loaded.peek()) return;
      const last = piece.lastIndexOf('"ts":"');
      const until = last < 0 ? NaN : Date.parse(piece.slice(last + 6, last + 26));
      if (Number.isNaN(until)) return;
      first ||= Date.parse(piece.slice(piece.indexOf('"ts":"') + 6).slice(0, 20));
      const end = Math.min(of.at ? Date.parse(of.at) : serverNow(), first + of.minutes * 60_000);
      progress.value = { until, share: Math.max(0, Math.min(1, (until - first) / (end - first || 1))) };
    };
  }

  /** Ask for a while; then the stream may have room again. */
  private async poll(): Promise<void> {
    for (let turn = 0; turn < POLLS && !this.signal.aborted; turn += 1) {
      await this.once("polling");
      await pause(POLL, this.signal);
    }
  }

  private async listen(): Promise<void> {
    const quiet = new AbortController();
    const either = AbortSignal.any([this.signal, quiet.signal]);
    let heard = Date.now();
    const hush = () => quiet.abort();
    // A machine that slept wakes with a connection that may be dead: its timers did not run meanwhile.
    const awake = () => Date.now() - heard > SILENT && hush();
    const watch = setInterval(awake, 1000);
    addEventListener("offline", hush);
    document.addEventListener("visibilitychange", awake);
    const headers: Record<string, string> = this.lastId ? { "Last-Event-ID": this.lastId } : {};
    try {
      const response = await ask(path(this.of, "cumulative/stream"), asked(this.of), { signal: either, headers });
      batch(() => note(about(response)));
      const meter = this.meter(this.of);
      for await (const event of events(response.body!, (text) => {
        heard = Date.now();
        meter(text);
      })) {
        if (this.signal.aborted) return;
        this.lastId = event.id || this.lastId;
        this.handle(event);
        this.failures = 0;
      }
    } catch (error) {
      if (quiet.signal.aborted) throw new ApiError(0, "silent", "The server has stopped sending.");
      if (error instanceof ApiError || this.signal.aborted) throw error;
      throw new ApiError(0, "cut", "The connection was lost.");
    } finally {
      clearInterval(watch);
      removeEventListener("offline", hush);
      document.removeEventListener("visibilitychange", awake);
    }
  }

  private handle(event: ServerEvent): void {
    const body = JSON.parse(event.data);
    if (event.name === "unavailable") {
      tell(new ApiError(502, body.error, body.message));
    } else if (event.name === "window") {
      this.show((body as Cumulative).points, null, "live");
      this.freshen();
    } else if (event.name === "change") {
      const changed = applied(this.points, body as Change);
      this.show(changed.points, changed.tail, "live");
      this.freshen();
    }
  }

  /** Draw points that were received. Where there are none, a day that is open stays, or the newest day is sought. */
  private show(points: Point[], tail: Point[] | null, state: Connection): void {
    this.points = points;
    const empty = !points.length;
    batch(() => {
      problem.value = null;
      progress.value = null;
      if (empty && opened.peek()) {
        connection.value = "past";
        return;
      }
      if (!empty) opened.value = daysKept.value = null;
      line.value = { points, tail };
      loaded.value = true;
      connection.value = empty && state !== "past" ? "quiet" : state;
    });
    if (!empty) this.sought = false;
    if (!empty) this.read();
    else if (!this.sought) void this.seek();
  }

  /** Learn of which days prints are kept, and open the newest one in place of an empty window of now. */
  private async seek(): Promise<void> {
    this.sought = true;
    try {
      const days = await this.sessions({ days: MOST_DAYS });
      if (this.signal.aborted || this.points.length) return;
      daysKept.value = days.map(({ date }) => date);
      const [latest] = days;
      if (!latest || this.of.at || replay.peek()) return;
      const at = latest.close ?? new Date(dayEnd(latest.date)).toISOString();
      if (Date.parse(at) > serverNow()) return;
      const minutes = windowChosen.peek() ? this.of.minutes : Math.max(this.of.minutes, A_DAY);
      const { points, rests } = await this.window({ ...this.of, at, minutes });
      if (this.signal.aborted || this.points.length || !points.length) return;
      batch(() => {
        note(rests);
        opened.value = { at, day: latest.date, minutes };
        line.value = { points, tail: null };
        connection.value = "past";
      });
      this.read();
    } catch {
      // The window stays empty, and says so.
      this.sought = false;
    }
  }

  /** Ask for the time of the newest print: the stream names minutes alone. */
  private freshen(): void {
    this.freshAgain = true;
    if (this.fresh || !this.points.length) return;
    this.fresh = true;
    const run = async (): Promise<void> => {
      while (this.freshAgain && !this.signal.aborted) {
        this.freshAgain = false;
        const head = { method: "HEAD", signal: this.signal };
        await ask(path(this.of, "cumulative"), { minutes: 1 }, head).then((answer) => note(about(answer)), () => null);
        await pause(FRESH, this.signal);
      }
      this.fresh = false;
    };
    void run();
  }
}
