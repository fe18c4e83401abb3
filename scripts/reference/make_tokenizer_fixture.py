"""Writes fixtures/tokenizers: tiny tokenizers and what Python's libraries make of some texts.

Needs sentencepiece, tokenizers and jinja2; run from the repository root.
"""

import json
import os
import tempfile

import sentencepiece as spm
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = "fixtures/tokenizers"
os.makedirs(OUT, exist_ok=True)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox doesn't.",
    "She sells sea shells by the sea shore, and the shells she sells are sea shells for sure.",
    "How much wood would a woodchuck chuck if a woodchuck could chuck wood? 12 or 345 logs!",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Größe, Straße, über.",
    "function add(a, b) {\n  return a + b;\n}\n\nconst total = add(1, 2);\n\tconsole.log(total);",
    "日本語のテキストも少しだけ。 Привет, мир! Ça va très bien, merci.",
    "aaaa aaa aa a aaaaa bababa babab abab  double  spaces   and more    spaces",
]
TEXTS = [
    "",
    " ",
    "The quick brown fox",
    "  leading and trailing  ",
    "the shells she sells\n\nare   sea\tshells",
    "Größe über Straße — naïve café",
    "日本語 テキスト mixed with English 한국어",
    "emoji 🎉👩‍👩‍👧 flags 🇩🇪 and e\u0301 combining",
    "byte order \ufeffmark, next line \u0085 and nbsp \u00a0 zero\u200bwidth",
    "don't we'll they've I'M 12345 3.14 x²½",
    "function add(a, b) {\r\n\treturn a+b; // sum\r\n}",
    "aaaaaaa bababababa",
    "\U00010348 gothic, control \x01\x02 chars",
    "ﬁ ligature ２ full width Ａ",
]


def dump(name, value):
    with open(f"{OUT}/{name}", "w") as file:
        json.dump(value, file, ensure_ascii=True, separators=(",", ":"))
        file.write("\n")


def sentencepiece_models():
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        rules = f"{folder}/rules.tsv"
        with open(rules, "w") as file:
            for source, target in [("\ufb01", "fi"), ("\u00a0", " "), ("e\u0301", "é"), ("\t", " "), ("\n", " "), ("Ａ", "A")]:
                left = " ".join(f"{ord(c):X}" for c in source)
                right = " ".join(f"{ord(c):X}" for c in target)
                file.write(f"{left}\t{right}\n")
        settings = {
            "spm-unigram": dict(model_type="unigram", vocab_size=150, normalization_rule_tsv=rules),
            "spm-unigram-bytes": dict(model_type="unigram", vocab_size=390, byte_fallback=True, normalization_rule_name="identity"),
            "spm-bpe": dict(
                model_type="bpe", vocab_size=420, byte_fallback=True, normalization_rule_name="identity",
                remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
                user_defined_symbols=["<sep>"],
            ),
        }
        for name, options in settings.items():
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter(CORPUS * 3), model_prefix=f"{folder}/{name}", hard_vocab_limit=False,
                character_coverage=0.98, minloglevel=2, num_threads=1, **options,
            )
            processor = spm.SentencePieceProcessor(model_file=f"{folder}/{name}.model")
            texts = TEXTS + (["a <sep>b<sep>"] if name == "spm-bpe" else [])
            with open(f"{folder}/{name}.model", "rb") as source, open(f"{OUT}/{name}.model", "wb") as target:
                target.write(source.read())
            for text in texts:
                ids = processor.encode(text)
                cases.append({"model": name, "text": text, "ids": ids, "decoded": processor.decode(ids)})
    dump("sentencepiece.json", cases)


def json_tokenizers():
    """Ids by the Rust library for pre-tokenizers whose JavaScript versions need care."""
    def bpe(pre, normalizer=None, decoder=None, vocab_size=330, **kw):
        tokenizer = Tokenizer(models.BPE(**kw))
        tokenizer.pre_tokenizer = pre
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.decoder = decoder or decoders.ByteLevel()
        byte_level = decoder is None
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, show_progress=False, special_tokens=["<|endoftext|>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else [],
        )
        tokenizer.train_from_iterator(CORPUS, trainer)
        return tokenizer

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizers = {
        "gpt2": bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "digits": bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
        "punctuation": bpe(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), byte_level])),
        "words": bpe(pre_tokenizers.Whitespace(), decoder=decoders.BPEDecoder(), unk_token="<unk>", vocab_size=200),
    }
    llama = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    llama.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)],
    )
    llama.train_from_iterator(CORPUS[:3], trainer)
    llama.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizers["llama"] = llama
    cases = []
    for name, tokenizer in tokenizers.items():
        content = json.loads(tokenizer.to_str())
        # The byte tokens are vocabulary, not added tokens, in real files.
        content["added_tokens"] = [t for t in content["added_tokens"] if not t["content"].startswith("<0x")]
        tokenizer = Tokenizer.from_str(json.dumps(content))
        texts = TEXTS + ["a<|endoftext|>b <s>c</s> d"]
        encoded = [tokenizer.encode(text).ids for text in texts]
        decoded = [tokenizer.decode(ids, skip_special_tokens=False) for ids in encoded]
        cases.append({"name": name, "json": content, "texts": texts, "ids": encoded, "decoded": decoded})
    dump("tokenizers.json", cases)


def bpe_training():
    cases = []
    for texts, vocab_size, min_frequency in [(CORPUS, 400, 2), (CORPUS, 1000, 1), (["aaaa aaaaaaa ababab"] * 3, 300, 2), (CORPUS, 300, 5)]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        content = json.loads(tokenizer.to_str())
        cases.append({
            "texts": texts, "vocabSize": vocab_size, "minFrequency": min_frequency,
            "merges": [" ".join(pair) for pair in content["model"]["merges"]],
            "size": tokenizer.get_vocab_size(),
        })
    dump("bpe-training.json", cases)


CHATML = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
LLAMA2 = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
BLOCKS = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<a>' }}
        {%- generation %}
        {{- message.content | trim }}
        {{- '</a>' }}
        {%- endgeneration %}
    {%- else %}
        {{- '<' ~ message.role ~ '>' ~ message.content ~ '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}{{- '<a>' }}{%- endif %}
"""


def chat_templates():
    conversations = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}],
        [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": " 4 "}, {"role": "user", "content": "3+3?"},
            {"role": "assistant", "content": "6"},
        ],
    ]
    import re
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    cases = []
    for name, template in [("chatml", CHATML), ("llama2", LLAMA2), ("blocks", BLOCKS)]:
        # The tags only mark; transformers' extension for them renders what is between.
        plain = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", template)
        plain = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", plain)
        for messages in conversations:
            for prompt in (False, True):
                shown = messages[:-1] if prompt else messages
                text = environment.from_string(plain).render(
                    messages=shown, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>", tools=None
                )
                cases.append({"name": name, "template": template, "messages": shown, "addGenerationPrompt": prompt, "text": text})
    dump("chat.json", cases)


sentencepiece_models()
json_tokenizers()
bpe_training()
chat_templates()
