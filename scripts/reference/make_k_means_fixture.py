"""Clusters that scikit-learn finds, and draws of NumPy's RandomState.

    .cache/reference/bin/python scripts/reference/make_k_means_fixture.py

Writes src/runtime/linalg/k-means.fixture.json: points, the rows each run starts from and the labels it ends with. The
third case repeats rows, so that a cluster loses all of its own.
"""

import json
import warnings
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

OUT = Path(__file__).resolve().parents[2] / "src/runtime/linalg/k-means.fixture.json"
SEED = 123456789


def case(points, clusters, iterations):
    n = len(points)
    start = np.random.RandomState(SEED).choice(n, size=clusters, replace=False, p=np.full(n, 1 / n))
    run = KMeans(n_clusters=clusters, init="random", n_init=1, max_iter=iterations, random_state=SEED)
    labels = run.fit_predict(points.astype("float32"))
    return dict(rows=n, cols=points.shape[1], iterations=iterations, data=points.ravel().tolist(),
                start=start.tolist(), labels=labels.tolist())


def main():
    warnings.simplefilter("ignore")
    random = np.random.RandomState(3)
    draw = lambda n, d: random.randn(n, d).round(2)
    cases = [case(draw(24, 3), 3, 10), case(draw(60, 2), 5, 2)]
    repeated = draw(12, 2)
    repeated[np.random.RandomState(SEED).choice(12, size=4, replace=False, p=np.full(12, 1 / 12))[1:3]] = [0.5, -0.25]
    cases.append(case(repeated, 4, 10))
    OUT.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
