import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { appendBytes, joinPath, makeDir, writeFileAtomic } from "#io";
import type { MetricSink } from "../tracker.js";
import type { MetricPoint } from "../types.js";
import { maskedCrc32c } from "./crc32c.js";
import { EventSchema } from "./generated/event_pb.js";

const DT_STRING = 7;

type EventInit = MessageInitShape<typeof EventSchema>;

/** An open event file. */
export interface EventFile extends MetricSink {
  readonly path: string;
  /** Markdown for TensorBoard's text page. */
  text(tag: string, markdown: string): Promise<void>;
}

/**
 * Creates a TensorBoard event file in a folder, `events.out.tfevents.<seconds>.<name>`. Metrics have the tags that other
 * trainers use: `loss` becomes `train/loss`, `evalLoss` `eval/loss`, `learningRate` `train/learning_rate`.
 *
 * @param options.name Ends the file's name; give each writer of one folder its own. Default "tunesmith".
 * @throws `file-write-failed`
 *
 * @example
 * ```ts
 * import { openEventFile } from "tunesmith/training";
 * const events = await openEventFile("runs/first");
 * await events.write([{ name: "loss", step: 1, value: 2.5, time: Date.now() }]);
 * ```
 */
export async function openEventFile(
  folder: string,
  options: { readonly name?: string; readonly createdAt?: number } = {},
): Promise<EventFile> {
  const { name = "tunesmith", createdAt = Date.now() } = options;
  const seconds = String(Math.floor(createdAt / 1000)).padStart(10, "0");
  const path = joinPath(folder, `events.out.tfevents.${seconds}.${name}`);
  await makeDir(folder);
  await writeFileAtomic(path, record({ wallTime: createdAt / 1000, what: version }));
  return {
    path,
    async write(points) {
      if (points.length > 0) await appendBytes(path, [...bySteps(points)].map(record));
    },
    text: (tag, markdown) => appendBytes(path, [record(textEvent(tag, markdown, createdAt))]),
    async close() {},
  };
}

const version = { case: "fileVersion", value: "brain.Event:2" } as const;

/** One event for the points of a step. */
function* bySteps(points: readonly MetricPoint[]): Generator<EventInit> {
  const steps = new Map<number, MetricPoint[]>();
  for (const point of points) steps.set(point.step, [...(steps.get(point.step) ?? []), point]);
  for (const [step, group] of steps) {
    const value = group.map((point) => ({
      tag: tensorboardTag(point.name),
      value: { case: "simpleValue", value: point.value } as const,
    }));
    const wallTime = (group[0]?.time ?? 0) / 1000;
    yield { wallTime, step: BigInt(step), what: { case: "summary", value: { value } } };
  }
}

function textEvent(tag: string, markdown: string, time: number): EventInit {
  const tensor = {
    dtype: DT_STRING,
    tensorShape: { dim: [{ size: 1n }] },
    stringVal: [new TextEncoder().encode(markdown)],
  };
  const value = [
    {
      tag,
      metadata: { pluginData: { pluginName: "text" } },
      value: { case: "tensor", value: tensor } as const,
    },
  ];
  return { wallTime: time / 1000, what: { case: "summary", value: { value } } };
}

/**
 * The tag of a metric: `evalLoss` as `eval/loss`, `learningRate` as `train/learning_rate`; names with a slash stay.
 *
 * @example
 * ```ts
 * import { tensorboardTag } from "tunesmith/training";
 * console.log(tensorboardTag("gradNorm")); // train/grad_norm
 * ```
 */
export function tensorboardTag(name: string): string {
  if (name.includes("/")) return name;
  const [, inner] = /^eval([A-Z].*)$/.exec(name) ?? [];
  const snake = (inner ?? name).replace(/(?!^)[A-Z]/g, (letter) => `_${letter}`).toLowerCase();
  return `${inner === undefined ? "train" : "eval"}/${snake}`;
}

/** A TFRecord: length, its checksum, data, its checksum; little-endian. */
function record(event: EventInit): Uint8Array<ArrayBuffer> {
  const data = toBinary(EventSchema, create(EventSchema, event));
  const bytes = new Uint8Array(data.length + 16);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc32c(bytes.subarray(0, 8)), true);
  bytes.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc32c(data), true);
  return bytes;
}
