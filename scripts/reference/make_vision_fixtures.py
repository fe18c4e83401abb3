"""Tiny random models of images, series and denoising, with what their reference computes from them.

    python3 -m venv .cache/reference
    .cache/reference/bin/pip install -r scripts/reference/requirements.txt
    .cache/reference/bin/pip install --no-deps torchvision==0.29.2 diffusers==0.42.1 granite-tsfm==0.3.11
    .cache/reference/bin/python scripts/reference/make_vision_fixtures.py [NAME ...]

Writes fixtures/vision/NAME/ (seeded, eval mode, every tensor random; computed in float64, stored in float32):

  config.json and model.safetensors (diffusers: diffusion_pytorch_model.safetensors), or for networks that come without
  a config state.pth, the state dict as torch.save writes it
  expected.safetensors
    in.NAME, out.NAME, target.NAME    inputs, outputs, and random numbers of the outputs' shapes
    loss []                           sum over outputs of mean((out - target)^2)
    grad.NAME                         its gradient by every parameter
    other.in.NAME, other.out.NAME     a second pass: images of another size, missing values
  train.logits, train.NAME          of networks that end in state.pth: the pass by the statistics of the batch, and the
                                    running means after it
"""

import importlib.util
import json
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file
from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from transformers import (CLIPConfig, CLIPModel, CLIPTextModelWithProjection, DeiTConfig,
                          DeiTForImageClassificationWithTeacher, MobileNetV2Config, MobileNetV2ForImageClassification,
                          ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification)

# The package's own __init__ wants pandas and more, which its models do not.
package = importlib.util.find_spec("tsfm_public").submodule_search_locations
for name in ("tsfm_public", "tsfm_public.models"):
    module = types.ModuleType(name)
    module.__path__ = [os.path.join(package[0], *name.split(".")[1:])]
    sys.modules[name] = module
from tsfm_public.models.tinytimemixer.configuration_tinytimemixer import TinyTimeMixerConfig
from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import TinyTimeMixerForPrediction

ROOT = Path(__file__).resolve().parents[2] / "fixtures" / "vision"
EAGER = dict(attn_implementation="eager")
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
IMAGE = dict(image_size=16, patch_size=4)


def images(generator, *shape):
    return torch.randn(*shape, generator=generator)


class SmallResNet(ResNet):
    """torchvision's network with stages of other widths."""

    def __init__(self, block, depths, widths, classes, groups=1):
        nn.Module.__init__(self)
        self._norm_layer, self.inplanes, self.dilation = nn.BatchNorm2d, widths[0], 1
        self.groups, self.base_width = groups, 64
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        for stage in range(4):
            layer = self._make_layer(block, widths[stage], depths[stage], stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3] * block.expansion, classes)


class CifarBlock(nn.Module):
    """Option A of the paper: shortcuts subsample and fill up with zeros."""

    def __init__(self, narrow, wide, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        self.stride, self.more = stride, wide - narrow

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """The ResNets of the paper's section 4.2."""

    def __init__(self, depth, widths, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, width in enumerate(widths):
            blocks = [CifarBlock(before if at == 0 else width, width, 2 if stage and at == 0 else 1)
                      for at in range(depth)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            before = width
        self.linear = nn.Linear(before, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def vit(generator):
    model = ViTForImageClassification._from_config(
        ViTConfig(**SMALL, **IMAGE, id2label={0: "cat", 1: "dog", 2: "owl"}), **EAGER)
    pixels = {"pixel_values": images(generator, 2, 3, 16, 16)}
    larger = {"pixel_values": images(generator, 1, 3, 24, 20)}
    return model, pixels, lambda **x: {"logits": model(**x).logits}, (
        larger, lambda **x: {"logits": model(**x, interpolate_pos_encoding=True).logits})


def deit(generator):
    model = DeiTForImageClassificationWithTeacher._from_config(
        DeiTConfig(**SMALL, **IMAGE, qkv_bias=False, num_labels=3), **EAGER)
    return model, {"pixel_values": images(generator, 2, 3, 16, 16)}, lambda **x: {"logits": model(**x).logits}


def text_inputs(generator):
    ids = torch.randint(0, 48, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((9, 6, 4)):
        ids[row, length - 1] = 48
        ids[row, length:], mask[row, length:] = 48, 0
    return {"input_ids": ids, "attention_mask": mask}


def clip_config():
    text = dict(SMALL, vocab_size=50, max_position_embeddings=12, bos_token_id=47, eos_token_id=48, pad_token_id=48)
    return CLIPConfig(text_config=text, vision_config=dict(SMALL, **IMAGE, hidden_act="gelu"), projection_dim=10,
                      text_projection_dim=10)


def clip(generator):
    model = CLIPModel._from_config(clip_config(), **EAGER)
    model.config.text_config._attn_implementation = model.config.vision_config._attn_implementation = "eager"
    names = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")
    inputs = {**text_inputs(generator), "pixel_values": images(generator, 2, 3, 16, 16)}

    def run(**x):
        outputs = model(**x)
        return {name: outputs[name] for name in names}

    return model, inputs, run


def clip_text(generator):
    config = clip_config().text_config
    config.projection_dim, config.eos_token_id, config.pad_token_id = 10, 2, 1
    model = CLIPTextModelWithProjection._from_config(config, **EAGER)
    inputs = text_inputs(generator)
    # The old end id 2 means: the largest id. Only one stands in each row.
    inputs["input_ids"] = torch.where(inputs["attention_mask"] == 0, 1, inputs["input_ids"])

    def run(**x):
        outputs = model(**x)
        return {"text_embeds": outputs.text_embeds, "last_hidden_state": outputs.last_hidden_state}

    return model, inputs, run


def resnet(layer_type, **options):
    def make(generator):
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type=layer_type,
                              num_labels=4, **options)
        model = ResNetForImageClassification(config)
        return model, {"pixel_values": images(generator, 2, 3, 30, 34)}, lambda **x: {"logits": model(**x).logits}

    return make


def mobilenet(**options):
    def make(generator):
        config = MobileNetV2Config(depth_multiplier=0.05, depth_divisible_by=4, min_depth=4, image_size=35,
                                   finegrained_output=False, num_labels=3, **options)
        model = MobileNetV2ForImageClassification(config)
        return model, {"pixel_values": images(generator, 2, 3, 35, 35)}, lambda **x: {"logits": model(**x).logits}

    return make


def plain(build, height, width):
    def make(generator):
        model = build()
        return model, {"pixel_values": images(generator, 2, 3, height, width)}, lambda pixel_values: {
            "logits": model(pixel_values)}

    return make


def forecaster(**options):
    def make(generator):
        config = TinyTimeMixerConfig(context_length=26, patch_length=4, patch_stride=4, num_input_channels=3,
                                     prediction_length=5, d_model=12, decoder_d_model=8, num_layers=2,
                                     decoder_num_layers=1, dropout=0.0, head_dropout=0.0, gated_attn=True,
                                     scaling="std", loss="mse", **options)
        model = TinyTimeMixerForPrediction(config)
        inputs = {"past_values": torch.randn(2, 26, 3, generator=generator) * 3 + 5}
        if options.get("resolution_prefix_tuning"):
            inputs["freq_token"] = torch.tensor([1, 4])
        gaps = dict(inputs)
        gaps["past_observed_mask"] = (torch.rand(2, 26, 3, generator=generator) > 0.3).float()
        gaps["past_values"] = inputs["past_values"] * gaps["past_observed_mask"]

        def run(**x):
            return {"prediction_outputs": model(**x, return_loss=False).prediction_outputs}

        return model, inputs, run, (gaps, run)

    return make


def unet(generator):
    model = UNet2DModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 12), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=4, downsample_padding=0, resnet_time_scale_shift="scale_shift",
        num_class_embeds=5, freq_shift=1, flip_sin_to_cos=False, center_input_sample=True)
    inputs = {"sample": images(generator, 2, 2, 8, 8), "timestep": torch.tensor([3, 700]),
              "class_labels": torch.tensor([4, 0])}
    return model, inputs, lambda **x: {"out_sample": model(**x).sample}


def unet_condition(linear):
    def make(generator):
        model = UNet2DConditionModel(
            sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 12), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=4, cross_attention_dim=6,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), use_linear_projection=linear,
            attention_head_dim=(2, 3) if linear else 2)
        inputs = {"sample": images(generator, 2, 2, 8, 8), "timestep": torch.tensor([1, 999]),
                  "encoder_hidden_states": torch.randn(2, 5, 6, generator=generator)}
        return model, inputs, lambda **x: {"out_sample": model(**x).sample}

    return make


MODELS = {
    "vit": vit,
    "deit": deit,
    "clip": clip,
    "clip-text": clip_text,
    "resnet": resnet("bottleneck"),
    "resnet-basic": resnet("basic", downsample_in_first_stage=True),
    "mobilenet": mobilenet(),
    "mobilenet-dilated": mobilenet(output_stride=16, tf_padding=False, first_layer_is_expansion=False),
    "torchvision-resnet": plain(lambda: SmallResNet(BasicBlock, (1, 2, 1, 1), (4, 8, 12, 16), 5), 40, 36),
    "torchvision-resnext": plain(lambda: SmallResNet(Bottleneck, (1, 1, 1, 1), (4, 4, 8, 8), 5, groups=2), 40, 40),
    "cifar-resnet": plain(lambda: CifarResNet(2, (4, 8, 12), 10), 16, 16),
    "torchvision-mobilenet": plain(lambda: MobileNetV2(num_classes=5, width_mult=0.05, round_nearest=4), 40, 40),
    "tinytimemixer": forecaster(adaptive_patching_levels=2, mode="common_channel", decoder_mode="common_channel"),
    "tinytimemixer-mixed": forecaster(
        adaptive_patching_levels=0, mode="mix_channel", decoder_mode="mix_channel", resolution_prefix_tuning=True,
        frequency_token_vocab_size=5, decoder_raw_residual=True, use_positional_encoding=True,
        prediction_channel_indices=[2, 0], prediction_filter_length=4),
    "unet": unet,
    "unet-condition": unet_condition(False),
    "unet-condition-linear": unet_condition(True),
}


def randomise(model, generator):
    """Random values everywhere, at scales that keep every non-linearity of the model visible."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_scale":
                parameter.fill_(1.3)
            elif parameter.dim() >= 2 and "embed" not in name:
                parameter.copy_(noise * (1.4 / parameter[0].numel() ** 0.5))
            elif parameter.dim() >= 2 or "class_embedding" in name:
                parameter.copy_(noise * 0.5)
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.2)
            else:
                parameter.copy_(noise * 0.25 + 1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def file_names(model, folder):
    """The name in the file of every parameter; transformers 5 has other names in memory for some architectures."""
    from safetensors.torch import load_file

    path = next(folder.glob("*.safetensors"), None)
    if path is None:
        return {name: name for name, _ in model.named_parameters()}
    stored, names = load_file(path), {}
    for name, parameter in model.named_parameters():
        same = [key for key, value in stored.items() if value.shape == parameter.shape and torch.equal(value, parameter)]
        names[name] = name if name in stored else same[0]
    return names


def exact(feeds):
    return {key: value.double() if value.is_floating_point() else value for key, value in feeds.items()}


def narrow(value):
    return value.float() if value.is_floating_point() else value


def make(name, seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, inputs, run, *other = MODELS[name](generator)
    model.eval()
    randomise(model, generator)
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2) + "\n")
    else:
        torch.save(model.state_dict(), folder / "state.pth")
    stored = file_names(model, folder)
    model.double()
    outputs = run(**exact(inputs))
    expected = {f"in.{key}": value for key, value in inputs.items()}
    loss = 0
    for key, value in outputs.items():
        target = torch.randn(value.shape, generator=generator)
        expected[f"out.{key}"], expected[f"target.{key}"] = value, target
        loss = loss + ((value - target) ** 2).mean()
    loss.backward()
    expected["loss"] = loss
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            expected[f"grad.{stored[key]}"] = gradient
    for feeds, again in other:
        with torch.no_grad():
            expected.update({f"other.in.{key}": value for key, value in feeds.items()})
            expected.update({f"other.out.{key}": value for key, value in again(**exact(feeds)).items()})
    if (folder / "state.pth").exists():
        model.train()
        expected["train.logits"] = run(**exact(inputs))["logits"]
        expected.update({f"train.{key}": value for key, value in model.named_buffers() if key.endswith("mean")})
    save_file({key: narrow(value.detach()).contiguous().clone() for key, value in expected.items()},
              folder / "expected.safetensors")
    size = sum(path.stat().st_size for path in folder.iterdir())
    spread = {key: round(value.std().item(), 3) for key, value in outputs.items()}
    print(f"{name}: {size / 1000:.0f} kB, loss {loss.item():.4f}, std {spread}")


if __name__ == "__main__":
    for index, each in enumerate(MODELS):
        if len(sys.argv) == 1 or each in sys.argv[1:]:
            make(each, 100 * (index + 1))
