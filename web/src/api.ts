// The API as this page uses it. The key goes as a header, never into an address.
import { key } from "./session";

/** Nets by measure: buys less sells, and bullish less bearish. */
export interface Nets {
  netVolume?: number;
  netPremium?: number;
  netDirectional?: number;
  netDirectionalPremium?: number;
}

export interface Point extends Nets {
  ts: string;
  session?: string;
  /** Net of calls and of puts alone, where they were asked for. */
  calls?: number;
  puts?: number;
  cumulative: number;
  vwap: number;
  tradeCount: number;
}

export interface Cumulative {
  symbol: string;
  minutes: number;
  count: number;
  points: Point[];
}

export interface Change {
  first: string | null;
  gone?: string[];
  shift: number;
  points: Point[];
}

export type State = "flat" | "confirming" | "bullish_divergence" | "bearish_divergence";

export interface DivergencePoint {
  ts: string;
  cumulative: number;
  price: number;
  n: number;
  flowT: number;
  priceT: number;
  state: State;
}

export interface Divergence {
  lookback: number;
  priceSource: "stock" | "underlying" | "none";
  withoutPrice: number;
  points: DivergencePoint[];
}

export interface Turn {
  ts: string;
  kind: "high" | "low";
  cumulative: number;
  prominence: number;
}

export interface Leader {
  symbol: string;
  netVolume: number;
  netNotional: number;
  tradeCount: number;
}

export interface Leaderboard {
  buyers: Leader[];
  sellers: Leader[];
}

export interface Outlier extends Leader {
  imbalancePct: number;
  skew: string;
}

export interface Drifter {
  symbol: string;
  netVolume: number;
  tradeCount: number;
  z?: number;
  sessions: number;
  volumeZ: number;
  basis: "history" | "volume";
  stretched: boolean;
}

export interface SessionPart extends Nets {
  part: string;
  from: string;
  to: string;
  meanCumulative?: number;
  absoluteShare: number;
}

export interface SessionDay {
  date: string;
  open?: string;
  close?: string;
  netVolume: number;
  high?: number;
  highTs?: string;
  low?: number;
  lowTs?: string;
  parts: SessionPart[];
}

/** A request that failed, with the API's own message; status 0 where the server could not be reached. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** The net of a minute in the measure that was asked for. */
export const netOf = (point: Nets): number =>
  point.netVolume ?? point.netPremium ?? point.netDirectional ?? point.netDirectionalPremium ?? 0;

let skew = 0;
const TRUSTED_SKEW = 2_000;
/** The server's clock, ms since 1970: this machine's may be wrong. */
export const serverNow = (): number => Date.now() + skew;

/** Learn how far this machine's clock is off. The header is in whole seconds: a small difference says nothing. */
function compareClocks(response: Response, asked: number): void {
  const [there, here] = [Date.parse(response.headers.get("Date") ?? ""), Date.now()];
  if (Number.isNaN(there) || here - asked > TRUSTED_SKEW) return;
  const found = there + 500 - (asked + here) / 2;
  skew = Math.abs(found) > TRUSTED_SKEW ? found : 0;
}

export type Params = Record<string, string | number>;

/** A day of the past that is replayed; `speed` 60 is a minute a second. */
export interface Replay {
  day: string;
  speed: number;
}

export interface About {
  asOf: number | null;
  simulated: boolean;
  replay: Replay | null;
}

export interface Answer<T> extends About {
  body: T;
}

export function target(path: string, params: Params): string {
  const given = Object.entries(params).filter(([, value]) => value !== "");
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  return query.size ? `${path}?${query}` : path;
}

/** A response of the API that is a success; throws `ApiError`, and what an aborted fetch throws. */
export async function ask(path: string, params: Params, init: RequestInit = {}): Promise<Response> {
  const headers = { "X-Api-Key": key.peek(), ...init.headers };
  const asked = Date.now();
  let response: Response;
  try {
    response = await fetch(target(path, params), { cache: "no-cache", ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "The server cannot be reached.");
  }
  compareClocks(response, asked);
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const message = body.message ?? body.detail ?? `The server answered ${response.status}.`;
  throw new ApiError(response.status, body.error ?? body.title ?? "", message);
}

export async function get<T>(path: string, params: Params, signal?: AbortSignal): Promise<Answer<T>> {
  const response = await ask(path, params, signal ? { signal } : {});
  return { body: (await response.json()) as T, ...about(response) };
}

/** What an answer rests on, as its headers say. */
export function about(response: Response): About {
  const asOf = response.headers.get("X-Data-As-Of");
  const source = response.headers.get("X-Data-Source") ?? "";
  const replay = /\breplay; day=([\d-]+); speed=([\d.e+-]+)/.exec(source);
  return {
    asOf: asOf ? Date.parse(asOf) : null,
    simulated: /\bsimulated\b/.test(source),
    replay: replay ? { day: replay[1]!, speed: Number(replay[2]) } : null,
  };
}
