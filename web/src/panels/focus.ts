/** Leave a field for the chart, where single keys are shortcuts again. */
export function toChart(): void {
  document.getElementById("plot")?.focus({ preventScroll: true });
}
