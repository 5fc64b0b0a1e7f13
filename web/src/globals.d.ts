import type { Point } from "./api";

declare global {
  interface Window {
    /** For tests and measurements. */
    flowtape: {
      points: () => Point[];
      drawn: () => object;
      again: () => void;
      /** What of the chart is in sight. */
      seen: () => object;
    };
  }
}
