import { computed, effect, signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { type Drifter, get, type Leader, type Leaderboard, type Outlier, type SessionPart } from "../api";
import { filtersOf, MEASURES } from "../describe";
import { line, loaded, shown } from "../live";
import { readings, readingsProblem } from "../readings";
import { key } from "../session";
import { dayName, hhmm, isBareDay, moment } from "../times";
import { change, view, type View } from "../view";
import { capital, count, signed, signedShort, statistic, tone } from "./format";

const EVERY = 5_000;
const ROWS = 8;

interface Board<T> {
  body: T | null;
  problem: string;
}
const leaders = signal<Board<Leaderboard>>({ body: null, problem: "" });
const outliers = signal<Board<{ outliers: Outlier[] }>>({ body: null, problem: "" });
const drift = signal<Board<{ drift: Drifter[] }>>({ body: null, problem: "" });

/** The tables follow asset, window, right and instant, and are renewed while the page is in sight. */
const followed = computed(() => {
  const { asset, minutes, right, at } = shown.value;
  return JSON.stringify({ asset, minutes, right, at });
});
effect(() => {
  const { asset, minutes, right, at } = JSON.parse(followed.value) as View;
  const stop = new AbortController();
  if (!key.value || isBareDay(at)) return () => stop.abort();
  const of = { windowMinutes: minutes, right, at };
  const load = () => {
    if (document.hidden) return;
    void fill(leaders, `/v1/flow/${asset}/leaderboard`, { ...of, n: ROWS }, stop.signal);
    void fill(outliers, `/v1/flow/${asset}/outliers`, { ...of, limit: ROWS }, stop.signal);
    void fill(drift, `/v1/flow/${asset}/drift`, { ...of, limit: ROWS }, stop.signal);
  };
  load();
  const timer = setInterval(load, EVERY);
  return () => {
    clearInterval(timer);
    stop.abort();
  };
});

async function fill<T>(
  board: { value: Board<T>; peek: () => Board<T> },
  path: string,
  params: Record<string, string | number>,
  stop: AbortSignal,
): Promise<void> {
  try {
    board.value = { body: (await get<T>(path, params, stop)).body, problem: "" };
  } catch (error) {
    if (!stop.aborted) board.value = { ...board.peek(), problem: String((error as Error).message) };
  }
}

/** Which prints the tables of all symbols are made of, and which of the chart's filters they do not follow. */
function scope(): string {
  const { asset, right, at } = shown.value;
  const prints = asset === "stocks" ? "all stock prints" : { "": "all options", C: "all calls", P: "all puts" }[right];
  const ignored = filtersOf(shown.value).map(([name]) => name).filter((name) => name !== "right");
  const until = at ? `, as of ${moment(Date.parse(at))}` : "";
  return prints + until + (ignored.length ? `; not filtered by ${ignored.join(", ")}` : "");
}

export function Tables() {
  const { buyers = [], sellers = [] } = leaders.value.body ?? {};
  return (
    <aside class="tables" aria-label="Tables">
      <p class="scope quiet">All symbols: {scope()}.</p>
      <Table name="Leaders" note="net notional, USD" head={["Symbol", "Net notional", "Net volume", "Prints"]}
        problem={leaders.value.problem} loaded={leaders.value.body !== null}>
        {[...buyers, ...sellers].map((row) => <LeaderRow key={row.symbol} row={row} />)}
      </Table>
      <Table name="Outliers" note="largest net notional, USD" head={["Symbol", "Net notional", "Imbalance", "Skew"]}
        problem={outliers.value.problem} loaded={outliers.value.body !== null}>
        {(outliers.value.body?.outliers ?? []).map((row) => (
          <Row key={row.symbol} symbol={row.symbol}>
            <td class={tone(row.netNotional)}>{signedShort(row.netNotional)}</td>
            <td>{row.imbalancePct.toFixed(1)} %</td>
            <td class="word">{row.skew.replace("_", " ").toLowerCase()}</td>
          </Row>
        ))}
      </Table>
      <Table name="Drift" note="net volume in standard deviations" head={["Symbol", "z", "By volume", "Net volume"]}
        problem={drift.value.problem} loaded={drift.value.body !== null}>
        {(drift.value.body?.drift ?? []).map((row) => (
          <Row key={row.symbol} symbol={row.symbol} strong={row.stretched}>
            <td class={tone(row.z ?? 0)}>{row.z === undefined ? "–" : statistic(row.z)}</td>
            <td class={tone(row.volumeZ)}>{statistic(row.volumeZ)}</td>
            <td class={tone(row.netVolume)}>{signed(row.netVolume)}</td>
          </Row>
        ))}
      </Table>
      <Parts name="Sessions" note="parts of each day" parts={["outside", "open", "midday", "close"]} />
      <Parts name="Halves" note="of each regular session" parts={["morning", "afternoon"]} />
    </aside>
  );
}

function LeaderRow({ row }: { row: Leader }) {
  return (
    <Row symbol={row.symbol}>
      <td class={tone(row.netNotional)}>{signedShort(row.netNotional)}</td>
      <td class={tone(row.netVolume)}>{signed(row.netVolume)}</td>
      <td>{count(row.tradeCount)}</td>
    </Row>
  );
}

function Row(props: { symbol: string; strong?: boolean; children: ComponentChildren }) {
  const shown = props.symbol === view.value.symbol;
  return (
    <tr class={props.strong ? "strong" : ""} aria-current={shown ? "true" : undefined}
      onClick={() => change({ symbol: props.symbol })}>
      <th scope="row">
        <button type="button" onClick={() => change({ symbol: props.symbol })}>{props.symbol}</button>
      </th>
      {props.children}
    </tr>
  );
}

function Table(props: {
  name: string;
  note: string;
  head: string[];
  problem: string;
  loaded: boolean;
  /** Whether room is kept for rows that are still to come. */
  waits?: boolean;
  empty?: string;
  children: ComponentChildren[];
}) {
  return (
    <div class={(props.waits ?? !props.loaded) && !props.problem ? "table waiting" : "table"}>
      <table aria-label={props.name}>
        <caption>
          {props.name} <span class="quiet">{props.note}</span>
        </caption>
        <thead>
          <tr>{props.head.map((name) => <th key={name} scope="col">{name}</th>)}</tr>
        </thead>
        <tbody>{props.children}</tbody>
      </table>
      {props.problem && <p class="error">{props.problem}</p>}
      {!props.problem && props.loaded && !props.children.length && <p class="quiet">{props.empty ?? "No symbol in this window."}</p>}
    </div>
  );
}

/** Parts of the days, newest day first. `parts` do not overlap, so that their shares can be added. */
function Parts(props: { name: string; note: string; parts: string[] }) {
  const rows = readings.value.sessions.flatMap((day) => {
    const found = props.parts.flatMap((name) => day.parts.filter(({ part }) => part === name));
    if (!found.length) return [];
    return [
      <tr key={day.date} class="day">
        <th scope="rowgroup" colSpan={4}>{dayName(day.date)}</th>
      </tr>,
      ...found.map((part) => <PartRow key={day.date + part.part} part={part} />),
    ];
  });
  return (
    <Table name={props.name} note={`${view.value.symbol}, ${props.note}`} problem={readingsProblem.value}
      loaded={loaded.value && line.value.points.length === 0} waits={!readings.value.divergence} empty="No session."
      head={["Part", "New York", capital(MEASURES[view.value.measure].name), "Share"]}>
      {rows}
    </Table>
  );
}

function PartRow({ part }: { part: SessionPart }) {
  const net = part[MEASURES[view.value.measure].field] ?? 0;
  const hours = `${hhmm(Date.parse(part.from))}–${hhmm(Date.parse(part.to))}`;
  return (
    <tr>
      <th scope="row">{part.part}</th>
      <td>{part.part === "outside" ? "other hours" : hours}</td>
      <td class={tone(net)}>{signed(net)}</td>
      <td>{(100 * part.absoluteShare).toFixed(1)} %</td>
    </tr>
  );
}
