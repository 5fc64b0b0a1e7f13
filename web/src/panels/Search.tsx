import { effect, signal, useSignal } from "@preact/signals";
import { get } from "../api";
import { key } from "../session";
import { change, view } from "../view";
import { toChart } from "./focus";

const SHOWN = 12;
const symbols = signal<string[]>([]);
effect(() => {
  if (key.value) void load();
});

async function load(): Promise<void> {
  try {
    symbols.value = (await get<{ symbols: string[] }>("/v1/symbols", {})).body.symbols;
  } catch {
    // Any symbol can be typed; the list only helps.
  }
}

/** A combobox by https://www.w3.org/WAI/ARIA/apg/patterns/combobox/ */
export function Search() {
  const typed = useSignal<string | null>(null);
  const at = useSignal(0);
  const wanted = typed.value?.trim().toUpperCase() ?? "";
  const found = typed.value === null ? [] : matching(wanted);
  const open = typed.value !== null && found.length > 0;
  const pick = (symbol: string) => {
    if (symbol) change({ symbol });
    typed.value = null;
    toChart();
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const by = event.key === "ArrowDown" ? 1 : -1;
      at.value = (at.value + by + found.length) % Math.max(found.length, 1);
      typed.value ??= "";
    } else if (event.key === "Enter") {
      pick(found[at.value] ?? wanted);
    } else if (event.key === "Escape") {
      typed.value = null;
      toChart();
    }
  };
  return (
    <div class="search">
      <label for="symbol" class="hidden">Symbol</label>
      <input id="symbol" role="combobox" aria-expanded={open} aria-controls="symbols" aria-autocomplete="list"
        aria-activedescendant={open ? `symbol-${at.value}` : undefined} autocomplete="off" spellcheck={false}
        maxLength={24} value={typed.value ?? view.value.symbol}
        onFocus={(event) => {
          event.currentTarget.select();
          void load();
        }}
        onInput={(event) => {
          typed.value = event.currentTarget.value;
          at.value = 0;
        }}
        onKeyDown={onKey} onBlur={() => (typed.value = null)} />
      <ul id="symbols" role="listbox" aria-label="Symbols" hidden={!open}>
        {found.map((symbol, place) => (
          <li key={symbol} id={`symbol-${place}`} role="option" aria-selected={place === at.value}
            onMouseDown={(event) => {
              event.preventDefault();
              pick(symbol);
            }}>
            {symbol}
          </li>
        ))}
      </ul>
    </div>
  );
}

function matching(wanted: string): string[] {
  // `BRK-B`, `BRK/B` and `BRKB` find `BRK.B`.
  const bare = (symbol: string) => symbol.replace(/[-./ ]/g, "");
  const part = bare(wanted);
  const starts = symbols.value.filter((symbol) => bare(symbol).startsWith(part));
  const holds = symbols.value.filter((symbol) => !bare(symbol).startsWith(part) && bare(symbol).includes(part));
  const exact = symbols.value.filter((symbol) => symbol === wanted);
  return [...new Set([...exact, ...starts, ...holds])].slice(0, SHOWN);
}
