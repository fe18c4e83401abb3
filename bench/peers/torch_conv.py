"""Peer for the convolution benchmark: LoRA on every convolution of a ResNet with PyTorch + transformers + PEFT, fp32, CPU.

    .cache/reference/bin/python bench/peers/torch_conv.py --model DIR --batch 8 --size 96 --threads 2

`--make` writes a ResNet-18 of random weights to --model first. `--bare` measures the step of the frozen network with its
head trained alone: what LoRA adds to activations is the difference. Prints one JSON object, as torch_lora.py does.
"""

import argparse
import json
import statistics
import time

from torch_lora import MemorySampler, memory_status, seconds_since_process_start, versions


def parse_arguments():
    parser = argparse.ArgumentParser(description="LoRA on convolutions: step time and memory of PyTorch + PEFT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    return parser.parse_args()


def main():
    options = parse_arguments()
    sampler = MemorySampler()
    sampler.start()
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    if options.make:
        config = ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=10)
        ResNetForImageClassification(config).save_pretrained(options.model)
        return
    from peft import LoraConfig, get_peft_model

    model = ResNetForImageClassification.from_pretrained(options.model)
    if options.bare:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("classifier")
    else:
        model = get_peft_model(model, LoraConfig(r=options.rank, target_modules=["convolution"]))
    # Frozen statistics, as ours: a small batch must not move them.
    model.eval()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0)
    pixels = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.arange(options.batch) % 10
    seconds, first = [], None
    for _ in range(options.warmup + options.steps):
        began = time.perf_counter()
        loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
        first = first or seconds_since_process_start()
    print(json.dumps(dict(
        peer="torch+peft", versions=versions(), startToFirstStepSeconds=first,
        trainableParameters=sum(parameter.numel() for parameter in trainable),
        peakRssMb=memory_status()["VmHWM"], peakRssAnonMb=sampler.anon,
        medianStepSeconds=statistics.median(seconds[options.warmup:]))))


if __name__ == "__main__":
    main()
