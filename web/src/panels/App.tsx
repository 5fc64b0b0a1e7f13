import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ask } from "../api";
import { key, refusal, type Theme, theme } from "../session";
import { asked, change, link, path, view, WINDOWS } from "../view";
import { chart, ChartPane } from "./ChartPane";
import { Controls } from "./Controls";
import { KeyDialog } from "./KeyDialog";
import { Search } from "./Search";
import { Status, Troubles } from "./Status";
import { Tables } from "./Tables";

const said = signal("");
const helping = signal(false);
const THEMES: Theme[] = ["system", "dark", "light"];

const KEYS: [string, string, () => void][] = [
  ["/", "search a symbol", () => document.getElementById("symbol")?.focus()],
  ...WINDOWS.map(([name, minutes], place): [string, string, () => void] => [
    String(place + 1),
    `window of ${name}`,
    () => change({ minutes }),
  ]),
  ["o", "options", () => change({ asset: "options" })],
  ["s", "stocks", () => change({ asset: "stocks" })],
  ["t", "theme", nextTheme],
  ["?", "these keys", () => (helping.value = !helping.value)],
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
        <Actions />
      </header>
      <main>
        <Controls />
        <Troubles />
        <div class="desk">
          <ChartPane />
          <Tables />
        </div>
      </main>
      <footer class="quiet">
        Charts by <a href="https://www.tradingview.com/">TradingView</a> Lightweight Charts™. Aggressors are inferred
        from the quote; times are New York's. <a href="/docs">API</a>
      </footer>
      <p class="hidden" role="status" aria-label="Done">{said.value}</p>
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
  const of = view.value;
  try {
    const response = await ask(path(of, "cumulative"), { ...asked(of), format: "csv" });
    save(await response.blob(), `${of.symbol}-cumulative.csv`);
  } catch (error) {
    said.value = (error as Error).message;
  }
}

async function png(): Promise<void> {
  const picture = await chart.value?.png();
  if (picture) save(picture, `${view.value.symbol}-flow.png`);
}

async function copy(): Promise<void> {
  const address = location.origin + link(view.value);
  try {
    await navigator.clipboard.writeText(address);
    said.value = "The link is on the clipboard.";
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
  said.value = `${name} is saved.`;
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
          <dd>crosshair, in the chart (Shift: ten minutes)</dd>
        </div>
      </dl>
      <button type="button" onClick={() => (helping.value = false)}>Close</button>
    </dialog>
  );
}
