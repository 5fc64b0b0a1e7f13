// Numbers as they are written: always with a sign, thousands apart.
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const cents = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 4 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });

const sign = (value: number): string => (value > 0 ? "+" : value < 0 ? "−" : "");

export const count = (value: number): string => whole.format(value);
export const price = (value: number): string => cents.format(value);
export const signed = (value: number): string => sign(value) + whole.format(Math.abs(value));
export const signedShort = (value: number): string => sign(value) + short.format(Math.abs(value));
export const statistic = (value: number): string => sign(value) + Math.abs(value).toFixed(2);
export const tone = (value: number): string => (value > 0 ? "buy" : value < 0 ? "sell" : "");

export function age(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} days`;
}
export const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
