"""Writes fixtures/tokenizers/pairs.json: tokenizers of BERT's, T5's, XLM-RoBERTa's and RoBERTa's kind, tiny, with the ids
that the Rust library gives for texts and for pairs of texts (`ids`, `types`), and for BERT's also `vocab` (vocab.txt) and
`config` (tokenizer_config.json) that transformers' converter turns into the same.

Needs tokenizers, sentencepiece; run from the repository root, after make_tokenizer_fixture.py.
"""

import base64
import json

from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = "fixtures/tokenizers"
CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox doesn't.",
    "She sells sea shells by the sea shore, and the shells she sells are sea shells for sure.",
    "How much wood would a woodchuck chuck if a woodchuck could chuck wood? 12 or 345 logs!",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Größe, Straße, über.",
    "日本語のテキストも少しだけ。 Привет, мир! Ça va très bien, merci.",
]
TEXTS = [
    "", " ", "The quick brown fox", "  leading and trailing  ", "the shells she sells\n\nare   sea\tshells",
    "Größe über Straße — naïve café, CAFÉ", "日本語 テキスト mixed with English 한국어 \U00020000",
    "emoji 🎉👩‍👩‍👧 and e\u0301 combining E\u0301", "byte order \ufeffmark, next \u0085 nbsp \u00a0 zero\u200bwidth \u2028",
    "don't we'll I'M 12345 3.14 x²½ $5 a+b=c ~`^", "ΟΔΟΣ İstanbul", "control \x01\x02 \x00 \ufffd chars",
    "ﬁ ligature ２ full width Ａ", "a[SEP]b [MASK] c</s> <mask> d", "unknownword" * 12,
]
PAIRS = [("The fox", "the dog"), ("sea shells", ""), ("", "shore"), ("a", "b c [SEP]</s>"), ("über", "日本")]


def wordpiece(lowercase):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def charsmap():
    with open(f"{OUT}/spm-unigram.model", "rb") as file:
        return sentencepiece_model_pb2.ModelProto.FromString(file.read()).normalizer_spec.precompiled_charsmap


def unigram(split, single, pair):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Precompiled(charsmap())
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace]) if split else metaspace
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
                                      unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def roberta():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def case(name, tokenizer):
    content = json.loads(tokenizer.to_str())
    assert not content["normalizer"] or "precompiled_charsmap" not in content["normalizer"] or base64.b64decode(
        content["normalizer"]["precompiled_charsmap"])
    encoded = [tokenizer.encode(text).ids for text in TEXTS]
    pairs = [tokenizer.encode(*pair) for pair in PAIRS]
    result = {
        "name": name, "json": content, "texts": TEXTS, "ids": encoded,
        "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded],
        "pairs": [{"texts": pair, "ids": each.ids, "types": each.type_ids} for pair, each in zip(PAIRS, pairs)],
    }
    if name.startswith("bert"):
        vocab = tokenizer.get_vocab()
        result["vocab"] = "\n".join(sorted(vocab, key=vocab.get)) + "\n"
        result["config"] = {} if "uncased" in name else {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}
    return result


cases = [
    case("bert-uncased", wordpiece(True)),
    case("bert-cased", wordpiece(False)),
    case("t5", unigram(False, "$A </s>", "$A </s> $B </s>")),
    case("xlm-roberta", unigram(True, "<s> $A </s>", "<s> $A </s> </s> $B </s>")),
    case("roberta", roberta()),
]
with open(f"{OUT}/pairs.json", "w") as file:
    json.dump(cases, file, ensure_ascii=True, separators=(",", ":"))
    file.write("\n")
