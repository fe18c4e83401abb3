// Runs the experiments and writes what was measured: npm run proofs -- [NAME ...]
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { adaloraProof } from "./adalora.js";
import { alignProof } from "./align-lora.js";
import { aloraProof } from "./alora.js";
import { alphaTuningProof } from "./alphatuning.js";
import { arrowProof } from "./arrow.js";
import { boftProof } from "./boft.js";
import { colaProof } from "./cola.js";
import { cordaProof } from "./corda.js";
import { dAdaptationProof } from "./d-adaptation.js";
import { deftProof } from "./deft.js";
import { deloraProof } from "./delora.js";
import { difforaProof } from "./diffora.js";
import { doraProof } from "./dora.js";
import { dynamicDoraProof } from "./dora-dynamic.js";
import { elaloraProof } from "./elalora.js";
import { bdloraProof, frodProof, qaloraProof } from "./factor-structures.js";
import { fastForwardProof } from "./fast-forward.js";
import { fineGatesProof } from "./fine-gates.js";
import { gloraProof } from "./glora.js";
import { hraProof } from "./hra.js";
import { hydraProof } from "./hydra.js";
import { kadaptationProof } from "./kadaptation.js";
import { kradapterProof } from "./kradapter.js";
import { lilyProof } from "./lily.js";
import { lolduProof } from "./loldu.js";
import { loraProof } from "./lora.js";
import { limitsProof } from "./lora-computational-limits.js";
import { loraStartsProof } from "./lora-starts.js";
import { montecloraProof, veloraProof } from "./lora-variants.js";
import { lormaProof } from "./lorma.js";
import {
  graloraProof,
  hiraProof,
  lohaProof,
  lokrProof,
  missProof,
  randloraProof,
  veraProof,
} from "./lowrank-structures.js";
import { lqLoraProof } from "./lq-lora.js";
import { ltSftProof } from "./lt-sft.js";
import { mapProof } from "./map.js";
import { mpoProof } from "./mpo.js";
import { ia3Proof, oftProof, roadProof } from "./multiplicative-structures.js";
import { neuroadaProof } from "./neuroada.js";
import { orthogonalAdaptationProof } from "./orthogonal-adaptation.js";
import { peanutProof } from "./peanut.js";
import { polyProof } from "./poly.js";
import { holds, type Proof } from "./proof.js";
import { psoftProof } from "./psoft.js";
import { pveraProof } from "./pvera.js";
import { qgoftProof } from "./qgoft.js";
import { rosaProof } from "./rosa.js";
import { selektProof } from "./selekt.js";
import { sketchTuneProof } from "./sketchtune.js";
import { smoreProof } from "./smore.js";
import { sodaProof } from "./soda.js";
import {
  c3aProof,
  fourierftProof,
  shiraProof,
  supertuningProof,
  waveftProof,
} from "./spectral-structures.js";
import { ssmloraProof } from "./ssmlora.js";
import { adamssProof, deftProjectionProof, kasaProof, osfProof } from "./subspace-structures.js";
import { tinyloraProof } from "./tinylora.js";
import { uniloraProof } from "./unilora.js";
import { uoraProof } from "./uora.js";
import { vbloraProof } from "./vblora.js";
import { beftProof, bitfitProof, lnTuningProof } from "./vectors.js";
import { xloraProof } from "./xlora.js";

/** Every experiment; a new one is its file and one line here. */
const proofs: readonly Proof[] = [
  gloraProof(),
  elaloraProof(),
  mapProof(),
  ssmloraProof(),
  peanutProof(),
  lilyProof(),
  polyProof(),
  xloraProof(),
  difforaProof(),
  aloraProof(),
  veloraProof(),
  montecloraProof(),
  arrowProof(),
  alignProof(),
  smoreProof(),
  colaProof(),
  dynamicDoraProof(),
  hydraProof(),
  lolduProof(),
  lormaProof(),
  uoraProof(),
  tinyloraProof(),
  uniloraProof(),
  kradapterProof(),
  pveraProof(),
  cordaProof(),
  loraProof(),
  dAdaptationProof(),
  fastForwardProof(),
  neuroadaProof(),
  boftProof(),
  hraProof(),
  psoftProof(),
  qgoftProof(),
  sodaProof(),
  orthogonalAdaptationProof(),
  kadaptationProof(),
  rosaProof(),
  selektProof(),
  ltSftProof(),
  fineGatesProof(),
  deftProof(),
  alphaTuningProof(),
  sketchTuneProof(),
  mpoProof(),
  lqLoraProof(),
  limitsProof(),
  lohaProof(),
  lokrProof(),
  hiraProof(),
  veraProof(),
  randloraProof(),
  graloraProof(),
  missProof(),
  fourierftProof(),
  waveftProof(),
  c3aProof(),
  shiraProof(),
  supertuningProof(),
  ia3Proof(),
  roadProof(),
  oftProof(),
  adaloraProof(),
  deloraProof(),
  doraProof(),
  loraStartsProof(),
  vbloraProof(),
  osfProof(),
  deftProjectionProof(),
  adamssProof(),
  frodProof(),
  kasaProof(),
  qaloraProof(),
  bdloraProof(),
  bitfitProof(),
  beftProof(),
  lnTuningProof(),
];

const wanted = process.argv.slice(2);
const unknown = wanted.find((name) => !proofs.some((proof) => proof.name === name));
if (unknown !== undefined) {
  console.error(`no proof '${unknown}'; there are: ${proofs.map(({ name }) => name).join(", ")}`);
  process.exit(2);
}
const folder = join(process.env.TUNESMITH_ROOT ?? ".", "proofs/results");
mkdirSync(folder, { recursive: true });
let failures = 0;
for (const proof of proofs.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
  const started = performance.now();
  const checks = (await proof.run()).map((check) => ({ ...check, holds: holds(check) }));
  const seconds = (performance.now() - started) / 1000;
  console.log(`${proof.name}: ${proof.title} (${proof.papers.join(", ")}), ${seconds.toFixed(1)} s`);
  for (const { what, measured, expected, tolerance, relative, holds: ok } of checks) {
    const within = relative ? `${tolerance * 100} %` : String(tolerance);
    console.log(
      `  ${ok ? "ok  " : "FAIL"} ${what}: ${measured.toPrecision(5)}, expected ${expected.toPrecision(5)} within ${within}`,
    );
    if (!ok) failures++;
  }
  const { name, title, papers } = proof;
  writeFileSync(
    join(folder, `${name}.json`),
    `${JSON.stringify({ name, title, papers, checks }, null, 2)}\n`,
  );
}
console.log(`${failures} failures`);
process.exit(failures > 0 ? 1 : 0);
