// Stretches of time drawn behind a series: sessions and divergences.
import type { CanvasRenderingTarget2D } from "fancy-canvas";
import type {
  IChartApiBase,
  IPrimitivePaneRenderer,
  IPrimitivePaneView,
  ISeriesPrimitive,
  SeriesAttachedParameter,
  Time,
} from "lightweight-charts";
import type { DivergencePoint, Point, SessionDay } from "../api";
import { stamp } from "../times";

export interface Band {
  /** First and last point within; both are points of the series. */
  from: Time;
  to: Time;
  color: string;
}

export class Bands implements ISeriesPrimitive<Time> {
  private chart: IChartApiBase<Time> | null = null;
  private redraw: () => void = () => undefined;
  private bands: Band[] = [];
  private readonly view: IPrimitivePaneView = {
    zOrder: () => "bottom",
    renderer: () => this.renderer,
  };
  private readonly renderer: IPrimitivePaneRenderer = {
    draw: (target) => this.draw(target),
  };

  attached(to: SeriesAttachedParameter<Time>): void {
    this.chart = to.chart as unknown as IChartApiBase<Time>;
    this.redraw = to.requestUpdate;
  }

  paneViews(): readonly IPrimitivePaneView[] {
    return [this.view];
  }

  set(bands: Band[]): void {
    this.bands = bands;
    this.redraw();
  }

  private draw(target: CanvasRenderingTarget2D): void {
    const scale = this.chart?.timeScale();
    if (!scale) return;
    const half = scale.options().barSpacing / 2;
    target.useBitmapCoordinateSpace(({ context, bitmapSize, horizontalPixelRatio: ratio }) => {
      for (const band of this.bands) {
        const from = scale.timeToCoordinate(band.from);
        const to = scale.timeToCoordinate(band.to);
        if (from === null || to === null) continue;
        const left = Math.max(0, Math.round((from - half) * ratio));
        const right = Math.min(bitmapSize.width, Math.round((to + half) * ratio));
        if (right <= left) continue;
        context.fillStyle = band.color;
        context.fillRect(left, 0, right - left, bitmapSize.height);
      }
    });
  }
}

/** The regular sessions within the line. */
export function sessionBands(points: Point[], sessions: SessionDay[], color: string): Band[] {
  const bands: Band[] = [];
  for (const { open, close } of sessions) {
    if (!open || !close) continue;
    const first = points.find((point) => point.ts >= open && point.ts < close);
    const last = points.findLast((point) => point.ts >= open && point.ts < close);
    if (first && last) bands.push({ from: stamp(first.ts), to: stamp(last.ts), color });
  }
  return bands;
}

/** The stretches in which flow and price diverge. */
export function divergenceBands(points: DivergencePoint[], bullish: string, bearish: string): Band[] {
  const bands: Band[] = [];
  let last = "";
  for (const { ts, state } of points) {
    const diverges = state === "bullish_divergence" || state === "bearish_divergence";
    const open = bands.at(-1);
    if (diverges && last === state && open) open.to = stamp(ts);
    else if (diverges) {
      bands.push({ from: stamp(ts), to: stamp(ts), color: state === "bullish_divergence" ? bullish : bearish });
    }
    last = state;
  }
  return bands;
}
