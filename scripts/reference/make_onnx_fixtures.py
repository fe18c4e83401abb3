"""Small randomly initialised models as PyTorch's exporter writes them, with symbolic axes (fixtures/onnx/*.onnx).

Usage: python scripts/reference/make_onnx_fixtures.py   (torch, transformers and onnx; see requirements.txt)
"""

from pathlib import Path

import torch
import transformers as tf

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "onnx"


class Wrapped(torch.nn.Module):
    def __init__(self, model, call):
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, *inputs):
        return self.call(self.model, *inputs)


def export(name, model, call, inputs, axes):
    torch.onnx.export(
        Wrapped(model, call).eval(),
        inputs,
        FOLDER / f"{name}.onnx",
        input_names=[key for key in axes if key != "out"],
        output_names=["out"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def main():
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    ids = torch.randint(0, 60, (2, 7))
    text = (ids, torch.ones(2, 7, dtype=torch.long))
    text_axes = {key: {0: "batch", 1: "seq"} for key in ("input_ids", "attention_mask", "out")}
    size = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    decode = lambda m, i, a: m(input_ids=i, attention_mask=a, use_cache=False)[0]
    encode = lambda m, i, a: m(input_ids=i, attention_mask=a)[0]
    image = lambda m, x: m(pixel_values=x)[0]
    plain = lambda m, x: m(x)
    first = lambda m, x: m(x)[0]

    gpt2 = tf.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=1)
    export("gpt2", tf.GPT2LMHeadModel(gpt2), decode, text, text_axes)
    llama = tf.LlamaConfig(**size, num_key_value_heads=2, max_position_embeddings=32)
    export("llama", tf.LlamaForCausalLM(llama), decode, text, text_axes)
    deberta = tf.DebertaV2Config(
        **size, max_position_embeddings=32, relative_attention=True, pos_att_type=["p2c", "c2p"],
        type_vocab_size=0, position_buckets=8,
    )
    export("deberta", tf.DebertaV2Model(deberta), encode, text, text_axes)
    swin = tf.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4)
    export("swin", tf.SwinModel(swin), image, (torch.randn(2, 3, 32, 32),), {"x": {0: "batch"}, "out": {0: "batch"}})
    wav2vec = tf.Wav2Vec2Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, conv_dim=(8, 8),
        conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, vocab_size=32,
    )
    axes = {"x": {0: "batch", 1: "n"}, "out": {0: "batch", 1: "t"}}
    export("wav2vec2", tf.Wav2Vec2Model(wav2vec), first, (torch.randn(2, 400),), axes)
    lstm = torch.nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True)
    axes = {"x": {0: "batch", 1: "t"}, "out": {0: "batch", 1: "t"}}
    export("lstm", lstm, first, (torch.randn(2, 7, 6),), axes)
    layers = [
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.GroupNorm(2, 4), torch.nn.SiLU(),
        torch.nn.Upsample(scale_factor=2, mode="bilinear"), torch.nn.AvgPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2),
    ]
    axes = {"x": {0: "batch", 2: "h", 3: "w"}, "out": {0: "batch"}}
    export("convnet", torch.nn.Sequential(*layers), plain, (torch.randn(2, 3, 8, 8),), axes)


if __name__ == "__main__":
    main()
