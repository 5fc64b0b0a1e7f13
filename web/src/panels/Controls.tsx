import { signal, useComputed, useSignal } from "@preact/signals";
import { problem, shown } from "../live";
import { change, type Measure, view, type View, WINDOWS } from "../view";
import { AsOf } from "./Asof";
import { toChart } from "./focus";

const FILTERED = ["expiry", "right", "dte", "strike", "exclude", "side", "at"] as const;
const CLEAR = Object.fromEntries(FILTERED.map((name) => [name, ""])) as Partial<View>;
const active = (): number => FILTERED.filter((name) => view.value[name]).length;
/** Open from the start where a link sets a filter; from then on the reader opens and closes it. */
const opened = signal(active() > 0);

const MEASURES: [string, Measure, View["split"]][] = [
  ["Volume", "volume", ""],
  ["Premium", "premium", ""],
  ["Volume: calls and puts", "volume", "right"],
  ["Premium: calls and puts", "premium", "right"],
  ["Directional volume", "directional", ""],
  ["Directional premium", "directional_premium", ""],
  ["Directional volume: calls and puts", "directional", "right"],
  ["Directional premium: calls and puts", "directional_premium", "right"],
];

export function Controls() {
  const { asset, anchor } = view.value;
  const { minutes } = shown.value;
  const listed = WINDOWS.some(([, each]) => each === minutes);
  return (
    <form class="controls" onSubmit={(event) => event.preventDefault()}>
      <Radios name="Asset" value={asset} choices={[["Options", "options"], ["Stocks", "stocks"]]}
        pick={(value) => change({ asset: value as View["asset"] })} />
      <Radios name="Window" value={String(minutes)}
        choices={[...WINDOWS.map(([name, each]): [string, string] => [name, String(each)]),
          ...(listed ? [] : [[`${minutes}m`, String(minutes)] as [string, string]])]}
        pick={(value) => change({ minutes: Number(value) })} />
      <MeasureChoice />
      <Radios name="Sum from" value={anchor} choices={[["Window start", "window"], ["Session open", "session"]]}
        pick={(value) => change({ anchor: value as View["anchor"] })} />
      <details class="filters" open={opened.value} onToggle={(event) => (opened.value = event.currentTarget.open)}>
        <summary>Filters and time{active() ? ` (${active()})` : ""}</summary>
        <div>
          {asset === "options" && (
            <>
              <Text name="expiry" label="Expiry" hint="2026-05-15, or a..b" />
              <Choice name="right" label="Right" choices={[["All", ""], ["Calls", "C"], ["Puts", "P"]]} />
              <Text name="dte" label="Days to expiry" hint="0..7" />
              <Text name="strike" label="Strike" hint="450..500" />
            </>
          )}
          <Text name="exclude" label="Exclude conditions" hint="cross,floor" />
          <Choice name="side" label="Side" choices={[["Both", ""], ["Buys", "buy"], ["Sells", "sell"]]} />
          <AsOf />
          <button type="button" onClick={() => change(CLEAR)}>Clear</button>
        </div>
      </details>
    </form>
  );
}

function MeasureChoice() {
  const { measure, split, asset } = view.value;
  const choices = asset === "stocks" ? MEASURES.slice(0, 2) : MEASURES;
  return (
    <div class="choice">
      <label for="measure">Measure</label>
      <select id="measure" title="Directional: calls less puts, so that plus is bullish" value={`${measure} ${split}`}
        onChange={(event) => {
          const [measure, split] = event.currentTarget.value.split(" ");
          change({ measure: measure as Measure, split: split as View["split"] });
        }}>
        {choices.map(([label, each, parts]) => <option key={label} value={`${each} ${parts}`}>{label}</option>)}
      </select>
    </div>
  );
}

function Radios(props: {
  name: string;
  value: string;
  choices: [string, string][];
  pick: (value: string) => void;
}) {
  return (
    <fieldset>
      <legend>{props.name}</legend>
      {props.choices.map(([label, value]) => (
        <label key={value}>
          <input type="radio" name={props.name} checked={props.value === value} onChange={() => props.pick(value)} />
          <span>{label}</span>
        </label>
      ))}
    </fieldset>
  );
}

type Texts = "expiry" | "dte" | "strike" | "exclude";

function Text(props: { name: Texts; label: string; hint: string }) {
  const typed = useSignal<string | null>(null);
  const refused = useComputed(() => problem.value?.code === `invalid_${props.name}`);
  const id = `filter-${props.name}`;
  const put = () => {
    if (typed.value !== null) change({ [props.name]: typed.value.trim() });
    typed.value = null;
  };
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      <input id={id} value={typed.value ?? view.value[props.name]} placeholder={props.hint} autocomplete="off"
        spellcheck={false} maxLength={400} aria-invalid={refused.value}
        aria-describedby={refused.value ? `${id}-error` : undefined}
        onInput={(event) => (typed.value = event.currentTarget.value)}
        onBlur={put}
        onKeyDown={(event) => {
          if (event.key === "Escape") typed.value = null;
          else if (event.key === "Enter") put();
          else return;
          toChart();
        }} />
      {refused.value && <p id={`${id}-error`} class="error" role="alert">{problem.value?.message}</p>}
    </div>
  );
}

function Choice(props: { name: "right" | "side"; label: string; choices: [string, string][] }) {
  const id = `filter-${props.name}`;
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      <select id={id} value={view.value[props.name]}
        onChange={(event) => change({ [props.name]: event.currentTarget.value })}>
        {props.choices.map(([label, value]) => <option key={value} value={value}>{label}</option>)}
      </select>
    </div>
  );
}
