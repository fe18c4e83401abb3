"""Tiny random models of every supported architecture, with what transformers and torch autograd compute from them.

    python3 -m venv .cache/reference
    .cache/reference/bin/pip install -r scripts/reference/requirements.txt
    .cache/reference/bin/python scripts/reference/make_model_fixtures.py [NAME ...]

Writes fixtures/models/NAME/ (all float32, seeded, eager attention, eval mode):

  config.json, model.safetensors   the model, as save_pretrained writes it (transformers 5: `rope_parameters`)
  config.v4.json                   the same configuration in the spelling of transformers 4, which most published
                                   folders use (`rope_theta`, `rope_scaling`, `rope_local_base_freq`, ...); checked here
                                   to give the same logits; absent where the two spellings do not differ
  expected.safetensors
    input_ids [2,12] int64, logits [2,12,V], loss []      mean next-token cross-entropy over the batch
    grad.NAME                                              its gradient by every parameter; a tied weight appears once
    packed.input_ids, packed.position_ids, packed.segment_ids [1,12] int64    two documents (7 and 5 tokens) in one row
    packed.logits [1,12,V], packed.loss []                 of the documents run separately; mean over their 6 + 4 targets
    padded.input_ids, padded.attention_mask, padded.position_ids [2,12] int64, padded.logits [2,12,V]
                                                           row 0 has 5 pads on the LEFT; logits at pads are zeroed
    generate.prompt [1,4], generate.output [1,16] int64    greedy decoding with a KV cache, new tokens only

Norm weights and biases are random too, so that nothing hides behind ones and zeros.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import (Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config,
                          Qwen3Config)

ROOT = Path(__file__).resolve().parents[2] / "fixtures" / "models"
NO_TOKENS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
SMALL = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, vocab_size=72, **NO_TOKENS)


def rope(theta=10000.0, **scaling):
    return dict(rope_theta=theta, **(scaling or dict(rope_type="default")))


CONFIGS = {
    "gpt2": lambda: GPT2Config(
        n_layer=2, n_embd=24, n_head=4, vocab_size=80, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, **NO_TOKENS),
    "llama": lambda: LlamaConfig(**SMALL, tie_word_embeddings=False, rms_norm_eps=1e-5, rope_parameters=rope()),
    # Wavelengths 2 pi 10^k, so that one frequency is kept, one is interpolated and one is fully scaled.
    "llama3-rope": lambda: LlamaConfig(
        **{**SMALL, "num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 128},
        tie_word_embeddings=False,
        rope_parameters=rope(10000.0, rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=64)),
    "llama-linear-rope": lambda: LlamaConfig(
        **SMALL, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
        rope_parameters=rope(500.0, rope_type="linear", factor=2.5)),
    "mistral": lambda: MistralConfig(
        **SMALL, head_dim=8, sliding_window=4, tie_word_embeddings=False, rope_parameters=rope(100.0)),
    "qwen2": lambda: Qwen2Config(**SMALL, tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters=rope(1000.0)),
    "qwen3": lambda: Qwen3Config(**SMALL, head_dim=10, tie_word_embeddings=False, rope_parameters=rope(1000.0)),
    "smollm": lambda: LlamaConfig(**SMALL, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=rope(100000.0)),
    "gemma2": lambda: Gemma2Config(
        **SMALL, head_dim=8, sliding_window=4, query_pre_attn_scalar=13, attn_logit_softcapping=2.0,
        final_logit_softcapping=1.5, tie_word_embeddings=True, rope_parameters=rope(300.0)),
    "gemma3": lambda: Gemma3TextConfig(
        **{**SMALL, "num_hidden_layers": 3, "intermediate_size": 32}, head_dim=8, sliding_window=4,
        query_pre_attn_scalar=11, tie_word_embeddings=True,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters=dict(sliding_attention=rope(100.0),
                             full_attention=rope(5000.0, rope_type="linear", factor=2.0))),
}


def randomise(model, seed):
    """Random values everywhere, at scales that keep every non-linearity of the model visible."""
    generator = torch.Generator().manual_seed(seed)
    gemma = model.config.model_type.startswith("gemma")
    # Gemma multiplies embeddings by sqrt(hidden) and norms scale by 1 + weight.
    embedding_scale, norm_centre = (0.2, 0.0) if gemma else (0.5, 1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                embedding = any(part in name for part in ("embed_tokens", "wte", "wpe"))
                fan_in = parameter.shape[0] if "c_" in name.split(".")[-2] else parameter.shape[1]
                parameter.copy_(values * (embedding_scale if embedding else 1.2 / fan_in**0.5))
            elif name.endswith(".bias"):
                parameter.copy_(values * 0.2)
            else:
                parameter.copy_(values * 0.25 + norm_centre)


def next_token_loss(logits, input_ids, reduction="mean"):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten(), reduction=reduction)


def packed_case(model, generator, vocabulary):
    lengths = (7, 5)
    documents = [torch.randint(0, vocabulary, (1, length), generator=generator) for length in lengths]
    logits = [model(document).logits for document in documents]
    total = sum(next_token_loss(*pair, reduction="sum") for pair in zip(logits, documents))
    return {
        "packed.input_ids": torch.cat(documents, 1),
        "packed.position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "packed.segment_ids": torch.cat([torch.full((length,), index) for index, length in enumerate(lengths)])[None],
        "packed.logits": torch.cat(logits, 1),
        "packed.loss": total / sum(length - 1 for length in lengths),
    }


def padded_case(model, input_ids):
    mask = torch.ones_like(input_ids)
    mask[0, :5] = 0
    padded = input_ids * mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(padded, attention_mask=mask, position_ids=positions).logits
    alone = model(input_ids[:1, 5:]).logits
    torch.testing.assert_close(logits[:1, 5:], alone, rtol=1e-4, atol=1e-5)
    return {"padded.input_ids": padded, "padded.attention_mask": mask, "padded.position_ids": positions,
            "padded.logits": logits * mask[..., None]}


def generate_case(model, generator, vocabulary):
    """A prompt whose greedy continuation varies and never hangs on a near-tie of the two best logits."""
    for _ in range(400):
        prompt = torch.randint(0, vocabulary, (1, 4), generator=generator)
        result = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False,
                                use_cache=True, output_logits=True, return_dict_in_generate=True)
        output = result.sequences[:, 4:]
        best = torch.stack(result.logits).topk(2).values
        if (best[..., 0] - best[..., 1]).min() > 0.01 and len(set(output[0].tolist())) >= 4:
            uncached = model(result.sequences).logits[:, 3:-1].argmax(-1)
            assert torch.equal(uncached, output), "cached and uncached decoding differ"
            return {"generate.prompt": prompt, "generate.output": output}
    raise RuntimeError("no prompt with a clear greedy continuation")


def version_4_config(config):
    """The configuration dictionary in the spelling of transformers 4, or None where nothing differs."""
    if "rope_parameters" not in config:
        return None
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype", "layer_types", "_sliding_window_pattern")}
    parameters = dict(config["rope_parameters"])
    if config["model_type"] == "gemma3_text":
        old["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        old["sliding_window_pattern"] = 3
        parameters = dict(parameters["full_attention"])
    old["rope_theta"] = parameters.pop("rope_theta")
    if config["model_type"] not in ("mistral", "gemma2"):
        old["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    old.update(torch_dtype="float32", transformers_version="4.57.0")
    return dict(sorted(old.items()))


def write_version_4(folder, model, input_ids, logits):
    old = version_4_config(json.loads((folder / "config.json").read_text()))
    if old is None:
        return
    path = folder / "config.v4.json"
    path.write_text(json.dumps(old, indent=2) + "\n")
    twin = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), attn_implementation="eager").eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(twin(input_ids).logits, logits)


def make(name, seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager").eval()
    randomise(model, seed)
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(seed + 1)
    input_ids = torch.randint(0, vocabulary, (2, 12), generator=generator)
    logits = model(input_ids).logits
    loss = next_token_loss(logits, input_ids)
    loss.backward()
    expected = {"input_ids": input_ids, "logits": logits, "loss": loss}
    expected.update({f"grad.{key}": value.grad for key, value in model.named_parameters()})
    with torch.no_grad():
        expected.update(packed_case(model, generator, vocabulary))
        expected.update(padded_case(model, input_ids))
        expected.update(generate_case(model, generator, vocabulary))
    folder = ROOT / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file({key: value.detach().contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    write_version_4(folder, model, input_ids, logits.detach())
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB, loss {loss.item():.4f}, logits std {logits.std().item():.2f}, "
          f"generated {expected['generate.output'][0].tolist()}")


if __name__ == "__main__":
    for index, each in enumerate(CONFIGS):
        if len(sys.argv) == 1 or each in sys.argv[1:]:
            make(each, 1000 * (index + 1))
