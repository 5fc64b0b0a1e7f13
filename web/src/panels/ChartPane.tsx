import { effect, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { netOf, type Point } from "../api";
import { FlowChart, hovered, offScale, priced } from "../chart/chart";
import { MEASURES, windowWords } from "../describe";
import { daysKept, line, loaded, problem, progress, shown } from "../live";
import { readings } from "../readings";
import { split } from "../split";
import { moment } from "../times";
import { FILTERS, view } from "../view";
import { capital, count, price, signed, statistic, tone } from "./format";

export const chart = signal<FlowChart | null>(null);
/** The minute that the keyboard's crosshair was moved to, in words. */
const announced = signal("");
const SPOKEN = 10;
const STEPS: Record<string, number> = {
  ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -Infinity, End: Infinity,
};

function onKey(event: KeyboardEvent): void {
  const by = STEPS[event.key];
  if (event.key === "+" || event.key === "=") chart.value?.zoom(0.8);
  else if (event.key === "-") chart.value?.zoom(1.25);
  else if (event.key === "Escape") chart.value?.unpin();
  else if (by !== undefined) {
    const point = chart.value?.step(event.shiftKey ? by * 10 : by);
    if (point) announced.value = inWords(point);
  } else return;
  event.preventDefault();
}

function inWords(point: Point): string {
  const name = MEASURES[view.peek().measure].name;
  const fields = [
    moment(Date.parse(point.ts)),
    `cumulative ${signed(point.cumulative)}`,
    `${name} ${signed(netOf(point))}`,
    `VWAP ${price(point.vwap)}`,
    `${count(point.tradeCount)} prints`,
  ];
  return `${fields.join(", ")}.`;
}

export function ChartPane() {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const made = new FlowChart(box.current!);
    chart.value = made;
    return () => {
      chart.value = null;
      made.close();
    };
  }, []);
  return (
    <section class="chart" aria-label="Flow chart">
      <Readout />
      <Legend />
      <div class="plot">
        <div
          id="plot"
          class="canvas"
          ref={box}
          role="img"
          tabIndex={0}
          aria-describedby="chart-summary"
          aria-label={`Cumulative net flow of ${view.value.symbol}, arrow keys move the crosshair`}
          onKeyDown={onKey}
          onBlur={() => chart.value?.unpin()}
        />
        <span class="zone quiet" aria-hidden="true">New York</span>
        <Covering />
      </div>
      <p class="hidden" role="status" aria-label="Minute under the crosshair">{announced.value}</p>
      <Spoken />
    </section>
  );
}

/** Every field of the minute under the crosshair, or of the newest one. */
function Readout() {
  const points = line.value.points;
  const point = hovered.value ?? points.at(-1);
  const reading = point && readings.value.divergence?.points.find((one) => one.ts === point.ts);
  const net = point ? netOf(point) : 0;
  const sums = point && split.value?.get(point.ts);
  const or = (text: string | undefined): string => text ?? "–";
  return (
    <dl class="readout">
      <Field name="Minute" value={or(point && moment(Date.parse(point.ts)))} wide />
      {point?.session && <Field name="Session" value={point.session} />}
      <Field name={capital(MEASURES[view.value.measure].name)} value={or(point && signed(net))} tone={tone(net)} />
      <Field name="Cumulative" value={or(point && signed(point.cumulative))} tone={tone(point?.cumulative ?? 0)} />
      {sums && <Field name="Calls" value={signed(sums.calls)} tone={tone(sums.calls)} />}
      {sums && <Field name="Puts" value={signed(sums.puts)} tone={tone(sums.puts)} />}
      <Field name="VWAP" value={or(point && price(point.vwap))} />
      <Field name="Prints" value={or(point && count(point.tradeCount))} />
      <Field name="Price" value={or(reading && price(reading.price))} />
      <Field name="Flow t" value={or(reading && statistic(reading.flowT))} />
      <Field name="Price t" value={or(reading && statistic(reading.priceT))} />
      <Field name="State" value={or(reading?.state.replace("_", " "))} />
    </dl>
  );
}

function Field(props: { name: string; value: string; tone?: string; wide?: boolean }) {
  return (
    <div class={props.wide ? "wide" : ""}>
      <dt>{props.name}</dt>
      <dd class={props.tone}>{props.value}</dd>
    </div>
  );
}

type Series = [name: string, color: string, kind: "stroke" | "bar"];

/** The drawn series: name, the variable of its colour, and its kind of mark. */
export function series(): Series[] {
  const { measure, asset } = view.value;
  const name = MEASURES[measure].name;
  const found: Series[] = [[`cumulative ${name}`, "line", "stroke"]];
  if (split.value) found.push(["calls", "calls", "stroke"], ["puts", "puts", "stroke"]);
  found.push([`${name} of each minute`, "buy", "bar"]);
  if (priced.value) found.push([`price${asset === "options" ? " of the underlying" : ""} (left)`, "price", "stroke"]);
  return found;
}

function Legend() {
  const off = offScale.value;
  const drawn = series();
  const entry = ([name, color, kind]: Series) => <li key={color} class={`of-${color} ${kind}`}>{name}</li>;
  // The price comes later than the line: it stands last, so that nothing moves.
  return (
    <ul class="legend" aria-label="Legend">
      {drawn.filter(([, color]) => color !== "price").map(entry)}
      <li key="bullish" class="area of-bullish">bullish divergence</li>
      <li key="bearish" class="area of-bearish">bearish divergence</li>
      {drawn.filter(([, color]) => color === "price").map(entry)}
      {off > 0 && <li key="off" class="off">{off === 1 ? "1 price is" : `${off} prices are`} off the scale</li>}
    </ul>
  );
}

function Covering() {
  if (line.value.points.length) return null;
  if (problem.value) return <p class="covering">{problem.value.message}</p>;
  if (!loaded.value) return <Coming />;
  return <p class="covering">{emptiness()}</p>;
}

/** How far the answer has come. */
function Coming() {
  const { symbol, minutes } = view.value;
  const done = progress.value;
  return (
    <div class="covering coming">
      <progress aria-label="Loading the window" max={1} {...(done ? { value: done.share } : {})} />
      <p>
        Loading {windowWords(minutes)} of {symbol} … {done && `up to ${moment(done.until)}`}
      </p>
    </div>
  );
}

/** Why there is nothing to draw. */
function emptiness(): string {
  const { symbol, asset, at } = view.value;
  const window = `the ${windowWords(shown.value.minutes)} ${at ? `before ${moment(Date.parse(at))}` : "until now"}`;
  if (daysKept.value && !daysKept.value.length) return `This store keeps no print of ${symbol} ${asset === "options" ? "options" : "stock"}.`;
  if (FILTERS.some((name) => view.value[name])) return `No print of ${symbol} passes the filters in ${window}.`;
  return `No print of ${symbol} in ${window}.`;
}

/** What the picture shows, in words: for those who do not see it. Renewed each minute, not each print. */
const spoken = signal<Point[]>([]);
effect(() => {
  const { points, tail } = line.value;
  const last = spoken.peek().at(-1)?.ts;
  if (tail === null || points.at(-1)?.ts !== last) spoken.value = points.slice(-SPOKEN);
});

function Spoken() {
  const points = spoken.value;
  const last = points.at(-1);
  return (
    <div class="hidden">
      <p id="chart-summary">
        {last
          ? `${view.value.symbol} ${view.value.asset}: cumulative ${signed(last.cumulative)} at ${moment(Date.parse(last.ts))}.`
          : "No points."}
      </p>
      <table>
        <caption>Last points of the line</caption>
        <thead>
          <tr>
            <th scope="col">Minute</th>
            <th scope="col">Net</th>
            <th scope="col">Cumulative</th>
          </tr>
        </thead>
        <tbody>
          {points.map((point) => (
            <tr key={point.ts}>
              <td>{moment(Date.parse(point.ts))}</td>
              <td>{signed(netOf(point))}</td>
              <td>{signed(point.cumulative)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
