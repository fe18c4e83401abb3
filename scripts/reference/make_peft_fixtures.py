"""Adapter folders written by PEFT for the tiny gpt2 and llama fixtures, and what PEFT computes with them.

    python3 -m venv .cache/reference
    .cache/reference/bin/pip install -r scripts/reference/requirements.txt
    .cache/reference/bin/python scripts/reference/make_model_fixtures.py gpt2 llama     # the base models, if absent
    .cache/reference/bin/python scripts/reference/make_peft_fixtures.py [MODEL-CASE ...]

Writes fixtures/peft/MODEL-CASE/: adapter_config.json and adapter_model.safetensors as save_pretrained writes them
(lists that come from sets are sorted, the model card is dropped), every trainable tensor random and non-zero, and
expected.safetensors, computed after loading that folder onto the untouched base:

  input_ids [2,12] int64, logits [2,12,V], loss []    mean next-token cross-entropy
  merged_logits [2,12,V]                              after merge_and_unload, where there is such
  grad.NAME                                           gradient of the loss by the tensor NAME of the adapter file
  noise.PATH.KEY                                      what was drawn for the loss at a map, where a tuner draws

PEFT's own `merged_logits` differ from `logits` where an adapted or replaced embedding is tied to the output layer:
merging writes into the shared weight. `fixtures/peft/cases.json` lists the largest difference per case.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.c3a import layer as c3a_layer
from peft.tuners.c3a import utils as c3a_utils
from peft.tuners.lora import ArrowConfig, create_arrow_model
from peft.tuners.lora import layer as lora_layer
from peft.tuners.lora.monteclora import MontecloraSampler
from peft.tuners.lora.variants import QALoraLinearVariant
from safetensors.torch import load_file, save_file
from torch.distributions import Dirichlet
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
os.chdir(ROOT)  # Relative model paths, because PEFT stores the path of the base model in the adapter.
FOLDER = Path("fixtures/peft")

COMMON = dict(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM")
DEFAULT_TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}

# Case -> LoraConfig arguments; "both" for both models, otherwise by model.
CASES = {
    "plain": dict(both={}),
    "rslora": dict(both=dict(use_rslora=True, r=5, lora_alpha=3)),
    "patterns": dict(
        gpt2=dict(target_modules=["c_attn", "c_proj", "c_fc"],
                  rank_pattern={r"h\.0\.attn\.c_attn": 2, "mlp.c_proj": 6}, alpha_pattern={"c_fc": 20, "c_attn": 5}),
        llama=dict(target_modules=["q_proj", "v_proj", "down_proj"],
                   rank_pattern={"layers.1.self_attn.q_proj": 2, "q_proj": 3, r".*\.mlp\.down_proj": 6},
                   alpha_pattern={"v_proj": 20, r"layers\.\d\.mlp\.down_proj": 5})),
    "dora": dict(gpt2=dict(use_dora=True, target_modules=["c_attn", "c_fc"]),
                 llama=dict(use_dora=True, target_modules=["q_proj", "up_proj"])),
    "dora-embedding": dict(llama=dict(use_dora=True, target_modules=["embed_tokens", "k_proj"])),
    "bias-all": dict(gpt2=dict(bias="all")),
    "bias-lora-only": dict(gpt2=dict(bias="lora_only")),
    "save-lm-head": dict(gpt2=dict(modules_to_save=["lm_head"]),
                         llama=dict(modules_to_save=["lm_head", "input_layernorm"])),
    "save-embedding": dict(gpt2=dict(modules_to_save=["wte"]), llama=dict(modules_to_save=["embed_tokens"])),
    "embedding": dict(gpt2=dict(target_modules=["wte", "wpe", "c_fc"]),
                      llama=dict(target_modules=["embed_tokens", "o_proj"])),
    "output-layer": dict(llama=dict(target_modules=["lm_head", "q_proj"])),
    "tokens": dict(gpt2=dict(trainable_token_indices=[3, 17, 40]),
                   llama=dict(trainable_token_indices={"embed_tokens": [0, 5, 44]})),
    # PEFT merges lora_bias only into maps that have a bias, which llama's have not.
    "lora-bias": dict(gpt2=dict(lora_bias=True)),
    "pissa": dict(both=dict(init_lora_weights="pissa")),
    "pissa-portable": dict(both=dict(init_lora_weights="pissa")),
    # PEFT's OLoRA initialisation fails on the transposed weights of gpt2 (matrix shapes do not fit).
    "olora": dict(llama=dict(init_lora_weights="olora")),
    "exclude": dict(
        gpt2=dict(target_modules=["c_attn", "c_proj"], exclude_modules=["mlp.c_proj", "transformer.h.1.attn.c_attn"]),
        llama=dict(target_modules=["q_proj", "v_proj", "down_proj"], exclude_modules=r".*\.0\..*_proj")),
    "layers": dict(gpt2=dict(layers_to_transform=[1]), llama=dict(layers_to_transform=0, layers_pattern="layers")),
    "regex": dict(gpt2=dict(target_modules=r".*h\.1\.(attn\.c_attn|mlp\.c_fc)"),
                  llama=dict(target_modules=r"model\.layers\.[01]\.mlp\.(gate|up)_proj")),
    "all-linear": dict(both=dict(target_modules="all-linear", r=2)),
}


# Case -> (class of PEFT, arguments): tuners other than LoRA, on the llama fixture.
TUNERS = {
    "vera": ("VeraConfig", dict(r=6)),
    "vera-seed-only": ("VeraConfig", dict(r=6, save_projection=False, projection_prng_key=11)),
    "pvera": ("PveraConfig", dict(r=6)),
    "boft": ("BOFTConfig", dict(boft_block_size=4)),
    "oft": ("OFTConfig", dict(oft_block_size=8)),
    "oft-exact": ("OFTConfig", dict(oft_block_size=4, use_cayley_neumann=False)),
    "oft-shared": ("OFTConfig", dict(oft_block_size=8, block_share=True)),
    "hra": ("HRAConfig", dict(r=4)),
    "hra-gs": ("HRAConfig", dict(r=3, apply_GS=True, init_weights=False)),
    "ia3": ("IA3Config", dict(feedforward_modules=["down_proj"])),
    "loha": ("LoHaConfig", dict(r=3, alpha=6, rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 5})),
    "lokr": ("LoKrConfig", dict(r=2, alpha=6)),
    "lokr-both": ("LoKrConfig", dict(r=1, alpha=3, decompose_both=True, decompose_factor=4)),
    "lokr-whole": ("LoKrConfig", dict(r=8, alpha=8)),
    "adalora": ("AdaLoraConfig", dict(init_r=5, lora_alpha=9, total_step=100)),
    "glora": ("GloraConfig", dict(r=3)),
    "glora-vector": ("GloraConfig", dict(config_A_B="vector", config_C="vector", config_D_E="vector")),
    "adalora-pruned": ("AdaLoraConfig", dict(init_r=4, total_step=10, tfinal=2, orth_reg_weight=0.3)),
    "fourierft": ("FourierFTConfig", dict(n_frequency=50, n_frequency_pattern={"down_proj": 30})),
    "waveft": ("WaveFTConfig", dict(n_frequency=120, random_loc_seed=5)),
    "waveft-plain": ("WaveFTConfig", dict(n_frequency=90, use_idwt=False)),
    "shira": ("ShiraConfig", dict(r=2, random_seed=3)),
    "hira": ("HiraConfig", dict(r=3)),
    "hira-embedding": ("HiraConfig", dict(r=3, target_modules=["embed_tokens", "v_proj"])),
    "miss": ("MissConfig", dict(r=7)),
    "miss-bat": ("MissConfig", dict(r=8, init_weights="bat")),
    "miss-mini": ("MissConfig", dict(r=5, mini_r=6, init_weights="mini")),
    "gralora": ("GraloraConfig", dict(r=8, alpha=12, gralora_k=2)),
    "gralora-hybrid": ("GraloraConfig", dict(r=4, alpha=6, gralora_k=4, hybrid_r=2)),
    "delora": ("DeloraConfig", dict(r=3, delora_lambda=4, rank_pattern={"q_proj": 2})),
    "c3a": ("C3AConfig", dict(block_size=8, block_size_pattern={"q_proj": 4}, init_weights=True)),
    "road": ("RoadConfig", dict(group_size=8)),
    "road-2": ("RoadConfig", dict(group_size=4, variant="road_2")),
    "randlora": ("RandLoraConfig", dict(r=5, randlora_alpha=8)),
    "randlora-seed-only": ("RandLoraConfig", dict(r=7, randlora_alpha=9, save_projection=False, projection_prng_key=3)),
    "randlora-sparse": ("RandLoraConfig", dict(r=4, randlora_alpha=6, sparse=True, save_projection=False)),
    "randlora-very-sparse": ("RandLoraConfig", dict(r=4, randlora_alpha=6, very_sparse=True, save_projection=False)),
    "vblora": ("VBLoRAConfig", dict(r=2, num_vectors=12, vector_length=8, topk=3)),
    "road-4": ("RoadConfig", dict(group_size=12, variant="road_4", target_modules=["q_proj", "v_proj"])),
    "boft-number": ("BOFTConfig", dict(boft_block_size=0, boft_block_num=4)),
    "oft-number": ("OFTConfig", dict(oft_block_size=0, r=4, use_cayley_neumann=False)),
    "osf": ("OSFConfig", dict(effective_rank=10, rank_pattern={"up_proj": 0.75, r"layers\.1.*down": 20},
                              target_modules=["q_proj", "up_proj", "down_proj"])),
    "osf-half": ("OSFConfig", dict()),
    "deft-projection": ("DeftConfig", dict(r=4)),
    "deft-projection-qr": ("DeftConfig", dict(r=3, decomposition_method="qr", alpha=6)),
    "deft-projection-para": ("DeftConfig", dict(r=4, para=True, decomposition_method="qr")),
    "adamss": ("AdamssConfig", dict(r=8, num_subspaces=3, subspace_rank=2)),
    "adamss-dynamic": ("AdamssConfig", dict(r=10, num_subspaces=4, subspace_rank=3, use_dynamic_rank=True,
                                            svd_threshold=0.4, random_seed=5,
                                            target_modules=["v_proj", "up_proj", "down_proj"])),
    "frod": ("FrodConfig", dict(sparse_rate=0.05, progressbar=False, projection_prng_key=3)),
    "frod-few": ("FrodConfig", dict(progressbar=False, target_modules=["v_proj", "up_proj"], layers_to_transform=[1])),
    "lily": ("LilyConfig", dict(r=4, num_B=3, scaling=0.7)),
    "lily-stride": ("LilyConfig", dict(r=3, stride_A=2, target_modules=["q_proj", "k_proj", "down_proj"])),
    "peanut": ("PeanutConfig", dict(r=5, scaling=1.5)),
    "peanut-deep": ("PeanutConfig", dict(r=4, depth=2, act_fn="gelu")),
    "poly": ("PolyConfig", dict(r=3, n_tasks=4, n_skills=3)),
    "poly-splits": ("PolyConfig", dict(r=2, n_tasks=3, n_skills=2, n_splits=4)),
    "ln-tuning": ("LNTuningConfig", dict(target_modules=["input_layernorm", "norm"], modules_to_save=["lm_head"])),
    "beft": ("BeftConfig", dict(target_modules=["v_proj", "down_proj"])),
    "kasa": ("LoraConfig", dict(r=3, lora_alpha=6, kasa_config=peft.KasaConfig(beta=0.01, gamma=0.02))),
    "bdlora": ("LoraConfig", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
                                  use_bdlora=peft.BdLoraConfig(target_modules_bd_a=["mlp.down"], nblocks=2,
                                                               target_modules_bd_b=["q_proj"], match_strict=False))),
    "qalora": ("LoraConfig", dict(r=4, lora_alpha=6, use_qalora=True, qalora_group_size=8, use_rslora=True)),
    "mica": ("LoraConfig", dict(r=4, lora_alpha=8, init_lora_weights="mica")),
    "tinylora": ("TinyLoraConfig", dict(r=3, u=6)),
    "tinylora-tied": ("TinyLoraConfig", dict(u=5, weight_tying=0.4, projection_seed=7, save_projection=False)),
    "tinylora-embedding": ("TinyLoraConfig", dict(u=7, weight_tying=1.0, target_modules=["embed_tokens", "v_proj"])),
    "unilora": ("UniLoraConfig", dict(r=3, theta_d_length=50, target_modules=["k_proj", "q_proj", "down_proj"])),
    "unilora-indices": ("UniLoraConfig", dict(theta_d_length=31, proj_seed=7, save_indices=True)),
    "supertuning": ("SupertuningConfig", dict(sparsity=0.9)),
    "supertuning-supra": ("SupertuningConfig", dict(sparsity=0.8, r=3, select_top=False, save_precomputed_indices=False)),
    "alora": ("LoraConfig", dict(r=3, lora_alpha=6, alora_invocation_tokens=[7, 2],
                                 target_modules=["q_proj", "v_proj", "down_proj"])),
    "alora-one": ("LoraConfig", dict(r=4, lora_alpha=6, use_rslora=True, alora_invocation_tokens=[9])),
    "velora": ("LoraConfig", dict(r=4, lora_alpha=6, velora_config=peft.tuners.lora.config.VeloraConfig(num_groups=5))),
    "velora-random": ("LoraConfig", dict(r=3, lora_alpha=6, use_rslora=True, velora_config=peft.tuners.lora.config.VeloraConfig(
        num_groups=8, scale=0.7, init_type="random"))),
    "velora-once": ("LoraConfig", dict(r=2, lora_alpha=6, velora_config=peft.tuners.lora.config.VeloraConfig(
        num_groups=4, init_type="batch_average_once"))),
    "monteclora": ("LoraConfig", dict(r=4, lora_alpha=6, monteclora_config=peft.tuners.lora.config.MontecloraConfig(
        num_samples=5, use_entropy=True, dirichlet_prior=0.7, sample_scaler=0.5, kl_loss_weight=0.01))),
}
# Case -> arguments of X-LoRA over three LoRA adapters of different ranks, scales and modules.
XLORA = {
    "xlora": dict(layerwise_scalings=True, xlora_depth=2, xlora_size=5, xlora_dropout_p=0.0, softmax_temperature=0.7),
    "xlora-top": dict(top_k_lora=2, enable_softmax=False, enable_softmax_topk=True, global_scaling_weight=1.4,
                      scaling_pass_value=0.3),
    "xlora-sparse": dict(top_k_lora=1, layerwise_scalings=True),
    # Dropout numbers the classifier's layers.
    "xlora-deep": dict(xlora_depth=3, xlora_size=6, xlora_dropout_p=0.2),
}
# Case -> arguments of Arrow, and how many general adapters: experts of one rank, alpha and rsLoRA their own.
ARROW = {
    "arrow": (dict(top_k=2, router_temperature=0.7, rng_seed=5), 0),
    "arrow-general": (dict(top_k=3, use_gks=True, rng_seed=2), 2),
}
ARROW_EXPERTS = [dict(lora_alpha=6), dict(lora_alpha=3, use_rslora=True), dict(lora_alpha=2), dict(lora_alpha=4)]
EXPERTS = [
    dict(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
    dict(r=2, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    dict(r=4, lora_alpha=2, target_modules=["embed_tokens", "v_proj"], layers_to_transform=[1]),
]
# Arguments for gpt2, whose maps have biases and transposed weights, of tuners that do something else there.
GPT2_TUNERS = {
    "ia3": dict(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]),
    "deft-projection-qr": dict(target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True),
    "ln-tuning": dict(target_modules=["ln_1", "ln_f"], modules_to_save=None),
    "tinylora": dict(target_modules=["wpe", "c_attn", "mlp.c_proj"], fan_in_fan_out=True),
    "unilora": dict(target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True),
}


class Circular:
    """C3A's convolution with PyTorch's own derivative: the gradient by its input that PEFT 0.20 writes out is wrong."""

    @staticmethod
    def apply(x, kernel):
        return F.linear(x, c3a_utils.get_circulant_fast(kernel))


c3a_layer.BlockCircularConvolution = Circular

resolved = lora_layer.Linear.resolve_lora_variant


def with_qalora(layer, *, config, **kwargs):
    """QA-LoRA's mathematics on plain weights: PEFT uses it for GPTQ's, and ignores the option on others."""
    return QALoraLinearVariant() if config.use_qalora else resolved(layer, config=config, **kwargs)


lora_layer.Linear.resolve_lora_variant = with_qalora


def dirichlet_divergence(sampler, alpha):
    """The divergence from the prior: PEFT 0.21 has the wrong sign at its logarithms of gamma functions."""
    prior = torch.full_like(alpha, sampler.dirichlet_prior)
    return torch.distributions.kl_divergence(Dirichlet(alpha), Dirichlet(prior))


MontecloraSampler.dirichlet_kl = dirichlet_divergence

# Noise for tuners whose numbers must stay small (a series that converges, logarithms of variances), or large.
SMALL = {"oft": 0.02, "oft-exact": 0.1, "oft-number": 0.1, "oft-shared": 0.02, "unilora": 1, "unilora-indices": 1}


# What PEFT does not merge.
UNMERGEABLE = {"LILY", "POLY", "XLORA"}
VARIANTS_UNMERGEABLE = ["use_qalora", "alora_invocation_tokens", "arrow_config"]
# The task that the rows of Poly's cases are of: a key of our own in its config, which PEFT leaves out with a warning.
POLY_TASK = {"tunesmith_task_id": 2}


def given(model, input_ids):
    """What the model is called with."""
    rows = dict(input_ids=input_ids)
    if model.peft_type == "POLY":
        rows["task_ids"] = torch.full([len(input_ids)], POLY_TASK["tunesmith_task_id"])
    return rows


def with_invocation(model, input_ids):
    """aLoRA's invocation twice in the first row: the last one counts."""
    tokens = model.peft_config["default"].to_dict().get("alora_invocation_tokens")
    for place in (2, 7) if tokens else ():
        input_ids[0, place:place + len(tokens)] = torch.tensor(tokens)
    return input_ids


def mergeable(model):
    configs = [config.to_dict() for config in model.peft_config.values()]
    variants = any(config.get(key) for config in configs for key in VARIANTS_UNMERGEABLE)
    return model.peft_type not in UNMERGEABLE and not variants


def base_model(name):
    model = AutoModelForCausalLM.from_pretrained(f"fixtures/models/{name}", attn_implementation="eager",
                                                 dtype=torch.float32)
    return model.eval()


def randomise(model, generator, scale=0.2):
    """Noise on everything trainable; factors that carry meaning (magnitudes, replaced weights) move a little."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "magnitude" in name:
                parameter.mul_(1 + 0.2 * noise)
            else:
                parameter.add_(noise * scale)


def file_name(parameter):
    """The name under which the adapter file holds a parameter of the adapted model."""
    if "vector_bank" in parameter:  # VB-LoRA's bank hangs at every module.
        return "base_model.vblora_vector_bank"
    for shared in ("tinylora_v", "unilora_theta_d"):  # So do these.
        if shared in parameter:
            parameter = "base_model." + parameter[parameter.index(shared):]
    for found, stored in (("modules_to_save.default.", ""), (".default.weight", ".weight"), (".default", "")):
        parameter = parameter.replace(found, stored)
    return parameter.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def with_biases(model):
    """PEFT merges BEFT into biases that are there: llama's maps get zeros."""
    for module in model.modules():
        if hasattr(module, "beft_bias") and module.base_layer.bias is None:
            module.base_layer.bias = torch.nn.Parameter(torch.zeros(module.out_features))


def loss_of(logits, input_ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())


def write_adapter_files(model, folder, generator):
    """A randomised plain adapter."""
    randomise(model, generator)
    model.save_pretrained(folder)
    finish_folder(folder)


def finish_folder(folder, **more):
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    config.update(more)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_adapter(model, folder, case):
    """save_pretrained; the portable PiSSA case is converted to a plain adapter of doubled rank on the original base."""
    generator = torch.Generator().manual_seed(7)
    with tempfile.TemporaryDirectory() as initial:
        if case == "pissa-portable":
            model.peft_config["default"].init_lora_weights = True
            model.save_pretrained(initial)
            model.peft_config["default"].init_lora_weights = "pissa"
        randomise(model, generator, SMALL.get(case, 0.2))
        if case == "adalora-pruned":
            prune(model)
        options = dict(path_initial_model_for_weight_conversion=initial) if case == "pissa-portable" else {}
        model.save_pretrained(folder, **options)
    finish_folder(folder, **(POLY_TASK if model.peft_type == "POLY" else {}))


def prune(model):
    """As its rank allocator leaves it: some triplets off, one module without any."""
    kept = [[True, False, True, True], [False] * 4, [True] * 4, [False, True, False, False]]
    pattern = {}
    with torch.no_grad():
        for name, parameter in model.base_model.model.named_parameters():
            if "lora_E" in name:
                pattern[name] = kept[len(pattern) % 4]
                parameter[~torch.tensor(pattern[name])] = 0
    model.peft_config["default"].rank_pattern = pattern


def given_draws(model, generator):
    """
    Fixes what MonteCLoRA draws, and returns it by map: normal numbers whose squares make the variances (of a row of one
    Wishart matrix), those of the weights, and the mean sample over its deviation. Samples are that one, in proportions
    that give their weighted mean the deviation it has in the mean.
    """
    draws = {}
    for path, module in model.named_modules():
        if not isinstance(module, MontecloraSampler):
            continue
        rank, width, count = module.out_features, module.in_features, module.num_samples
        spread, weights, sample = (torch.randn(shape, generator=generator)
                                   for shape in ((rank, rank), (count,), (rank, width)))
        with torch.no_grad():
            w = torch.softmax(module.dirichlet_reparameterization(module.expert_weights_prior.exp(), weights), -1)
        drawn = dict(z_wishart=spread @ spread.T, z_dirichlet=weights,
                     z_mvn=(w / w.norm())[:, None, None] * sample.T)
        module.sampler.get = lambda drawn=drawn: drawn
        place = path.removeprefix("base_model.model.").removesuffix(".lora_monteclora_sampler.default")
        for key, numbers in dict(spread=spread, weights=weights, sample=sample).items():
            draws[f"noise.{place}.{key}"] = numbers
    return draws


def expected_of(name, folder, generator):
    base = base_model(name)
    experts = {}
    if (folder / "0").is_dir():
        base.config.use_cache = False
        experts["adapters"] = {str(number): str(folder / str(number)) for number in range(len(EXPERTS))}
    model = PeftModel.from_pretrained(base, folder, is_trainable=True, **experts).eval()
    input_ids = with_invocation(model, torch.randint(0, model.config.vocab_size, (2, 12), generator=generator))
    logits = model(**given(model, input_ids)).logits
    # AdaLoRA adds its penalty to the model's own loss.
    penalised = model.peft_type == "ADALORA"
    loss = model(input_ids=input_ids, labels=input_ids).loss if penalised else loss_of(logits, input_ids)
    # What KaSA adds is left to the caller.
    if getattr(model.peft_config["default"], "kasa_config", None):
        loss = loss + model.base_model._get_kasa_loss()
    config, draws = model.peft_config["default"], {}
    # What is done while training only; there is no dropout.
    if getattr(config, "velora_config", None):
        loss = loss_of(model.train()(input_ids).logits, input_ids)
    if getattr(config, "monteclora_config", None):
        draws = given_draws(model, generator)
        loss = loss_of(model.train()(input_ids).logits, input_ids) + model.base_model._get_monteclora_loss()
    loss.backward()
    model.eval()
    stored = load_file(folder / "adapter_model.safetensors")
    expected = {"input_ids": input_ids, "logits": logits, "loss": loss, **draws}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None and parameter.numel() > 0:
            assert file_name(key) in stored, f"{folder.name}: {key} has no tensor {file_name(key)}"
            expected[f"grad.{file_name(key)}"] = parameter.grad
    for key in stored:
        if f"grad.{key}" not in expected:
            print(f"  {folder.name}: {key} is stored but gets no gradient")
    with_biases(model)
    with torch.no_grad():
        if mergeable(model):
            expected["merged_logits"] = model.merge_and_unload()(input_ids).logits
    return {key: value.detach().contiguous() for key, value in expected.items()}


def config_of(name, case, options):
    if case in TUNERS and name == "gpt2":
        kind, own = TUNERS[case]
        return getattr(peft, kind)(**{"task_type": "CAUSAL_LM", **own, **GPT2_TUNERS[case]})
    if case not in TUNERS:
        return LoraConfig(**{**COMMON, "target_modules": DEFAULT_TARGETS[name], "fan_in_fan_out": name == "gpt2",
                             **options})
    kind, own = TUNERS[case]
    return getattr(peft, kind)(**{"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"], **own})


def experts_of(name, folder):
    """The experts' folders below the adapter's own. PEFT demands that experts be called by their numbers."""
    generator = torch.Generator().manual_seed(3)
    for number, options in enumerate(EXPERTS):
        model = get_peft_model(base_model(name), LoraConfig(task_type="CAUSAL_LM", **options))
        write_adapter_files(model, folder / str(number), generator)
    return {str(number): str(folder / str(number)) for number in range(len(EXPERTS))}


def xlora_model(name, case, folder):
    base = base_model(name)
    base.config.use_cache = False
    config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=base.config.hidden_size,
                              adapters=experts_of(name, folder), **XLORA[case])
    return get_peft_model(base, config)


def write_xlora(model, folder):
    """What save_pretrained means to write: it leaves out tensors with an expert's number in their names."""
    randomise(model, torch.Generator().manual_seed(7), 0.5)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        config = json.loads((Path(saved) / "adapter_config.json").read_text())
    tensors = {key: value.detach() for key, value in model.state_dict().items() if "internal_xlora_classifier" in key}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def arrow_adapters(folder, general):
    """Folders of experts and of general adapters, called as PEFT calls them."""
    return ([str(folder / f"task_{number}") for number in range(len(ARROW_EXPERTS))],
            [str(folder / f"gks_{number}") for number in range(general)] or None)


def arrow_model(name, folder, case):
    options, general = ARROW[case]
    experts, others = arrow_adapters(folder, general)
    return create_arrow_model(base_model(name), experts, ArrowConfig(**options), others).eval()


def write_arrow(name, folder, case):
    """The router's folder, and below it the experts': PEFT saves them side by side, general knowledge taken off in place."""
    generator = torch.Generator().manual_seed(3)
    experts, others = arrow_adapters(folder, ARROW[case][1])
    for path, options in zip(experts + (others or []), ARROW_EXPERTS + [dict(lora_alpha=5)] * 2):
        config = LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "down_proj"], **options)
        write_adapter_files(get_peft_model(base_model(name), config), Path(path), generator)
    with tempfile.TemporaryDirectory() as saved:
        arrow_model(name, folder, case).save_pretrained(saved, selected_adapters=["arrow_router"])
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / file).write_bytes((Path(saved) / "arrow_router" / file).read_bytes())
    (folder / "README.md").write_text("")
    finish_folder(folder)


def make_arrow(name, case, seed):
    folder = FOLDER / f"{name}-{case}"
    folder.mkdir(parents=True, exist_ok=True)
    write_arrow(name, folder, case)
    generator = torch.Generator().manual_seed(seed)
    model = arrow_model(name, folder, case)
    input_ids = torch.randint(0, model.config.vocab_size, (2, 12), generator=generator)
    with torch.no_grad():
        logits, base = model(input_ids).logits, base_model(name)(input_ids).logits
    change = (logits - base).abs().max().item()
    assert change > 1e-2, f"{name}-{case} changes nothing"
    save_file({"input_ids": input_ids, "logits": logits.contiguous()}, folder / "expected.safetensors")
    print(f"{name}-{case}: change {change:.3f}")
    return dict(name=f"{name}-{case}", model=name, changeFromBase=round(change, 4), mergedDifference=None)


def make(name, case, options, seed):
    torch.manual_seed(seed)
    folder = FOLDER / f"{name}-{case}"
    folder.mkdir(parents=True, exist_ok=True)
    if case in XLORA:
        model = xlora_model(name, case, folder).eval()
        write_xlora(model, folder)
    else:
        model = get_peft_model(base_model(name), config_of(name, case, options)).eval()
        write_adapter(model, folder, case)
    generator = torch.Generator().manual_seed(seed)
    expected = expected_of(name, folder, generator)
    with torch.no_grad():
        base = base_model(name)(expected["input_ids"]).logits
        in_memory = model(**given(model, expected["input_ids"])).logits
    torch.testing.assert_close(expected["logits"], in_memory, rtol=1e-4, atol=1e-4)
    change = (expected["logits"] - base).abs().max().item()
    assert change > 1e-2, f"{name}-{case} changes nothing"
    save_file(expected, folder / "expected.safetensors")
    merged = (expected["merged_logits"] - expected["logits"]).abs().max().item() if "merged_logits" in expected else None
    print(f"{name}-{case}: change {change:.3f}, merged differs by {merged}")
    return dict(name=f"{name}-{case}", model=name, changeFromBase=round(change, 4), mergedDifference=merged)


def main():
    wanted, table, seed = set(sys.argv[1:]), [], 5000
    for case, by_model in CASES.items():
        for name in ("gpt2", "llama"):
            options = by_model.get(name, by_model.get("both"))
            seed += 1
            if options is not None and (not wanted or f"{name}-{case}" in wanted):
                table.append(make(name, case, options, seed))
    for case in TUNERS:
        seed += 1
        if not wanted or f"llama-{case}" in wanted:
            table.append(make("llama", case, {}, seed))
    for seed, case in enumerate(XLORA, 7000):
        if not wanted or f"llama-{case}" in wanted:
            table.append(make("llama", case, {}, seed))
    for seed, case in enumerate(ARROW, 8000):
        if not wanted or f"llama-{case}" in wanted:
            table.append(make_arrow("llama", case, seed))
    for seed, case in enumerate(GPT2_TUNERS, 6000):
        if not wanted or f"gpt2-{case}" in wanted:
            table.append(make("gpt2", case, {}, seed))
    path = FOLDER / "cases.json"
    made = {entry["name"]: entry for entry in table}
    known = json.loads(path.read_text()) if path.exists() else []
    kept = [made.pop(entry["name"], entry) for entry in known if (FOLDER / entry["name"]).is_dir()]
    path.write_text(json.dumps(kept + list(made.values()), indent=2) + "\n")


if __name__ == "__main__":
    main()
