import { signal } from "@preact/signals";
import { date, hhmmss } from "../chart/times";
import { type Connection, connection, newest, problem, replay, simulated } from "../live";
import { misread, view } from "../view";
import { age } from "./format";

const now = signal(Date.now());
setInterval(() => (now.value = Date.now()), 1000);

const WORDS: Record<Connection, string> = {
  connecting: "connecting",
  loading: "loading",
  live: "live",
  polling: "not live: asked every 2 s",
  past: "the past",
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
  if (newest.value === null) return <span class="quiet">no print yet</span>;
  const old = now.value - newest.value;
  return (
    <span class="quiet" title={new Date(newest.value).toISOString()}>
      newest print {replay.value && `${date(newest.value)} `}
      {hhmmss(newest.value)} ET{view.value.at || replay.value ? "" : `, ${age(old)} ago`}
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
