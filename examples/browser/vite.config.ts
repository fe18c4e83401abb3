import { defineConfig } from "vite";

/** To be sent by whatever serves the page later, too. */
const headers = {
  // Threads need shared memory, which a page has only when it is isolated from other origins.
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  // The browser itself refuses every request to another host: what is trained on cannot leave the page.
  "Content-Security-Policy": [
    "default-src 'self'",
    "script-src 'self' 'wasm-unsafe-eval' blob:",
    "worker-src 'self' blob:",
    "connect-src 'self' blob: data:",
    "style-src 'self' 'unsafe-inline'",
  ].join("; "),
};

export default defineConfig({
  base: "./",
  server: { headers },
  preview: { headers },
  // Tunesmith's worker and ONNX Runtime's .wasm files are found through `new URL(..., import.meta.url)`: they become files
  // beside the page's. In development they must not be bundled beforehand, which would lose those addresses.
  worker: { format: "es" },
  optimizeDeps: { exclude: ["tunesmith", "onnxruntime-web"] },
  build: { target: "es2022", chunkSizeWarningLimit: 4000 },
});
