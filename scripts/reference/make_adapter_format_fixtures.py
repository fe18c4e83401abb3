"""Writes fixtures/adapter-formats/: adapters in the formats of other libraries, made by those libraries where they run here, and
the change of every weight that they mean (`*.delta.safetensors`, [out, in], by module path; embeddings [rows, width]).

- names.json: kohya and old diffusers names with what diffusers makes of them, and llama.cpp's names by architecture
- mlx/, mlx-dora/: adapter folders of MLX-LM on a tiny Llama, factors random; the deltas are those of its own fuse()
- llama.gguf: a LoRA adapter with llama.cpp's row order for rotary embeddings, from peft.safetensors
- loralib.pth: MergedLinear, Linear and Embedding of loralib in a full state dict

    python scripts/reference/make_adapter_format_fixtures.py   # needs diffusers, loralib, gguf, mlx and mlx-lm as well
"""

import json
import pathlib

import gguf
import loralib
import mlx.core as mx
import numpy as np
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from diffusers.utils.state_dict_utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import llama
from mlx_lm.tuner.utils import linear_to_lora_layers
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "adapter-formats"
rng = np.random.default_rng(0)

UNET = [
    "down_blocks.0.attentions.1.proj_in",
    "down_blocks.0.attentions.1.proj_out",
    *[f"down_blocks.0.attentions.1.transformer_blocks.0.attn{i}.{p}" for i in (1, 2) for p in
      ("to_q", "to_k", "to_v", "to_out.0")],
    "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.2",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.1.resnets.0.conv1",
    "down_blocks.1.resnets.0.time_emb_proj",
    "down_blocks.1.resnets.0.conv_shortcut",
    "time_embedding.linear_1",
]
TEXT = [f"text_model.encoder.layers.3.self_attn.{p}_proj" for p in ("q", "k", "v", "out")]
TEXT += [f"text_model.encoder.layers.3.mlp.fc{i}" for i in (1, 2)]


def names():
    down, up = torch.zeros(2, 3), torch.zeros(3, 2)
    kohya = {}
    for prefix, paths in [("lora_unet_", UNET), ("lora_te_", TEXT)]:
        for path in paths:
            name = prefix + path.replace(".", "_")
            converted, _ = _convert_non_diffusers_lora_to_diffusers(
                {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up})
            unet = {k.removeprefix("unet."): v for k, v in converted.items() if k.startswith("unet.")}
            text = {k.removeprefix("text_encoder."): v for k, v in converted.items() if k.startswith("text_encoder.")}
            if unet:
                final = [f"unet.{k}" for k in convert_unet_state_dict_to_peft(unet)]
            elif any("lora_linear_layer" in k or "to_out_lora" in k for k in text):
                final = [f"text_encoder.{k}" for k in convert_state_dict_to_peft(text)]
            else:
                # The converter tells old names by to_out_lora, which every whole file has.
                text["x.to_out_lora.down.weight"] = down
                final = [f"text_encoder.{k}" for k in convert_state_dict_to_peft(text) if not k.startswith("x.")]
            kohya[name] = sorted(final)
    diffusers = {}
    for path in UNET:
        if not path.rsplit(".", 1)[0].endswith(("attn1", "attn2")) and "to_out" not in path:
            continue
        attention, projection = path.split("attn")[0] + "attn" + path.split("attn")[-1][0], path.split(".to_")[-1]
        for way in ("down", "up"):
            old = f"{attention}.processor.to_{projection.removesuffix('.0')}_lora.{way}.weight"
            diffusers[f"unet.{old}"] = f"unet.{next(iter(convert_unet_state_dict_to_peft({old: down})))}"
    for path in TEXT:
        for way in ("down", "up"):
            new = f"{path}.lora_linear_layer.{way}.weight"
            diffusers[f"text_encoder.{new}"] = f"text_encoder.{next(iter(convert_state_dict_to_peft({new: down})))}"
    arch = gguf.MODEL_ARCH
    tables = {}
    for kind in [arch.LLAMA, arch.QWEN2, arch.QWEN3, arch.GEMMA, arch.GEMMA2, arch.GEMMA3, arch.GPT2, arch.PHI3]:
        name = gguf.MODEL_ARCH_NAMES[kind]
        table = gguf.get_tensor_name_map(kind, 2)
        leaves = {"gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
                  "phi3": ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]}.get(
            name, [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")])
        layers = "transformer.h" if name == "gpt2" else "model.layers"
        paths = [f"{layers}.1.{leaf}" for leaf in leaves]
        paths.append("transformer.wte" if name == "gpt2" else "model.embed_tokens")
        tables[name] = {path: table.get_name(path) for path in paths}
    (OUT / "names.json").write_text(json.dumps({"kohya": kohya, "diffusers": diffusers, "gguf": tables}, indent=1) + "\n")


def mlx(folder, dora):
    args = llama.ModelArgs(model_type="llama", hidden_size=8, num_hidden_layers=3, intermediate_size=12,
                           num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-5, vocab_size=10,
                           tie_word_embeddings=True)
    mx.random.seed(1)
    model = llama.Model(args)
    config = {"rank": 3, "scale": 2.5, "dropout": 0.0,
              "keys": ["self_attn.q_proj", "mlp.down_proj"] + ([] if dora else ["model.embed_tokens"])}
    model.freeze()
    linear_to_lora_layers(model, 2, config, use_dora=dora)
    model.update(tree_map(lambda p: p if p.size == 0 else mx.random.normal(p.shape) * 0.1,
                          model.trainable_parameters()))
    path = OUT / folder
    path.mkdir(exist_ok=True)
    tensors = dict(tree_flatten(model.trainable_parameters()))
    if dora:
        tensors = {k: mx.abs(v) + 0.5 if k.endswith(".m") else v for k, v in tensors.items()}
        model.load_weights(list(tensors.items()), strict=False)
    mx.save_safetensors(str(path / "adapters.safetensors"), tensors)
    (path / "adapter_config.json").write_text(json.dumps(
        {"fine_tune_type": "dora" if dora else "lora", "num_layers": 2, "lora_parameters": config}, indent=1) + "\n")
    deltas, bases = {}, {}
    for name, module in model.named_modules():
        if hasattr(module, "fuse"):
            base = np.array((module.linear if hasattr(module, "linear") else module.embedding).weight)
            bases[name] = base
            deltas[name] = np.array(module.fuse().weight) - base
    save_file(deltas, path / "delta.safetensors")
    save_file(bases, path / "base.safetensors")


def permuted(weights, heads):
    """llama.cpp's LlamaModel.permute."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def llama_gguf():
    shapes = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8), "mlp.down_proj": (8, 12)}
    tensors = {}
    writer = gguf.GGUFWriter(OUT / "llama.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 6.0)
    names_of = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for leaf, (rows, columns) in shapes.items():
        path = f"model.layers.1.{leaf}"
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, columns), (rows, 3)))
        tensors[f"base_model.model.{path}.lora_A.weight"] = a
        tensors[f"base_model.model.{path}.lora_B.weight"] = b
        heads = {"self_attn.q_proj": 2, "self_attn.k_proj": 1}.get(leaf)
        name = names_of.get_name(path)
        writer.add_tensor(f"{name}.weight.lora_a", a)
        writer.add_tensor(f"{name}.weight.lora_b", np.ascontiguousarray(permuted(b, heads)) if heads else b)
    a, b = rng.standard_normal((3, 10)).astype(np.float32), rng.standard_normal((8, 3)).astype(np.float32)
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = a
    tensors["base_model.model.model.embed_tokens.lora_embedding_B"] = b
    writer.add_tensor("token_embd.weight.lora_a", np.ascontiguousarray(a.T))
    writer.add_tensor("token_embd.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(tensors, OUT / "peft.safetensors")


def original_loralib():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({
        "wte": loralib.Embedding(10, 8, r=2, lora_alpha=4),
        "attn": torch.nn.ModuleDict({
            "c_attn": loralib.MergedLinear(8, 24, r=2, lora_alpha=4, enable_lora=[True, False, True], fan_in_fan_out=True)}),
        "out": loralib.Linear(8, 6, r=2, lora_alpha=4),
        "classifier": torch.nn.Linear(6, 2),
    })
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.train()
    before = {name: module.weight.detach().clone() for name, module in model.named_modules() if hasattr(module, "lora_A")}
    torch.save({"model_state_dict": {f"module.transformer.{k}": v for k, v in model.state_dict().items()}}, OUT / "loralib.pth")
    model.eval()
    deltas = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            delta = (module.weight.detach() - before[name]).numpy()
            deltas[f"transformer.{name}"] = np.ascontiguousarray(delta.T if name == "attn.c_attn" else delta)
    save_file(deltas, OUT / "loralib.delta.safetensors")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    names()
    mlx("mlx", dora=False)
    mlx("mlx-dora", dora=True)
    llama_gguf()
    original_loralib()


if __name__ == "__main__":
    main()
