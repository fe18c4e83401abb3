/** Worker script for the WASM backend. */
import * as ort from "onnxruntime-web/wasm";
import { answerRequests } from "./web-worker.js";

answerRequests(ort);
