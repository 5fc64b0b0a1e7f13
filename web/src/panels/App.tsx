import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ask } from "../api";
import { key, refusal, type Theme, theme } from "../session";
import { captioned } from "../chart/picture";
import { colour } from "../chart/chart";
import { captionLines, described, fileName, title } from "../describe";
import { shown } from "../live";
import { asked, change, link, path, view, WINDOWS } from "../view";
import { chart, ChartPane, series } from "./ChartPane";
import { Controls } from "./Controls";
import { KeyDialog } from "./KeyDialog";
import { Search } from "./Search";
import { DaysKept, Status, Troubles } from "./Status";
import { Tables } from "./Tables";

const said = signal("");
const SAID_FOR = 4_000;
let fades: ReturnType<typeof setTimeout> | undefined;

/** Tell what was done, in sight for a few seconds. */
function say(text: string): void {
  said.value = text;
  clearTimeout(fades);
  fades = setTimeout(() => (said.value = ""), SAID_FOR);
}

const narrowScreen = matchMedia("(max-width: 900px)");
const narrow = signal(narrowScreen.matches);
narrowScreen.addEventListener("change", () => (narrow.value = narrowScreen.matches));

const helping = signal(false);
const THEMES: Theme[] = ["system", "dark", "light"];

const KEYS: [string, string, () => void][] = [
  ["/", "find a symbol", () => document.getElementById("symbol")?.focus()],
  ...WINDOWS.map(([name, minutes], place): [string, string, () => void] => [
    String(place + 1),
    `window of ${name}`,
    () => change({ minutes }),
  ]),
  ["o", "options", () => change({ asset: "options" })],
  ["s", "stocks", () => change({ asset: "stocks" })],
  ["f", "the whole window", () => chart.peek()?.fit()],
  ["t", "theme", nextTheme],
  ["?", "this list", () => (helping.value = !helping.value)],
];

function nextTheme(): void {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]!;
}

function onKey(event: KeyboardEvent): void {
  const inField = event.target instanceof Element && event.target.closest("input:not([type=radio]), select, dialog");
  if (inField || event.ctrlKey || event.metaKey || event.altKey) return;
  const found = KEYS.find(([name]) => name === event.key);
  if (!found) return;
  event.preventDefault();
  found[2]();
}

export function App() {
  useEffect(() => {
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  document.title = `${view.value.symbol} ${view.value.asset} · flowtape`;
  return (
    <>
      <header>
        <h1>flowtape</h1>
        <Search />
        <Status />
        {!narrow.value && <Actions />}
      </header>
      <main>
        {!narrow.value && <Controls key="controls" />}
        <Troubles key="troubles" />
        <DaysKept key="days" />
        <div class="desk" key="desk">
          <ChartPane key="chart" />
          {narrow.value && <Controls key="controls" />}
          <Tables key="tables" />
        </div>
      </main>
      {narrow.value && <Actions />}
      <footer class="quiet">
        Charts by <a href="https://www.tradingview.com/">TradingView</a> Lightweight Charts™. The
        aggressor side is inferred from the prevailing quote. Times are New York's. <a href="/docs">API</a>
      </footer>
      <p class={said.value ? "toast" : "hidden"} role="status" aria-label="Done">{said.value}</p>
      <KeyDialog />
      <Help />
    </>
  );
}

function Actions() {
  return (
    <nav aria-label="Page">
      <button type="button" onClick={() => void csv()}>Download CSV</button>
      <button type="button" onClick={() => void png()}>Download PNG</button>
      <button type="button" onClick={() => void copy()}>Copy link</button>
      <button type="button" onClick={nextTheme} title={`Theme: ${theme.value}`}>Theme</button>
      <button type="button" onClick={() => (helping.value = true)}>Keys</button>
      <button type="button" onClick={() => (refusal.value = "")} hidden={!key.value}>API key</button>
    </nav>
  );
}

async function csv(): Promise<void> {
  const of = shown.value;
  const name = `${fileName("cumulative")}.csv`;
  try {
    const response = await ask(path(of, "cumulative"), { ...asked(of), format: "csv" });
    save(new Blob([described(await response.text())], { type: "text/csv" }), name);
  } catch (error) {
    say((error as Error).message);
  }
}

async function png(): Promise<void> {
  if (!chart.value) return;
  const legend = series().map(([name, color]): [string, string] => [name, colour(color)]);
  const caption = { title: title(shown.value), lines: captionLines(), legend };
  save(await captioned(chart.value.picture(), caption), `${fileName("chart")}.png`);
}

async function copy(): Promise<void> {
  const address = location.origin + link(view.value);
  try {
    await navigator.clipboard.writeText(address);
    say("The link was copied.");
  } catch {
    prompt("The link to this view:", address);
  }
}

function save(blob: Blob, name: string): void {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 1000);
  say(`${name} was saved.`);
}

function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  const shown = helping.value;
  useEffect(() => {
    if (shown && !dialog.current!.open) dialog.current!.showModal();
    if (!shown) dialog.current!.close();
  }, [shown]);
  return (
    <dialog ref={dialog} aria-labelledby="keys-title" onClose={() => (helping.value = false)}>
      <h2 id="keys-title">Keys</h2>
      <dl class="keys">
        {KEYS.map(([name, what]) => (
          <div key={name}>
            <dt><kbd>{name}</kbd></dt>
            <dd>{what}</dd>
          </div>
        ))}
        <div>
          <dt><kbd>←</kbd> <kbd>→</kbd></dt>
          <dd>in the chart: move the crosshair (Shift: ten minutes)</dd>
        </div>
        <div>
          <dt><kbd>+</kbd> <kbd>−</kbd></dt>
          <dd>in the chart: fewer minutes, more minutes</dd>
        </div>
      </dl>
      <button type="button" onClick={() => (helping.value = false)}>Close</button>
    </dialog>
  );
}
