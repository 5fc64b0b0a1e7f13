import { defineConfig } from "vite";

export default defineConfig({
  build: {
    outDir: "../src/flowtape/server/web",
    emptyOutDir: true,
    target: "es2022",
    // Everything as a file of its own: the page's policy allows nothing inline.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8787" } },
});
