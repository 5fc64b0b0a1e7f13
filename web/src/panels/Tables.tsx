import { effect, signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { type Drifter, get, type Leader, type Leaderboard, type Outlier } from "../api";
import { hhmm } from "../chart/times";
import { readings, readingsProblem } from "../live";
import { key } from "../session";
import { change, view } from "../view";
import { count, signed, signedShort, statistic, tone } from "./format";

const EVERY = 5_000;
const ROWS = 8;

interface Board<T> {
  body: T | null;
  problem: string;
}
const leaders = signal<Board<Leaderboard>>({ body: null, problem: "" });
const outliers = signal<Board<{ outliers: Outlier[] }>>({ body: null, problem: "" });
const drift = signal<Board<{ drift: Drifter[] }>>({ body: null, problem: "" });

/** Boards follow asset, window, right and instant, and are renewed while the page is in sight. */
effect(() => {
  const { asset, minutes, right, at } = view.value;
  const stop = new AbortController();
  if (!key.value) return () => stop.abort();
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

export function Tables() {
  const { buyers = [], sellers = [] } = leaders.value.body ?? {};
  return (
    <aside class="tables" aria-label="Symbols side by side">
      <Table name="Leaders" note="net notional, USD" head={["Symbol", "Net notional", "Net volume", "Prints"]}
        problem={leaders.value.problem} loaded={leaders.value.body !== null}>
        {[...buyers, ...sellers].map((row) => <LeaderRow key={row.symbol} row={row} />)}
      </Table>
      <Table name="Outliers" note="largest net notional" head={["Symbol", "Net notional", "Imbalance", "Skew"]}
        problem={outliers.value.problem} loaded={outliers.value.body !== null}>
        {(outliers.value.body?.outliers ?? []).map((row) => (
          <Row key={row.symbol} symbol={row.symbol}>
            <td class={tone(row.netNotional)}>{signedShort(row.netNotional)}</td>
            <td>{row.imbalancePct.toFixed(1)} %</td>
            <td class="word">{row.skew.replace("_", " ").toLowerCase()}</td>
          </Row>
        ))}
      </Table>
      <Table name="Drift" note="from zero, in deviations" head={["Symbol", "z", "By volume", "Net volume"]}
        problem={drift.value.problem} loaded={drift.value.body !== null}>
        {(drift.value.body?.drift ?? []).map((row) => (
          <Row key={row.symbol} symbol={row.symbol} strong={row.stretched}>
            <td class={tone(row.z ?? 0)}>{row.z === undefined ? "–" : statistic(row.z)}</td>
            <td class={tone(row.volumeZ)}>{statistic(row.volumeZ)}</td>
            <td class={tone(row.netVolume)}>{signed(row.netVolume)}</td>
          </Row>
        ))}
      </Table>
      <Sessions />
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
  children: ComponentChildren[];
}) {
  return (
    <div class="table">
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
      {!props.problem && props.loaded && !props.children.length && <p class="quiet">No symbol in this window.</p>}
    </div>
  );
}

const PARTS = ["open", "midday", "close", "morning", "afternoon", "outside"];

/** The parts of the day, newest day first: morning against afternoon. */
function Sessions() {
  const rows = readings.value.sessions.flatMap((day) =>
    [...day.parts]
      .sort((one, other) => PARTS.indexOf(one.part) - PARTS.indexOf(other.part))
      .map((part) => (
        <tr key={day.date + part.part}>
          <th scope="row">
            {day.date.slice(5)} {part.part}
          </th>
          <td>
            {hhmm(Date.parse(part.from))}–{hhmm(Date.parse(part.to))}
          </td>
          <td class={tone(part.netVolume)}>{signed(part.netVolume)}</td>
          <td>{(100 * part.absoluteShare).toFixed(0)} %</td>
        </tr>
      )),
  );
  return (
    <Table name="Sessions" note={`${view.value.symbol}, by part of the day`}
      head={["Part", "New York", "Net volume", "Share"]} problem={readingsProblem.value} loaded={true}>
      {rows}
    </Table>
  );
}
