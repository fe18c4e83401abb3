/** Entries that transformers takes only as floating-point numbers, wherever a config comes from. */
const FLOATS =
  /(dropout|pdrop|layerdrop|_prob|_eps|_epsilon|initializer_factor|initializer_range|rope_theta)$/;
/** `"key": 1.0` */
const WHOLE_FLOAT = /"([^"\\]+)"\s*:\s*-?\d+\.0+(?=[\s,}\]])/g;

/**
 * A config as text. JavaScript has one kind of number and would write 1.0 as 1, which newer transformers refuse: entries
 * that the original text writes with a point, and those known to be such, keep it.
 */
export function configText(config: Readonly<Record<string, unknown>>, original = ""): string {
  const floats = new Set([...original.matchAll(WHOLE_FLOAT)].map(([, key]) => key));
  const isFloat = (key: string) => floats.has(key) || FLOATS.test(key);
  const text = JSON.stringify(config, undefined, 2).replace(
    /^(\s*"([^"\\]+)": )(-?\d+)(?=,?$)/gm,
    (line, start: string, key: string, digits: string) => (isFloat(key) ? `${start}${digits}.0` : line),
  );
  return `${text}\n`;
}
