/** How tags mark spans. */
export type Scheme = "IOB1" | "IOB2" | "IOE1" | "IOE2" | "IOBES" | "BILOU";

/** Pairs of neighbouring prefixes with whether their types are the `same`, `diff`erent, or `any`; `*` is any prefix. */
export interface SchemeRules {
  readonly allowed: string;
  readonly start: readonly string[];
  readonly inside: readonly string[];
  readonly end: readonly string[];
}

/** The rules as seqeval's scheme.py states them. */
export const SCHEMES: Readonly<Record<Scheme, SchemeRules>> = {
  IOB1: {
    allowed: "IOB",
    start: ["O I any", "I I diff", "B I any", "I B same", "B B same"],
    inside: ["B I same", "I I same"],
    end: ["I I diff", "I O any", "I B any", "B O any", "B I diff", "B B same"],
  },
  IOB2: {
    allowed: "IOB",
    start: ["* B any"],
    inside: ["B I same", "I I same"],
    end: ["I O any", "I I diff", "I B any", "B O any", "B I diff", "B B any"],
  },
  IOE1: {
    allowed: "IOE",
    start: ["O I any", "I I diff", "E I any", "E E same"],
    inside: ["I I same", "I E same"],
    end: ["I I diff", "I O any", "I E diff", "E I same", "E E same"],
  },
  IOE2: {
    allowed: "IOE",
    start: ["O I any", "O E any", "E I any", "E E any", "I I diff", "I E diff"],
    inside: ["I E same", "I I same"],
    end: ["E * any"],
  },
  IOBES: {
    allowed: "IOBES",
    start: ["* B any", "* S any"],
    inside: ["B I same", "B E same", "I I same", "I E same"],
    end: ["S * any", "E * any"],
  },
  BILOU: {
    allowed: "BILOU",
    start: ["* B any", "* U any"],
    inside: ["B I same", "B L same", "I I same", "I L same"],
    end: ["U * any", "L * any"],
  },
};
