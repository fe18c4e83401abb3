export { BYTE_TO_CHAR, GPT2_PATTERN } from "./byte-level.js";
export {
  type ChatMessage,
  PLAIN_CHAT_TEMPLATE,
  type RenderChatOptions,
  type RenderedChat,
  renderChat,
} from "./chat.js";
export { tokenizerFromLlama2c } from "./llama2c.js";
export { findTokenizer, loadTokenizer } from "./load.js";
export { tokenizerFromSentencePiece } from "./sentencepiece.js";
export { type AddedToken, type TokenizerConfig, tokenizerFromJson } from "./tokenizer-json.js";
export type {
  DecodeOptions,
  DecodeStream,
  EncodedPair,
  EncodeOptions,
  Tokenizer,
  TokenizerSource,
} from "./types.js";
export { jsonFromVocabMerges } from "./vocab-merges.js";
export { jsonFromVocabTxt, type WordPieceConfig } from "./wordpiece.js";
