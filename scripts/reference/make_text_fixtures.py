"""Tiny random models of text and speech with every head, and what transformers and torch autograd compute from them.

    .cache/reference/bin/python scripts/reference/make_text_fixtures.py [NAME ...]

Writes fixtures/text-models/NAME/ (all float32, seeded, eager attention, eval mode):

  config.json, model.safetensors   the model, as save_pretrained writes it
  expected.safetensors
    input.NAME                     what the model reads; row 0 has three masked tokens at its end
    output.NAME                    what it gives
    target.NAME                    what the loss compares with; -100 counts for nothing
    loss []                        masked-lm, token, sequence and seq2seq: mean cross-entropy; several labels: mean binary
                                   cross-entropy; regression: mean squared error; spans: mean of both cross-entropies;
                                   embedding: mean of (output - target)^2 over the sentence vectors, plus that of pooler_output
    grad.NAME                      its gradient by every parameter; a tied weight appears once
    generate.output [2,12] int64   seq2seq: greedy decoding with a cache, new tokens only

and fixtures/text-models-peft/NAME/: LoRA folders that PEFT wrote for models above, with `expected.safetensors` (the
inputs and the adapted model's logits).
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers as T
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2] / "fixtures"
BERT = dict(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
            max_position_embeddings=24, type_vocab_size=2, pad_token_id=0)
ROBERTA = dict(BERT, type_vocab_size=1, pad_token_id=1, bos_token_id=2, eos_token_id=3)
DISTIL = dict(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=20, max_position_embeddings=24)
ALBERT = dict(BERT, embedding_size=12, num_hidden_layers=4, num_hidden_groups=2)
T5 = dict(vocab_size=50, d_model=16, d_kv=6, d_ff=20, num_layers=3, num_decoder_layers=2, num_heads=2,
          relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0)
WHISPER = dict(vocab_size=50, num_mel_bins=6, d_model=16, encoder_layers=3, decoder_layers=2, encoder_attention_heads=2,
               decoder_attention_heads=4, encoder_ffn_dim=20, decoder_ffn_dim=24, max_source_positions=10,
               max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
               begin_suppress_tokens=None, suppress_tokens=None)

CASES = {
    "bert-words": lambda: T.BertForMaskedLM(T.BertConfig(**BERT)),
    "bert-classes": lambda: T.BertForSequenceClassification(
        T.BertConfig(**BERT, id2label={0: "bad", 1: "so-so", 2: "good"}, problem_type="single_label_classification")),
    "bert-labels": lambda: T.BertForSequenceClassification(
        T.BertConfig(**BERT, num_labels=4, problem_type="multi_label_classification")),
    "bert-number": lambda: T.BertForSequenceClassification(T.BertConfig(**BERT, num_labels=1)),
    "bert-tokens": lambda: T.BertForTokenClassification(T.BertConfig(**BERT, num_labels=3)),
    "bert-spans": lambda: T.BertForQuestionAnswering(T.BertConfig(**BERT)),
    "bert-vectors": lambda: T.BertModel(T.BertConfig(**BERT)),
    "roberta-words": lambda: T.RobertaForMaskedLM(T.RobertaConfig(**ROBERTA)),
    "roberta-classes": lambda: T.RobertaForSequenceClassification(T.RobertaConfig(**ROBERTA, num_labels=3)),
    "xlm-roberta-tokens": lambda: T.XLMRobertaForTokenClassification(T.XLMRobertaConfig(**ROBERTA, num_labels=3)),
    "distilbert-words": lambda: T.DistilBertForMaskedLM(T.DistilBertConfig(**DISTIL)),
    "distilbert-classes": lambda: T.DistilBertForSequenceClassification(T.DistilBertConfig(**DISTIL, num_labels=3)),
    "distilbert-spans": lambda: T.DistilBertForQuestionAnswering(T.DistilBertConfig(**DISTIL)),
    "electra-words": lambda: T.ElectraForMaskedLM(T.ElectraConfig(**BERT, embedding_size=12)),
    "electra-classes": lambda: T.ElectraForSequenceClassification(
        T.ElectraConfig(**BERT, embedding_size=12, num_labels=3)),
    "albert-words": lambda: T.AlbertForMaskedLM(T.AlbertConfig(**ALBERT)),
    "albert-classes": lambda: T.AlbertForSequenceClassification(T.AlbertConfig(**ALBERT, num_labels=3)),
    "t5": lambda: T.T5ForConditionalGeneration(T.T5Config(**T5)),
    "t5-gated": lambda: T.T5ForConditionalGeneration(
        T.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "mt5": lambda: T.MT5ForConditionalGeneration(T.MT5Config(**T5, feed_forward_proj="gated-gelu")),
    "whisper": lambda: T.WhisperForConditionalGeneration(T.WhisperConfig(**WHISPER)),
    "whisper-classes": lambda: T.WhisperForAudioClassification(
        T.WhisperConfig(**WHISPER, num_labels=3, classifier_proj_size=14, use_weighted_layer_sum=True)),
}
BATCH, LENGTH, TARGETS, MASKED = 2, 9, 7, 3


def randomise(model, seed):
    """Random values everywhere, norms and biases too, at scales that keep every non-linearity visible."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(True)
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                table = any(part in name for part in ("embeddings.", "shared", "embed_", "relative_"))
                parameter.copy_(values * (0.6 if table else 1.3 / parameter[0].numel() ** 0.5))
            elif name.endswith("bias"):
                parameter.copy_(values * 0.2)
            else:
                parameter.copy_(values * 0.25 + 1)


def ids(generator, length):
    """Ids above the special ones, whose rows torch would give no gradient."""
    return torch.randint(4, 50, (BATCH, length), generator=generator)


def inputs_for(model, generator):
    kind = model.config.model_type
    if kind == "whisper":
        shape = (BATCH, WHISPER["num_mel_bins"], 2 * WHISPER["max_source_positions"])
        given = {"input_features": torch.randn(shape, generator=generator)}
    else:
        mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
        mask[0, -MASKED:] = 0
        given = {"input_ids": ids(generator, LENGTH), "attention_mask": mask}
        if "roberta" in kind:
            given["input_ids"] = torch.where(mask == 1, given["input_ids"], torch.tensor(1))
        if kind in ("bert", "electra", "albert"):
            given["token_type_ids"] = (torch.arange(LENGTH) >= 4).long().expand(BATCH, -1).contiguous()
    if "ConditionalGeneration" in type(model).__name__:
        given["decoder_input_ids"] = ids(generator, TARGETS)
    return given


def mean_pooled(output, mask):
    weights = mask[..., None].float()
    return (output.last_hidden_state * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def outputs_of(model, given):
    output = model(**given)
    names = ["logits", "start_logits", "end_logits", "pooler_output", "encoder_last_hidden_state"]
    found = {name: output[name] for name in names if output.get(name) is not None}
    if type(model).__name__.endswith("Model"):
        found["last_hidden_state"] = output.last_hidden_state
        found["sentence_embedding"] = mean_pooled(output, given["attention_mask"])
    return found


def some_ignored(labels, generator):
    return torch.where(torch.rand(labels.shape, generator=generator) < 0.4, -100, labels)


def loss_of(model, given, outputs, generator):
    kind = type(model).__name__
    if kind.endswith("Model"):
        targets = {name: torch.randn(outputs[name].shape, generator=generator)
                   for name in ("sentence_embedding", "pooler_output")}
        return targets, sum(((outputs[name] - value) ** 2).mean() for name, value in targets.items())
    if "QuestionAnswering" in kind:
        targets = {name: torch.randint(0, 5, (BATCH,), generator=generator) for name in ("start_logits", "end_logits")}
        return targets, sum(F.cross_entropy(outputs[name], value) for name, value in targets.items()) / 2
    logits = outputs["logits"]
    if model.config.problem_type == "multi_label_classification":
        target = torch.randint(0, 2, logits.shape, generator=generator).float()
        return {"logits": target}, F.binary_cross_entropy_with_logits(logits, target)
    if logits.shape[-1] == 1:
        target = torch.randn(logits.shape, generator=generator)
        return {"logits": target}, F.mse_loss(logits, target)
    target = torch.randint(0, logits.shape[-1], logits.shape[:-1], generator=generator)
    if logits.dim() == 3:
        target = some_ignored(target, generator)
        if "decoder_input_ids" not in given:
            target = torch.where(given["attention_mask"] == 1, target, -100)
    return {"logits": target}, F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=-100)


def generated(model, given):
    encoder = {name: value for name, value in given.items() if name != "decoder_input_ids"}
    settings = T.GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0,
                                  decoder_start_token_id=model.config.decoder_start_token_id)
    generate = T.GenerationMixin.generate
    result = generate(model, **encoder, generation_config=settings, output_logits=True, return_dict_in_generate=True)
    best = torch.stack(result.logits).topk(2).values
    clear = (best[..., 0] - best[..., 1]).min() > 0.01 and len(set(result.sequences.flatten().tolist())) >= 5
    return result.sequences[:, 1:], clear


def make(name, seed):
    torch.manual_seed(seed)
    model = CASES[name]().eval()
    model.set_attn_implementation("eager")
    randomise(model, seed)
    for attempt in range(200):
        generator = torch.Generator().manual_seed(seed + 1 + attempt)
        given = inputs_for(model, generator)
        if "decoder_input_ids" not in given:
            break
        with torch.no_grad():
            sequences, clear = generated(model, given)
        if clear:
            break
    else:
        raise RuntimeError(f"{name}: no input with a clear greedy continuation")
    outputs = outputs_of(model, given)
    targets, loss = loss_of(model, given, outputs, generator)
    loss.backward()
    expected = {f"input.{key}": value for key, value in given.items()}
    expected.update({f"output.{key}": value for key, value in outputs.items()})
    expected.update({f"target.{key}": value for key, value in targets.items()})
    expected["loss"] = loss
    expected.update({f"grad.{key}": torch.zeros_like(value) if value.grad is None else value.grad
                     for key, value in model.named_parameters()})
    if "decoder_input_ids" in given:
        expected["generate.output"] = sequences
    folder = ROOT / "text-models" / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file({key: value.detach().contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB, loss {loss.item():.4f}")
    return model, given


def make_adapter(name, seed):
    model, given = make(name, seed)
    kind = "SEQ_CLS" if "classes" in name else "SEQ_2_SEQ_LM"
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(task_type=kind, r=3, lora_alpha=6, init_lora_weights=False)).eval()
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "modules_to_save" in key:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
        logits = adapted(**given).logits
    folder = ROOT / "text-models-peft" / name
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}, indent=2) + "\n")
    inputs = {f"input.{key}": value for key, value in given.items()}
    save_file({**inputs, "logits": logits.contiguous()}, folder / "expected.safetensors")
    print(f"{name}: adapter {sorted(config['target_modules'])}, saved {config['modules_to_save']}")


if __name__ == "__main__":
    for index, each in enumerate(CASES):
        if len(sys.argv) == 1 or each in sys.argv[1:]:
            (make_adapter if each in ("bert-classes", "roberta-classes", "t5") else make)(each, 1000 * (index + 1))
