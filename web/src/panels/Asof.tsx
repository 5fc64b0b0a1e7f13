import { useSignal } from "@preact/signals";
import { line, newest, problem } from "../live";
import { isoDay, parseTime, typed } from "../times";
import { change, view } from "../view";
import { toChart } from "./focus";

/** The day that an hour without a date is of: the one shown. */
function today(): string {
  const last = line.peek().points.at(-1);
  return isoDay(last ? Date.parse(last.ts) : (newest.peek() ?? Date.now()));
}

/** The instant that is shown, by New York's clock. */
export function AsOf() {
  const text = useSignal<string | null>(null);
  const wrong = useSignal("");
  const refused = problem.value?.code === "invalid_at" ? problem.value.message : "";
  const error = wrong.value || refused;
  const put = (): boolean => {
    if (text.value === null || text.value.trim() === typed(view.value.at)) return !wrong.value;
    const read = parseTime(text.value, today());
    if ("wrong" in read) {
      wrong.value = read.wrong;
      return false;
    }
    text.value = null;
    wrong.value = "";
    change({ at: read.at });
    return true;
  };
  return (
    <div class="field">
      <label for="filter-at">As of (New York)</label>
      <input id="filter-at" value={text.value ?? typed(view.value.at)} placeholder="2026-11-27 15:00, or 15:00"
        autocomplete="off" spellcheck={false} maxLength={60} aria-invalid={Boolean(error)}
        aria-describedby={error ? "filter-at-error" : undefined}
        onInput={(event) => (text.value = event.currentTarget.value)}
        onBlur={put}
        onKeyDown={(event) => {
          if (event.key === "Enter" && put()) toChart();
          if (event.key !== "Escape") return;
          text.value = null;
          wrong.value = "";
          toChart();
        }} />
      {error && <p id="filter-at-error" class="error" role="alert">{error}</p>}
    </div>
  );
}
