// What a client made for TypeScript says; the base URL is the one of the document.
import { AccountApi, Configuration, OptionsApi, ResponseError } from "./client/index.js";

declare const process: { env: Record<string, string> };

const configuration = new Configuration({ apiKey: process.env.KEY });
const [options, account] = [new OptionsApi(configuration), new AccountApi(configuration)];
const at = new Date("2026-03-06T21:18:00Z");
const line = await options.flowOptionsCumulative({ symbol: "SPY", minutes: 30, at });
const recent = await options.flowOptionsRecent({ symbol: "SPY", limit: 1, at });
const board = await options.flowOptionsLeaderboard({ right: "C", at });
const nobody = await options.flowOptionsCumulative({ symbol: "ES=F" });
const [me, symbols] = [await account.account(), await account.symbols()];
const refused = await options.flowOptionsCumulative({ symbol: "SPY", expiry: "soon" })
  .then(() => 0, (error: unknown) => (error as ResponseError).response.status);
const cumulative: number = line.points[line.points.length - 1]!.cumulative;
const email: string | null = me.email;
console.log(JSON.stringify({
  cumulative, instrument: recent.trades[0]!.instrumentId, buyer: board.buyers[0]!.symbol, nobody: nobody.count,
  email, symbols: symbols.symbols, refused,
}));
