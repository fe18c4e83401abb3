import { albert } from "./albert.js";
import { bert } from "./bert.js";
import { clip } from "./clip.js";
import { type ConvNetConfig, convNet } from "./conv-net.js";
import type { ArchitectureDefinition, TensorArchitecture } from "./definition.js";
import { distilbert } from "./distilbert.js";
import { electra } from "./electra.js";
import { gpt2 } from "./gpt2.js";
import { llama } from "./llama.js";
import { mobilenet } from "./mobilenet.js";
import { resnet } from "./resnet.js";
import { roberta } from "./roberta.js";
import { t5 } from "./t5.js";
import { tinyTimeMixer } from "./tinytimemixer.js";
import { type TorchvisionMobilenetConfig, torchvisionMobilenet } from "./torchvision/mobilenet.js";
import { type TorchvisionResnetConfig, torchvisionResnet } from "./torchvision/resnet.js";
import { unet } from "./unet/index.js";
import { vit } from "./vit.js";
import { whisper } from "./whisper.js";

export type { ConvNetConfig, TorchvisionMobilenetConfig, TorchvisionResnetConfig };

/** What a config.json holds: one of the networks described here, or any architecture's by its `model_type`. */
export type ModelConfig =
  | ConvNetConfig
  | TorchvisionMobilenetConfig
  | TorchvisionResnetConfig
  | Readonly<Record<string, unknown>>;

export type AnyDefinition = ArchitectureDefinition<Record<string, unknown>>;
export type AnyTensorArchitecture = TensorArchitecture<Record<string, unknown>>;

/** Every family of causal language models we can build from a config; a new one is one file and one line here. */
export const architectures: readonly AnyDefinition[] = [gpt2, llama] as unknown as readonly AnyDefinition[];

/** Every family of other models. */
export const tensorArchitectures: readonly AnyTensorArchitecture[] = [
  albert,
  bert,
  distilbert,
  electra,
  roberta,
  t5,
  whisper,
  clip,
  convNet,
  mobilenet,
  resnet,
  tinyTimeMixer,
  torchvisionMobilenet,
  torchvisionResnet,
  unet,
  vit,
] as unknown as readonly AnyTensorArchitecture[];
