"""Writes src/training/scores/scores.fixture.json: small inputs with what the usual Python packages score them.

Usage: python scripts/reference/make_scores_fixture.py
Needs scikit-learn, scipy, sacrebleu, rouge-score, seqeval, jiwer and pytrec-eval-terrier (see requirements.txt).
MASE, sMAPE and ECE are their papers' formulas in numpy; SQuAD's scores are the formulas of its evaluation script.
"""

import collections
import json
import re
import string
import warnings
from pathlib import Path

import jiwer
import numpy as np
import pytrec_eval
import sacrebleu
import seqeval.metrics as seq
import seqeval.scheme as schemes
from rouge_score import rouge_scorer
from scipy import stats
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics as sk

warnings.filterwarnings("ignore")
OUT = Path(__file__).resolve().parents[2] / "src/training/scores/scores.fixture.json"
rng = np.random.default_rng(3)


def classification(expected, predicted):
    averages = {}
    for kind in ("micro", "macro", "weighted"):
        p, r, f, _ = sk.precision_recall_fscore_support(expected, predicted, average=kind, zero_division=0)
        averages[kind] = {"precision": p, "recall": r, "f1": f}
    p, r, f, s = sk.precision_recall_fscore_support(expected, predicted, zero_division=0)
    kappa = sk.cohen_kappa_score(expected, predicted)
    return {
        "expected": expected,
        "predicted": predicted,
        "labels": sorted(set(expected) | set(predicted)),
        "counts": sk.confusion_matrix(expected, predicted).tolist(),
        "accuracy": sk.accuracy_score(expected, predicted),
        "balancedAccuracy": sk.balanced_accuracy_score(expected, predicted),
        "mcc": sk.matthews_corrcoef(expected, predicted),
        "kappa": None if np.isnan(kappa) else kappa,
        "classes": [list(row) for row in zip(p.tolist(), r.tolist(), f.tolist(), s.tolist())],
        **averages,
    }


def auc(expected, scores):
    return {"expected": expected, "scores": scores, "auc": sk.roc_auc_score(expected, scores)}


def squad_normalize(text):
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(prediction, reference):
    a, b = squad_normalize(prediction).split(), squad_normalize(reference).split()
    if not a or not b:
        return float(a == b)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    if common == 0:
        return 0.0
    p, r = common / len(a), common / len(b)
    return 2 * p * r / (p + r)


def squad(predictions, references):
    pairs = list(zip(predictions, references))
    em = [max(float(squad_normalize(p) == squad_normalize(r)) for r in rs) for p, rs in pairs]
    f1 = [max(squad_f1(p, r) for r in rs) for p, rs in pairs]
    return {"exactMatch": 100 * float(np.mean(em)), "f1": 100 * float(np.mean(f1))}


TEXTS = [
    ("The cat sat on the mat.", ["The cat is on the mat.", "There is a cat on the mat, sitting."]),
    ("He said: \"It's 3.5% higher-than expected\" &amp; left\n", ["He said \"it's 3.5% higher than expected\" and left."] * 2),
    ("Costs rose by 1,200.50 in 2021-22", ["Costs rose by 1,200.50 during 2021-22.", "Costs went up."]),
    ("Übermäßig große Straßenbäume", ["Übermäßig grosse Straßenbäume!", "große Bäume"]),
    ("", ["nothing at all", "something"]),
    ("the the the the the the the", ["the cat is on the mat", "the dog"]),
    ("日本語の文章です", ["日本語の文です", "日本の文章"]),
    ("(hello) world!", ["(hello, world)", "hello world"]),
]
PREDICTIONS = [p for p, _ in TEXTS]
REFERENCES = [r for _, r in TEXTS]


def translation(predictions, references):
    streams = [list(stream) for stream in zip(*references)]
    result = sacrebleu.corpus_bleu(predictions, streams)
    sentence = sacrebleu.metrics.BLEU(effective_order=True)
    return {
        "predictions": predictions,
        "references": references,
        "bleu": result.score,
        "precisions": result.precisions,
        "brevityPenalty": result.bp,
        "lengths": [result.sys_len, result.ref_len],
        "bleuLower": sacrebleu.corpus_bleu(predictions, streams, lowercase=True).score,
        "bleuPlain": sacrebleu.corpus_bleu(predictions, streams, tokenize="none").score,
        "sentences": [sentence.sentence_score(p, r).score for p, r in zip(predictions, references)],
        "chrf": sacrebleu.corpus_chrf(predictions, streams).score,
        "chrfPlusPlus": sacrebleu.corpus_chrf(predictions, streams, word_order=2).score,
        "chrfSentences": [sacrebleu.sentence_chrf(p, r).score for p, r in zip(predictions, references)],
    }


def rouge(predictions, references):
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(names)
    rows = [
        [max(scorer.score(ref, p)[name].fmeasure for ref in refs) for name in names]
        for p, refs in zip(predictions, references)
    ]
    return dict(zip(names, np.mean(rows, axis=0).tolist()))


def spans(scheme, expected, predicted):
    mode = {} if scheme is None else {"mode": "strict", "scheme": getattr(schemes, scheme)}
    if scheme is None:
        found = [[[t, s, e + 1] for t, s, e in get_entities(tags)] for tags in expected]
    else:
        kind = getattr(schemes, scheme)
        found = [[[e.tag, e.start, e.end] for e in schemes.Tokens(tags, kind).entities] for tags in expected]
    averages = {}
    for kind in ("micro", "macro", "weighted"):
        averages[kind] = {
            "precision": float(seq.precision_score(expected, predicted, average=kind, zero_division=0, **mode)),
            "recall": float(seq.recall_score(expected, predicted, average=kind, zero_division=0, **mode)),
            "f1": float(seq.f1_score(expected, predicted, average=kind, zero_division=0, **mode)),
        }
    return {
        "scheme": scheme,
        "expected": expected,
        "predicted": predicted,
        "spans": found,
        "accuracy": float(seq.accuracy_score(expected, predicted)),
        **averages,
    }


def random_tags(prefixes, sentences=12):
    tags = ["O"] + [f"{p}-{t}" for p in prefixes for t in ("PER", "LOC")]
    lengths = np.random.default_rng(len(prefixes)).integers(3, 9, sentences)
    return [[tags[i] for i in rng.integers(0, len(tags), n)] for n in lengths]


def retrieval():
    queries = [
        {"ranked": ["d3", "d1", "d7", "d2"], "relevant": {"d1": 2, "d2": 1, "d9": 3}},
        {"ranked": ["d5", "d6"], "relevant": {"d5": 1}},
        {"ranked": ["d1", "d2", "d3"], "relevant": {"d8": 1}},
        {"ranked": ["d4", "d2", "d8", "d1", "d5"], "relevant": {"d1": 1, "d2": 1, "d4": 0}},
    ]
    runs = {str(i): {d: float(-r) for r, d in enumerate(q["ranked"])} for i, q in enumerate(queries)}
    qrels = {str(i): q["relevant"] for i, q in enumerate(queries)}

    def score(k):
        names = {f"ndcg_cut.{k}", f"recall.{k}", f"P.{k}", f"map_cut.{k}", "recip_rank"}
        rows = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(
            {q: dict(list(run.items())[:k]) for q, run in runs.items()}
        )
        of = lambda name: float(np.mean([row[name] for row in rows.values()]))
        return {
            "k": k,
            "ndcg": of(f"ndcg_cut_{k}"),
            "recall": of(f"recall_{k}"),
            "precision": of(f"P_{k}"),
            "map": of(f"map_cut_{k}"),
            "mrr": of("recip_rank"),
        }

    return {"queries": queries, "scores": [score(k) for k in (1, 2, 3, 10)]}


def regression():
    y = np.round(rng.normal(size=12), 2)
    p = np.round(y + 0.4 * rng.normal(size=12), 2)
    y[3], p[3] = 0, 0
    history = np.round(rng.normal(size=20), 2)
    mae = np.abs(y - p).mean()
    size = np.abs(y) + np.abs(p)
    tied = np.round(p)
    return {
        "expected": y.tolist(),
        "predicted": p.tolist(),
        "history": history.tolist(),
        "tied": tied.tolist(),
        "mae": sk.mean_absolute_error(y, p),
        "mse": sk.mean_squared_error(y, p),
        "rmse": sk.root_mean_squared_error(y, p),
        "r2": sk.r2_score(y, p),
        "mase1": mae / np.abs(history[1:] - history[:-1]).mean(),
        "mase4": mae / np.abs(history[4:] - history[:-4]).mean(),
        "smape": 200 * np.mean(np.where(size == 0, 0, np.abs(y - p) / np.where(size == 0, 1, size))),
        "pearson": stats.pearsonr(y, tied).statistic,
        "spearman": stats.spearmanr(y, tied).statistic,
        "kendall": stats.kendalltau(y, tied).statistic,
    }


def calibration():
    logits = np.round(2 * rng.normal(size=(60, 4)), 2)
    probabilities = np.round(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 4)
    probabilities[:, 3] = np.round(1 - probabilities[:, :3].sum(1), 4)
    labels = [int(rng.choice(4, p=row / row.sum())) for row in probabilities]
    confidence = probabilities.max(1)
    correct = (probabilities.argmax(1) == labels).astype(float)

    def ece(groups):
        return float(sum(len(g) * abs(correct[g].mean() - confidence[g].mean()) for g in groups if len(g)) / 60)

    edges = np.linspace(0, 1, 11)
    width = [np.where((confidence > low) & (confidence <= high))[0] for low, high in zip(edges, edges[1:])]
    mass = np.array_split(np.argsort(confidence, kind="stable"), 7)
    one_hot = np.eye(4)[labels]
    return {
        "probabilities": probabilities.tolist(),
        "labels": labels,
        "ece10": ece(width),
        "ece7Mass": ece(mass),
        "brier": float(((probabilities - one_hot) ** 2).sum(1).mean()),
        "nll": sk.log_loss(labels, probabilities / probabilities.sum(1, keepdims=True), labels=range(4)),
    }


def comparison():
    a, b = np.round(rng.normal(size=10), 2), np.round(rng.normal(0.4, 1, size=10), 2)
    exact = stats.permutation_test(
        (a, b), lambda x, y: np.mean(y) - np.mean(x), permutation_type="samples", n_resamples=np.inf
    )
    return {"a": a.tolist(), "b": b.tolist(), "pValue": float(exact.pvalue)}


SPOKEN = ["the  cat sat on the mat ", "hello world", "", "it is what it is"]
HEARD = ["the cat sit on mat", "hello", "oh", "it is what is it"]
three = [["a", "b", "c"][i] for i in rng.integers(0, 3, 40)]
guess = [x if rng.random() < 0.6 else ["a", "b", "d"][rng.integers(0, 3)] for x in three]
MIXED = ["B", "I", "E", "S"]

fixture = {
    "classification": [
        classification(three, guess),
        classification([int(x) for x in rng.integers(0, 2, 30)], [int(x) for x in rng.integers(0, 2, 30)]),
        classification(["a", "a", "a"], ["a", "a", "a"]),
        classification(["a", "b", "a"], ["a", "a", "a"]),
    ],
    "auc": [
        auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]),
        auc([int(x) for x in rng.integers(0, 2, 40)], [float(x) for x in np.round(rng.random(40), 1)]),
    ],
    "squad": {"predictions": PREDICTIONS, "references": REFERENCES, **squad(PREDICTIONS, REFERENCES)},
    "translation": [
        translation(PREDICTIONS, REFERENCES),
        translation(PREDICTIONS[:1], REFERENCES[:1]),
        translation(["a b"], [["a b"]]),
        translation(["x y z w"], [["a b c d"]]),
    ],
    "rouge": {"predictions": PREDICTIONS, "references": REFERENCES, **rouge(PREDICTIONS, REFERENCES)},
    "spans": [
        spans(None, random_tags(MIXED), random_tags(MIXED)),
        spans(None, [["O", "O"]], [["O", "B-LOC"]]),
        *(spans(s, random_tags(s[0:1] + s[2:3]), random_tags(s[0:1] + s[2:3])) for s in ("IOB1", "IOB2", "IOE1", "IOE2")),
        spans("IOBES", random_tags(MIXED), random_tags(MIXED)),
        spans("BILOU", random_tags(["B", "I", "L", "U"]), random_tags(["B", "I", "L", "U"])),
    ],
    "speech": {
        "references": SPOKEN[:2] + SPOKEN[3:],
        "predictions": HEARD[:2] + HEARD[3:],
        "wer": jiwer.wer(SPOKEN[:2] + SPOKEN[3:], HEARD[:2] + HEARD[3:]),
        "cer": jiwer.cer(SPOKEN[:2] + SPOKEN[3:], HEARD[:2] + HEARD[3:]),
    },
    "retrieval": retrieval(),
    "regression": regression(),
    "calibration": calibration(),
    "comparison": comparison(),
}
OUT.write_text(json.dumps(fixture, ensure_ascii=False, default=float) + "\n")
print(OUT, OUT.stat().st_size)
