/**
 * The closed list of error codes with what each means; add one here before throwing it. docs/errors.md is written from
 * it.
 *
 * @example
 * ```ts
 * import { errorMeanings } from "tunesmith/errors";
 * console.log(errorMeanings["wrong-base"]);
 * ```
 */
export const errorMeanings = {
  // files and formats
  "file-not-found": "A file or folder is not there, or a folder lacks what was looked for in it.",
  "file-corrupt":
    "A file's content contradicts itself or its format: truncated, overlapping, or not what its header says.",
  "file-read-failed": "The system refused to read a file that exists.",
  "file-write-failed":
    "A file could not be written: permission, a name that is taken, or the target is the folder being read.",
  "storage-full": "The disk, the disk quota, or what the browser grants this site, is used up.",
  "in-use": "Another process, or another tab, works on this run.",
  "format-unsupported": "A valid file of a format, version or variant that is not read.",
  "unsafe-pickle":
    "A pickled file asks for a Python class or function that is not plain tensor data; nothing was run.",
  offline: "Something must be downloaded and there is no connection, or offline mode is set.",
  "checksum-mismatch": "Bytes differ from the checksum they came with: a damaged download or checkpoint.",
  // tensors and graphs
  "dtype-unsupported": "A tensor has a number format that this operation or the runtime does not take.",
  "shape-mismatch": "Shapes do not fit together, or a feed does not fit its input.",
  "tensor-not-found": "A tensor, feed or graph value of this name does not exist.",
  "tensor-unused": "A checkpoint holds a tensor that the architecture in its `config.json` has no place for.",
  "graph-invalid": "A graph breaks a rule of its operators, or a value is missing from it.",
  "op-unknown": "An operator whose shapes and types cannot be inferred.",
  "op-not-differentiable":
    "The gradient has to pass an operator that has neither a rule nor a decomposition.",
  "attribute-unsupported":
    "An operator is used with an attribute whose result would be wrong or is not covered.",
  // models and adapters
  "architecture-unsupported":
    "The model's `config.json` names an architecture, or an option of one, that is not built.",
  "task-mismatch": "A model is used for, or asked to have a head for, a task it is not made for.",
  "tokenizer-unsupported": "There is no tokenizer, or one of a kind that is not read.",
  "target-not-found": "A target, module, weight or layer selection matches nothing in the model.",
  "target-unsupported": "A target names something that cannot be adapted, such as a group of modules.",
  "adapter-invalid":
    "An adapter's config or tensors do not fit the model, are missing, left over or not finite.",
  "calibration-missing": "A method starts from statistics of data, and no data were given for them.",
  "not-mergeable": "An adapter's update is no change of a weight, so that it cannot be merged.",
  "adapter-no-effect": "An adapter changes no weight: untrained, or all zeros.",
  "quantized-base": "An operation would have to round into a base's quantised weights, and was not told how.",
  "wrong-base": "An adapter was trained on another base: tensors it touches have other contents.",
  "name-conflict": "A name is already taken on this model.",
  // data, training, configuration
  "config-invalid": "An option or flag is unknown, missing, of the wrong type or out of range.",
  "data-invalid": "A data file is malformed; the message names file and line.",
  "data-empty": "No usable row is left; the message says why rows were dropped.",
  "loss-not-finite": "Loss or gradients became NaN or infinite; nothing was updated in that step.",
  "loss-spike": "The loss jumped far above its recent median, and the run was told to stop there.",
  "zero-update":
    "Training would change nothing: no trainable tensor, gradients of exactly zero, or updates too small.",
  "checkpoint-mismatch": "A checkpoint belongs to a run with another configuration.",
  "tracking-failed": "The database of runs could not be opened, read or written.",
  "run-not-found": "No tracked run, or more than one, has this id or name.",
  "out-of-memory": "The runtime could not allocate memory.",
  // execution
  "runtime-failed": "ONNX Runtime refused a model or failed while running it.",
  "numerical-failure":
    "A computation broke down (a singular matrix, no convergence), or a merge does not give the adapted logits.",
  cancelled: "The caller aborted the operation.",
} as const;

/** A code of `TunesmithError`. */
export type ErrorCode = keyof typeof errorMeanings;
