import { effect, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Point } from "../api";
import { FlowChart, hovered } from "../chart/chart";
import { moment } from "../chart/times";
import { line, loaded, problem, readings } from "../live";
import { view } from "../view";
import { count, price, signed, statistic, tone } from "./format";

export const chart = signal<FlowChart | null>(null);
const SPOKEN = 10;

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
      <div class="plot">
        <div
          class="canvas"
          ref={box}
          role="img"
          tabIndex={0}
          aria-describedby="chart-summary"
          aria-label={`Cumulative net flow of ${view.value.symbol}, arrow keys move the crosshair`}
          onKeyDown={(event) => {
            const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30 }[event.key];
            if (by === undefined) return;
            event.preventDefault();
            chart.value?.step(event.shiftKey ? by * 10 : by);
          }}
          onBlur={() => (hovered.value = null)}
        />
        <Covering />
      </div>
      <Spoken />
    </section>
  );
}

/** Every field of the minute under the crosshair, or of the last one. */
function Readout() {
  const points = line.value.points;
  const point = hovered.value ?? points.at(-1);
  if (!point) return <p class="readout quiet">No minute to read.</p>;
  const reading = readings.value.divergence?.points.find((one) => one.ts === point.ts);
  const net = point.netVolume ?? point.netPremium ?? 0;
  const what = view.value.measure === "premium" ? "Net premium" : "Net volume";
  return (
    <dl class="readout">
      <Field name="Minute" value={moment(Date.parse(point.ts))} />
      {point.session && <Field name="Session" value={point.session} />}
      <Field name={what} value={signed(net)} tone={tone(net)} />
      <Field name="Cumulative" value={signed(point.cumulative)} tone={tone(point.cumulative)} />
      <Field name="VWAP" value={price(point.vwap)} />
      <Field name="Prints" value={count(point.tradeCount)} />
      {reading && <Field name="Price" value={price(reading.price)} />}
      {reading && <Field name="Flow t" value={statistic(reading.flowT)} />}
      {reading && <Field name="Price t" value={statistic(reading.priceT)} />}
      {reading && <Field name="State" value={reading.state.replace("_", " ")} />}
    </dl>
  );
}

function Field(props: { name: string; value: string; tone?: string }) {
  return (
    <div>
      <dt>{props.name}</dt>
      <dd class={props.tone}>{props.value}</dd>
    </div>
  );
}

function Covering() {
  if (line.value.points.length) return null;
  if (problem.value) return <p class="covering">{problem.value.message}</p>;
  if (!loaded.value) return <p class="covering">Loading …</p>;
  return <p class="covering">No print of {view.value.symbol} in this window passes.</p>;
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
              <td>{signed(point.netVolume ?? point.netPremium ?? 0)}</td>
              <td>{signed(point.cumulative)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
