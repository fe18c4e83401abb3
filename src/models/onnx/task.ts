import type { Graph } from "../../graph/index.js";
import type { Task } from "../types.js";

/** Endings of transformers' class names. */
const HEADS: readonly (readonly [RegExp, Task])[] = [
  [/ForCausalLM$|LMHeadModel$/, "causal-lm"],
  [/ForMaskedLM$/, "masked-lm"],
  [/ForSequenceClassification$/, "sequence-classification"],
  [/ForTokenClassification$/, "token-classification"],
  [/ForQuestionAnswering$/, "question-answering"],
  [/ForImageClassification$/, "image-classification"],
  [/ForAudioClassification$/, "audio-classification"],
  [/ForConditionalGeneration$|ForSpeechSeq2Seq$/, "seq2seq"],
  [/ForPrediction$/, "forecasting"],
];

/** What an ONNX file is for: by the class its config names, else by its inputs and outputs; `custom` when neither tells. */
export function taskOfOnnx(graph: Graph, config: Readonly<Record<string, unknown>>): Task {
  const inputs = new Set(graph.inputs.map(({ name }) => String(name)));
  const logits = graph.outputs.get("logits");
  const [named] = Array.isArray(config.architectures) ? (config.architectures as unknown[]) : [];
  const head = HEADS.find(([pattern]) => pattern.test(String(named)));
  if (head) return head[1];
  if ([...inputs].some((name) => name.startsWith("past_"))) return "causal-lm";
  if (graph.outputs.has("start_logits") && graph.outputs.has("end_logits")) return "question-answering";
  if (inputs.has("input_ids") && logits)
    return logits.shape.length === 2 ? "sequence-classification" : "causal-lm";
  if (
    inputs.has("input_ids") &&
    (graph.outputs.has("last_hidden_state") || graph.outputs.has("sentence_embedding"))
  )
    return "embedding";
  const [image] = graph.inputs;
  // A file that names its classes may call its images anything.
  const isImage = graph.inputs.length === 1 && image?.shape.length === 4 && config.id2label !== undefined;
  if ((inputs.has("pixel_values") || isImage) && logits?.shape.length === 2) return "image-classification";
  return "custom";
}
