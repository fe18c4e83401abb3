"""Peer for the training benchmarks: LoRA on a GPT-2 with PyTorch + transformers + PEFT, fp32, CPU.

Set-up (throw-away environment, never a dependency of the library):

    python3 -m venv .cache/reference
    .cache/reference/bin/pip install -r scripts/reference/requirements.txt

Run:

    .cache/reference/bin/python bench/peers/torch_lora.py --preset gpt2-124m --batch 4 --length 128 --threads 2

Random weights: `--save-model DIR` writes the base model (config.json + model.safetensors) and, when no step is
wanted (`--steps 0`), stops; `--model DIR` trains the model found there, which is what a start-up comparison does.
`--save-adapter DIR` writes the adapter before the first step and `--save-inputs FILE` the token ids, so that another
implementation can follow the same trajectory (`losses` in the report).

Prints one JSON object. `startToFirstStepSeconds` counts from the start of the process (kernel clock, 10 ms
resolution) to the end of the first step: imports, model, adapter, forward, backward, update.
`peakRssMb` is VmHWM; `peakRssAnonMb` / `peakRssFileMb` are sampled every 10 ms, each at its own peak;
`atPeak` is the sample with the largest total. MB are 2**20 bytes.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import threading
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

PRESETS = {
    "gpt2-124m": dict(n_layer=12, n_embd=768, n_head=12, vocab_size=50257, n_positions=1024),
    "l6d384": dict(n_layer=6, n_embd=384, n_head=6, vocab_size=8192, n_positions=1024,
                   bos_token_id=0, eos_token_id=0),
}


def seconds_since_process_start():
    """Wall seconds since the kernel started this process."""
    fields = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def memory_status():
    """VmRSS, RssAnon, RssFile, VmHWM of this process in MB."""
    found = {}
    for line in open("/proc/self/status"):
        key, _, rest = line.partition(":")
        if key in ("VmRSS", "RssAnon", "RssFile", "VmHWM"):
            found[key] = int(rest.split()[0]) / 1024
    return found


class MemorySampler(threading.Thread):
    """Keeps the largest RssAnon and RssFile seen; VmHWM has no such split."""

    def __init__(self, interval=0.01):
        super().__init__(daemon=True)
        self.interval, self.stopped = interval, threading.Event()
        self.anon = self.file = 0.0
        self.at_peak = {"VmRSS": 0.0}

    def sample(self):
        now = memory_status()
        self.anon, self.file = max(self.anon, now["RssAnon"]), max(self.file, now["RssFile"])
        if now["VmRSS"] > self.at_peak["VmRSS"]:
            self.at_peak = now

    def run(self):
        while not self.stopped.wait(self.interval):
            self.sample()


def parse_arguments():
    parser = argparse.ArgumentParser(description="LoRA step time and memory of PyTorch + PEFT")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="gpt2-124m")
    parser.add_argument("--model", help="folder to load the base model from, instead of random weights")
    parser.add_argument("--save-model", help="folder to write the base model to")
    parser.add_argument("--save-adapter", help="folder to write the untrained adapter to")
    parser.add_argument("--save-inputs", help="safetensors file to write the token ids to: [batches, batch, length]")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="timed steps (ignored with --epochs)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones (the first step is one)")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--targets", default="c_attn",
                        help="module names, comma separated; q,k,v split c_attn into three maps first")
    parser.add_argument("--layers-from", type=int, default=0, help="adapt only layers >= this one")
    parser.add_argument("--epochs", type=int, default=0, help="train this many passes over --batches batches")
    parser.add_argument("--batches", type=int, default=8, help="number of distinct batches")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing of every block")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--random-b", action="store_true", help="random B, so that step one moves A as well")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def split_attention_maps(model):
    """Replaces the fused c_attn of every block by three maps q, k, v, so that LoRA can name them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    class SplitMaps(torch.nn.Module):
        def __init__(self, fused):
            super().__init__()
            width = fused.weight.shape[1] // 3
            for index, name in enumerate("qkv"):
                part = Conv1D(width, fused.weight.shape[0])
                columns = slice(index * width, (index + 1) * width)
                part.weight.data = fused.weight.data[:, columns].contiguous()
                part.bias.data = fused.bias.data[columns].contiguous()
                setattr(self, name, part)

        def forward(self, x):
            return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)

    for block in model.transformer.h:
        block.attn.c_attn = SplitMaps(block.attn.c_attn)


def build_model(options):
    from transformers import GPT2Config, GPT2LMHeadModel

    if options.model:
        model = GPT2LMHeadModel.from_pretrained(options.model, attn_implementation=options.attention)
    else:
        config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
                            attn_implementation=options.attention, **PRESETS[options.preset])
        model = GPT2LMHeadModel(config)
    if options.save_model:
        model.save_pretrained(options.save_model)
    return model


def adapt(model, options):
    from peft import LoraConfig, get_peft_model

    targets = options.targets.split(",")
    if set(targets) & {"q", "k", "v"}:
        split_attention_maps(model)
    if options.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = list(range(options.layers_from, model.config.n_layer)) if options.layers_from else None
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, lora_dropout=0.0, target_modules=targets,
                        layers_to_transform=layers, fan_in_fan_out=True, task_type="CAUSAL_LM",
                        init_lora_weights=not options.random_b)
    adapted = get_peft_model(model, config)
    if options.save_adapter:
        adapted.save_pretrained(options.save_adapter)
    return adapted


def train(model, batches, order, options):
    """Returns (wall and processor seconds of each step, loss of each step, seconds from process start to the first step's end)."""
    import torch

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=options.lr, weight_decay=0.0)
    seconds, cpu, losses, first = [], [], [], None
    model.train()
    for index in order:
        began, used = time.perf_counter(), time.process_time()
        loss = model(input_ids=batches[index], labels=batches[index]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
        first = first or seconds_since_process_start()
    return seconds, cpu, losses, first


def versions():
    import peft
    import torch
    import transformers

    return dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__,
                peft=peft.__version__)


def report(options, model, seconds, cpu, losses, first, sampler):
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    hwm = memory_status()["VmHWM"]
    result = dict(
        peer="torch+peft", options=vars(options), versions=versions(), trainableParameters=trainable,
        startToFirstStepSeconds=first,
        peakRssMb=hwm, ruMaxrssMb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        peakRssAnonMb=sampler.anon, peakRssFileMb=sampler.file, atPeak=sampler.at_peak,
        losses=[round(loss, 6) for loss in losses],
    )
    if options.epochs:
        groups = [seconds[start:start + options.batches] for start in range(0, len(seconds), options.batches)]
        result.update(epochSeconds=[sum(group) for group in groups], totalSeconds=sum(seconds))
    timed = seconds if options.epochs else seconds[options.warmup:]
    result.update(stepSeconds=[round(value, 4) for value in timed], medianStepSeconds=statistics.median(timed),
                  medianCpuSeconds=statistics.median(cpu[options.warmup:]))
    return result


def main():
    options = parse_arguments()
    sampler = MemorySampler()
    sampler.start()
    import torch

    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(options.seed)
    model = build_model(options)
    if options.steps == 0 and options.epochs == 0:
        return
    model = adapt(model, options)
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(options.seed)
    shape = (options.batches, options.batch, options.length)
    batches = torch.randint(0, vocabulary, shape, generator=generator)
    if options.save_inputs:
        from safetensors.torch import save_file

        save_file({"input_ids": batches}, options.save_inputs)
    count = options.epochs * options.batches or options.warmup + options.steps
    seconds, cpu, losses, first = train(model, batches, [step % options.batches for step in range(count)], options)
    sampler.stopped.set()
    sampler.join()
    sampler.sample()
    print(json.dumps(report(options, model, seconds, cpu, losses, first, sampler)))


if __name__ == "__main__":
    main()
