import { invalid, mean, nonEmpty, sum } from "./check.js";

/** What a search gave for one query, and what it should have given. */
export interface RankedQuery {
  /** Documents, best first. */
  readonly ranked: readonly string[];
  /** Relevant documents with their grade, 1 or more; documents not named have 0. */
  readonly relevant: Readonly<Record<string, number>>;
}

/** Means over queries, 0 to 1. */
export interface RetrievalScores {
  readonly ndcg: number;
  readonly recall: number;
  readonly precision: number;
  readonly mrr: number;
  readonly map: number;
}

const grade = (query: RankedQuery, document: string): number =>
  Object.hasOwn(query.relevant, document) ? (query.relevant[document] as number) : 0;

const relevantCount = ({ relevant }: RankedQuery): number =>
  Object.values(relevant).filter((value) => value > 0).length;

/** Scores of one query at depth `k`; 0 for a query without a relevant document. */
export function scoreQuery(query: RankedQuery, k = Number.POSITIVE_INFINITY): RetrievalScores {
  if (new Set(query.ranked).size !== query.ranked.length) {
    invalid("retrieval", "a ranking names a document twice", "name each document once");
  }
  const top = query.ranked.slice(0, k);
  const grades = top.map((document) => grade(query, document));
  const total = relevantCount(query);
  if (total === 0) return { ndcg: 0, recall: 0, precision: 0, mrr: 0, map: 0 };
  const discounted = (values: readonly number[]) => sum(values.map((value, at) => value / Math.log2(at + 2)));
  const ideal = Object.values(query.relevant)
    .filter((value) => value > 0)
    .sort((a, b) => b - a)
    .slice(0, k);
  const hits = grades.filter((value) => value > 0).length;
  const first = grades.findIndex((value) => value > 0);
  let seen = 0;
  const precisions = grades.map((value, at) => (value > 0 ? ++seen / (at + 1) : 0));
  return {
    ndcg: discounted(grades) / discounted(ideal),
    recall: hits / total,
    precision: hits / (Number.isFinite(k) ? k : Math.max(1, top.length)),
    mrr: first < 0 ? 0 : 1 / (first + 1),
    map: sum(precisions) / total,
  };
}

/**
 * nDCG, recall, precision, reciprocal rank and average precision at depth `k`, averaged over queries, as trec_eval (nDCG
 * with the grade itself as gain).
 *
 * @param k how many documents of each ranking count; default all
 * @throws `data-empty` without queries; `data-invalid` for a ranking that names a document twice.
 * @example
 * ```ts
 * import { retrievalScores } from "tunesmith/training";
 * const { ndcg, mrr } = retrievalScores([{ ranked: ["d3", "d1"], relevant: { d1: 2 } }], 10);
 * ```
 */
export function retrievalScores(queries: readonly RankedQuery[], k?: number): RetrievalScores {
  nonEmpty("retrieval", queries);
  if (k !== undefined && (!Number.isInteger(k) || k < 1)) {
    invalid("retrieval", `k is ${k}`, "give a whole number of at least 1");
  }
  const scores = queries.map((query) => scoreQuery(query, k));
  const of = (key: keyof RetrievalScores) => mean(scores.map((score) => score[key]));
  return {
    ndcg: of("ndcg"),
    recall: of("recall"),
    precision: of("precision"),
    mrr: of("mrr"),
    map: of("map"),
  };
}
