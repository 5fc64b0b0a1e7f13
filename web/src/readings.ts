// Readings of the line: divergence, turning points and the parts of the day.
import { batch, signal } from "@preact/signals";
import { type Answer, type Divergence, get, type SessionDay, type Turn } from "./api";
import { filters, path, type View } from "./view";

export interface Readings {
  divergence: Divergence | null;
  turns: Turn[];
  sessions: SessionDay[];
}

export const NOTHING: Readings = { divergence: null, turns: [], sessions: [] };
export const readings = signal<Readings>(NOTHING);
export const readingsProblem = signal("");
const BULLISH: Record<string, string> = { volume: "directional", premium: "directional_premium" };
const TURNS = 6;
const DAYS = 5;

/** How often the readings are asked again, in ms: those of long windows are large. */
const every = (of: View): number => (of.minutes > 1440 ? 30_000 : 5_000);

/** A function that asks for the readings of a view when it is called, at most once every few seconds. `note` gets the
 * answer whose headers say how new its data are. */
export function readAlong(of: () => View, signal: AbortSignal, note: (answer: Answer<unknown>) => void): () => void {
  let busy = false;
  let again = false;
  const run = async (): Promise<void> => {
    busy = true;
    again = false;
    await ask(of(), signal, note);
    await pause(every(of()), signal);
    busy = false;
    if (again && !signal.aborted) void run();
  };
  return () => {
    again = true;
    if (!busy) void run();
  };
}

async function ask(of: View, signal: AbortSignal, note: (answer: Answer<unknown>) => void): Promise<void> {
  const { measure, at } = of;
  const everyWindow = { ...filters(of), at, measure };
  const window = { minutes: of.minutes, ...everyWindow };
  // Bought puts are bearish: their flow is compared with the price as bullish less bearish.
  const flow = (of.right === "P" && BULLISH[measure]) || measure;
  const [divergence, turns, sessions] = await Promise.allSettled([
    get<Divergence>(path(of, "divergence"), { ...window, measure: flow }, signal),
    get<{ points: Turn[] }>(path(of, "turning-points"), { ...window, limit: TURNS }, signal),
    get<{ sessions: SessionDay[] }>(path(of, "sessions"), { ...everyWindow, days: DAYS }, signal),
  ]);
  if (signal.aborted) return;
  const failed = [divergence, turns, sessions].filter((one) => one.status === "rejected");
  batch(() => {
    if (divergence.status === "fulfilled") note(divergence.value);
    readingsProblem.value = [...new Set(failed.map((one) => String(one.reason.message)))].join(" ");
    // A reading that could not be asked again stays as it was, with the reason beside it.
    const before = readings.peek();
    readings.value = {
      divergence: divergence.status === "fulfilled" ? divergence.value.body : before.divergence,
      turns: turns.status === "fulfilled" ? turns.value.body.points : before.turns,
      sessions: sessions.status === "fulfilled" ? sessions.value.body.sessions : before.sessions,
    };
  });
}

export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
