/** Worker script for the WebGPU backend. */
import * as ort from "onnxruntime-web/webgpu";
import { answerRequests } from "./web-worker.js";

answerRequests(ort);
