// Stretches of time drawn behind a series: sessions and divergences.
import type { CanvasRenderingTarget2D } from "fancy-canvas";
import type {
  IChartApi,
  IPrimitivePaneRenderer,
  IPrimitivePaneView,
  ISeriesPrimitive,
  SeriesAttachedParameter,
  Time,
} from "lightweight-charts";

export interface Band {
  /** First and last point within; both are points of the series. */
  from: Time;
  to: Time;
  color: string;
}

export class Bands implements ISeriesPrimitive<Time> {
  private chart: IChartApi | null = null;
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
    this.chart = to.chart as IChartApi;
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
