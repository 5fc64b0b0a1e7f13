// What the browser keeps between visits: the key and the theme.
import { effect, signal } from "@preact/signals";

const KEY = "flowtape.key";
const THEME = "flowtape.theme";
export type Theme = "system" | "dark" | "light";

/** Of a link `/#key=…`: a fragment is not sent to any server. It leaves the address bar and the history at once. */
function fromLink(): string | null {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return given;
}

export const key = signal(fromLink() ?? localStorage.getItem(KEY) ?? "");
/** Why a key is asked for; null while the one there is good. */
export const refusal = signal<string | null>(key.peek() ? null : "");
export const theme = signal<Theme>((localStorage.getItem(THEME) as Theme | null) ?? "system");

const bright = matchMedia("(prefers-color-scheme: light)");
const systemLight = signal(bright.matches);
bright.addEventListener("change", () => (systemLight.value = bright.matches));

export function isLight(): boolean {
  return theme.value === "light" || (theme.value === "system" && systemLight.value);
}

effect(() => {
  if (key.value) localStorage.setItem(KEY, key.value);
  else localStorage.removeItem(KEY);
});
effect(() => {
  localStorage.setItem(THEME, theme.value);
  document.documentElement.dataset.theme = isLight() ? "light" : "dark";
});
// A link with a key, opened where the page is open already, changes the fragment only.
addEventListener("hashchange", () => {
  const given = fromLink();
  if (given) useKey(given);
});

export function useKey(given: string): void {
  key.value = given.trim();
  refusal.value = key.value ? null : "A key is needed.";
}
