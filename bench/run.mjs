// Tunesmith against PyTorch + PEFT on this machine, side by side in one run: alternating processes, medians, ratios.
//   npm run bench -- [--json] [--only step,prefix] [--update bench/results.json] [--rounds 3]
// The peer lives in a throw-away Python environment: TUNESMITH_BENCH_PYTHON, or one that is made under .cache/.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { alternate, makeConvNet, makeModels, ours, oursFromSource, peer, peerPython } from "./measure.mjs";
import { sections } from "./sections.mjs";

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    only: { type: "string" },
    update: { type: "string" },
    rounds: { type: "string", default: "3" },
  },
});
const wanted = values.only?.split(",");
const say = (text) => process.stderr.write(`${text}\n`);
const unknown = wanted?.find((name) => !sections.some((section) => section.name === name));
if (unknown)
  throw new Error(`no section '${unknown}'; there are: ${sections.map(({ name }) => name).join(", ")}`);

// Made when a section first asks for them: not every section has PyTorch as its peer.
let [environment, folders] = [undefined, undefined];
const python = () => {
  environment ??= peerPython(say);
  return environment;
};
const tools = {
  alternate,
  ours,
  oursFromSource,
  peer: (options, script) => peer(python(), options, script),
  get convNet() {
    return makeConvNet(python(), say);
  },
  get models() {
    folders ??= makeModels(python(), say);
    return folders;
  },
  rounds: Number(values.rounds),
  say,
};
const results = {};
for (const { name, title, run } of sections) {
  if (wanted && !wanted.includes(name)) continue;
  say(`\n# ${title}`);
  results[name] = await run(tools);
  for (const row of results[name].rows ?? []) say(formatRow(row));
}
const report = { machine: { cpu: cpus()[0]?.model, cores: cpus().length, node: process.version }, results };
if (values.update) {
  // Raw reports of single runs stay out of the file; sections that were not run again stay in it.
  const before = existsSync(values.update) ? JSON.parse(readFileSync(values.update, "utf8")).results : {};
  const slim = Object.fromEntries(
    Object.entries(results).map(([name, { reports, ...rest }]) => [name, rest]),
  );
  writeFileSync(
    values.update,
    `${JSON.stringify({ ...report, results: { ...before, ...slim } }, null, 2)}\n`,
  );
}
if (values.json) console.log(JSON.stringify(report));

function formatRow({ what, ours: mine, peer: theirs, ratio, target, unit = "" }) {
  const figure = (value) => (value === undefined ? "" : `${Number(value.toFixed(3))}${unit}`);
  const goal =
    target === undefined
      ? ""
      : `  target <= ${Number(target.toFixed(3))} ${ratio <= target ? "met" : "MISSED"}`;
  const against = theirs === undefined ? "" : ` vs ${figure(theirs)}`;
  return `${what.padEnd(52)} ${figure(mine)}${against}  ratio ${Number(ratio.toFixed(3))}${goal}`;
}
