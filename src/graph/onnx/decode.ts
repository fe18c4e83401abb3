import { fromBinary } from "@bufbuild/protobuf";
import { type ByteSource, dirname, openFile } from "#io";
import { TunesmithError } from "../../errors/index.js";
import type { Graph } from "../types.js";
import { buildGraph, functionKey, type Importer, opsetsOf } from "./build.js";
import { dimReader } from "./declared.js";
import { type ModelProto, ModelProtoSchema } from "./generated/onnx_pb.js";
import { readSkeleton } from "./scan.js";
import { resolveTensors } from "./tensors.js";

/** What a model file says besides its graph. */
export interface OnnxMetadata {
  readonly irVersion: number;
  /** Operator set versions of the file by domain (`""` is ONNX itself); the loaded graph uses opset 21. */
  readonly opsets: Readonly<Record<string, number>>;
  readonly producerName: string;
  readonly producerVersion: string;
  readonly domain: string;
  readonly modelVersion: number;
  readonly docString: string;
  readonly properties: Readonly<Record<string, string>>;
}

export interface LoadedOnnx {
  readonly graph: Graph;
  readonly metadata: OnnxMetadata;
  /** Closes the model file and its weight files; constants of the graph can no longer be read after that. */
  close(): Promise<void>;
}

export interface LoadOptions {
  /** Folder of external weight files; default: the folder of the model file. */
  readonly baseDir?: string;
}

/**
 * Reads an ONNX model. Large weights stay in their file as `TensorRef`s, so loading costs the graph, not the
 * weights. Older operator sets are upgraded to opset 21, model-local functions are inlined, dropout is removed.
 *
 * Throws `file-corrupt` for a damaged or foreign file, `format-unsupported` for another known format,
 * `file-not-found` for a missing weight file, `op-unknown` for an operator whose results are not known,
 * `dtype-unsupported` and `graph-invalid`; the message names the tensor or node.
 *
 * @example
 * ```ts
 * import { loadOnnx, saveOnnx } from "tunesmith/graph";
 * const { graph, metadata, close } = await loadOnnx("model.onnx");
 * console.log(metadata.producerName, graph.inputs.map((value) => value.shape));
 * await saveOnnx(graph, "copy.onnx");
 * await close();
 * ```
 */
export async function loadOnnx(
  location: ByteSource | string,
  options: LoadOptions = {},
): Promise<LoadedOnnx> {
  const source = typeof location === "string" ? await openFile(location) : location;
  const baseDir = options.baseDir ?? (source.path === undefined ? undefined : dirname(source.path));
  await refuseOtherFormats(source);
  const model = parse(await readSkeleton(source), source);
  const tensors = await resolveTensors(model, source, baseDir);
  const close = async () => {
    await tensors.close();
    await source.close();
  };
  try {
    return { graph: buildModel(model, tensors.get, source), metadata: metadataOf(model), close };
  } catch (error) {
    await tensors.close();
    throw error;
  }
}

function parse(bytes: Uint8Array, source: ByteSource): ModelProto {
  try {
    return fromBinary(ModelProtoSchema, bytes);
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${source.name}: not a readable ONNX file`, {
      fix: "the file is truncated or not an ONNX model; download or export it again",
      cause,
      details: { name: source.name },
    });
  }
}

const OTHER_FORMATS: readonly (readonly [RegExp, string, string])[] = [
  [/^....ORTM/s, "an ONNX Runtime format (.ort) file", "use the .onnx file it was converted from"],
  [/^version https:\/\/git-lfs/, "a Git LFS pointer", "fetch the real file with `git lfs pull`"],
  [/^\s*<(!DOCTYPE|html)/i, "a web page", "download the file itself, not the page about it"],
  [/^PK[^\w]{2}/, "a zip archive (perhaps a PyTorch checkpoint)", "export the model to ONNX"],
  [/^.{8}\{"/s, "a safetensors file", "load it with loadModel"],
  [/^GGUF/, "a GGUF file", "use the ONNX or safetensors version of the model"],
  [/^\{/, "JSON text", "choose the .onnx file"],
];

async function refuseOtherFormats(source: ByteSource): Promise<void> {
  const head = await source.read(0, Math.min(32, source.size));
  const text = Array.from(head, (byte) => String.fromCharCode(byte)).join("");
  for (const [pattern, what, fix] of OTHER_FORMATS) {
    if (pattern.test(text)) {
      throw new TunesmithError("format-unsupported", `${source.name} is ${what}, not an ONNX model`, { fix });
    }
  }
}

function metadataOf(model: ModelProto): OnnxMetadata {
  return {
    irVersion: Number(model.irVersion),
    opsets: opsetsOf(model.opsetImport),
    producerName: model.producerName,
    producerVersion: model.producerVersion,
    domain: model.domain,
    modelVersion: Number(model.modelVersion),
    docString: model.docString,
    properties: Object.fromEntries(model.metadataProps.map(({ key, value }) => [key, value])),
  };
}

function buildModel(model: ModelProto, tensor: Importer["tensor"], source: ByteSource): Graph {
  const { graph } = model;
  if (!graph || (graph.node.length === 0 && graph.output.length === 0)) {
    throw new TunesmithError("file-corrupt", `${source.name}: not an ONNX model (it holds no graph)`, {
      fix: "choose a .onnx file",
      details: { name: source.name },
    });
  }
  if (graph.sparseInitializer.length > 0) {
    throw new TunesmithError("format-unsupported", `${source.name}: sparse initialisers are not supported`, {
      fix: "save the model with dense weights",
    });
  }
  const importer: Importer = {
    tensor,
    functions: new Map(
      model.functions.map((item) => [functionKey(item.domain, item.name, item.overload), item]),
    ),
    readDim: dimReader([...graph.input, ...graph.output, ...graph.valueInfo]),
  };
  return buildGraph(graph, { importer, opsets: opsetsOf(model.opsetImport), depth: 0 });
}
