/** One measured quantity and what the theory, or the paper, says it is. */
export interface Check {
  readonly what: string;
  readonly measured: number;
  readonly expected: number;
  /** Largest difference allowed: absolute, or relative to `expected` with `relative`. */
  readonly tolerance: number;
  readonly relative?: boolean;
}

/** A small experiment that a wrong implementation fails. One file each; listed in run.ts. */
export interface Proof {
  readonly name: string;
  readonly title: string;
  /** arXiv identifiers, or addresses of papers that are not there. */
  readonly papers: readonly string[];
  run(): Promise<readonly Check[]>;
}

export function holds({ measured, expected, tolerance, relative }: Check): boolean {
  const allowed = relative ? tolerance * Math.abs(expected) : tolerance;
  return Math.abs(measured - expected) <= allowed;
}

/** A measurement that must lie in a range. */
export const between = (what: string, measured: number, low: number, high: number): Check => ({
  what,
  measured,
  expected: (low + high) / 2,
  tolerance: (high - low) / 2,
});

/** What does not hold. */
export async function failing(proof: Proof): Promise<string[]> {
  return (await proof.run()).filter((check) => !holds(check)).map(({ what }) => what);
}
