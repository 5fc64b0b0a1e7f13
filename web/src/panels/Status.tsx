import { signal } from "@preact/signals";
import { serverNow } from "../api";
import { windowWords } from "../describe";
import { type Connection, connection, daysKept, newest, opened, problem, replay, simulated } from "../live";
import { date, dayName, hhmmss, isoDay } from "../times";
import { change, misread, view } from "../view";
import { age } from "./format";

const now = signal(serverNow());
setInterval(() => (now.value = serverNow()), 1000);

const WORDS: Record<Connection, string> = {
  connecting: "connecting",
  loading: "loading",
  live: "live",
  polling: "not live: asked every 2 s",
  past: "the past",
  quiet: "connected, no print to show",
  lost: "not live: connection lost, trying again",
  doubtful: "not live: the server does not trust its numbers",
  refused: "not live: the key is refused",
  wrong: "nothing to show",
};

export function Status() {
  const state = connection.value;
  const played = replay.value;
  return (
    <div class="status">
      {simulated.value && <span class="badge">simulated</span>}
      {played && <span class="badge">replay of {played.day}, {played.speed}×</span>}
      <span role="status" aria-label="Connection" class={`connection ${state}`}>
        {played && state === "live" ? "replaying" : WORDS[state]}
      </span>
      <Age />
    </div>
  );
}

function Age() {
  const at = newest.value;
  if (at === null) return null;
  const passed = view.value.at || replay.value || opened.value;
  const today = !passed && isoDay(at) === isoDay(now.value);
  return (
    <span class="quiet age" title={`${date(at)} ${hhmmss(at)} in New York, ${new Date(at).toISOString()}`}>
      newest print {today ? "" : `${date(at)} `}
      {hhmmss(at)} ET{passed ? "" : `, ${age(now.value - at)} ago`}
    </span>
  );
}

/** What keeps the page from what was asked, in words. */
export function Troubles() {
  const share = connection.value === "loading" ? /(\d+) %/.exec(problem.value?.message ?? "")?.[1] : undefined;
  const found = [misread.value, problem.value?.message ?? ""].filter(Boolean);
  return (
    <div class="troubles" role="alert">
      {share && <progress aria-label="Loading" max={100} value={Number(share)} />}
      {found.map((text) => <p key={text}>{text}</p>)}
    </div>
  );
}

/** Which days are kept, where there is no print in the window of now. */
export function DaysKept() {
  const days = daysKept.value;
  if (!days?.length || view.value.at) return null;
  const day = opened.value?.day;
  const [newestDay, oldestDay] = [days[0]!, days.at(-1)!];
  const kept = days.length === 1
    ? `One day is kept: ${dayName(newestDay)}.`
    : `${days.length} days are kept: ${dayName(oldestDay)} to ${dayName(newestDay)}.`;
  return (
    <div class="notice" role="status" aria-label="Days kept">
      <p>
        No print of {view.value.symbol} in the last {windowWords(view.value.minutes)}. {kept}
        {day && ` Shown: ${dayName(day)}.`}
      </p>
      <label>
        Day{" "}
        <select value={day ?? ""} onChange={(event) => change({ at: event.currentTarget.value })}>
          {!day && <option value="">choose</option>}
          {days.map((each) => <option key={each} value={each}>{dayName(each)}</option>)}
        </select>
      </label>
    </div>
  );
}
