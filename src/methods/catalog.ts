import { adaloraMethod } from "./lowrank/adalora.js";
import { adamssMethod } from "./lowrank/adamss.js";
import { aloraMethod } from "./lowrank/alora.js";
import { bdloraMethod } from "./lowrank/bdlora.js";
import { deftProjectionMethod } from "./lowrank/deft-projection.js";
import { deloraMethod } from "./lowrank/delora.js";
import { difforaMethod } from "./lowrank/diffora.js";
import { dynamicDoraMethod } from "./lowrank/dora-dynamic.js";
import { elaloraMethod } from "./lowrank/elalora.js";
import { frodMethod } from "./lowrank/frod.js";
import { gloraMethod } from "./lowrank/glora.js";
import { graloraMethod } from "./lowrank/gralora.js";
import { hiraMethod } from "./lowrank/hira.js";
import { hydraMethod } from "./lowrank/hydra.js";
import { kadaptationMethod } from "./lowrank/kadaptation.js";
import { kasaMethod } from "./lowrank/kasa.js";
import { kradapterMethod } from "./lowrank/kradapter.js";
import { lilyMethod } from "./lowrank/lily.js";
import { lohaMethod } from "./lowrank/loha.js";
import { lokrMethod } from "./lowrank/lokr.js";
import { lolduMethod } from "./lowrank/loldu.js";
import { loraMethod } from "./lowrank/lora.js";
import { lormaMethod } from "./lowrank/lorma.js";
import { mapOver } from "./lowrank/map.js";
import { missMethod } from "./lowrank/miss.js";
import { montecloraMethod } from "./lowrank/monteclora.js";
import { peanutMethod } from "./lowrank/peanut.js";
import { polyMethod } from "./lowrank/poly.js";
import { pveraMethod } from "./lowrank/pvera.js";
import { qaloraMethod } from "./lowrank/qalora.js";
import { randloraMethod } from "./lowrank/randlora.js";
import { ssmloraMethod } from "./lowrank/ssmlora.js";
import { tinyloraMethod } from "./lowrank/tinylora.js";
import { uniloraMethod } from "./lowrank/unilora.js";
import { uoraMethod } from "./lowrank/uora.js";
import { vbloraMethod } from "./lowrank/vblora.js";
import { veloraMethod } from "./lowrank/velora.js";
import { veraMethod } from "./lowrank/vera.js";
import type { Method, SiteConfig } from "./method.js";
import { smoreMethod } from "./mixture/smore.js";
import { mpoMethod } from "./mpo/mpo.js";
import { ia3Method } from "./multiplicative/ia3.js";
import { roadMethod } from "./multiplicative/road.js";
import { boftMethod } from "./orthogonal/boft.js";
import { goftMethod } from "./orthogonal/goft.js";
import { hraMethod } from "./orthogonal/hra.js";
import { oftMethod } from "./orthogonal/oft.js";
import { orthogonalAdaptationMethod } from "./orthogonal/orthogonal-adaptation.js";
import { osfMethod } from "./orthogonal/osf.js";
import { psoftMethod } from "./orthogonal/psoft.js";
import { sodaMethod } from "./orthogonal/soda.js";
import { alphaTuningMethod } from "./quantised/alphatuning.js";
import { sketchTuneMethod } from "./quantised/sketchtune.js";
import { fineGatesMethod } from "./sparse/fine-gates.js";
import { neuroadaMethod } from "./sparse/neuroada.js";
import { rosaMethod } from "./sparse/rosa.js";
import { shiraMethod } from "./sparse/shira.js";
import { supertuningMethod } from "./sparse/supertuning.js";
import { c3aMethod } from "./spectral/c3a.js";
import { fourierftMethod } from "./spectral/fourierft.js";
import { waveftMethod } from "./spectral/waveft.js";
import { beftMethod } from "./whole/beft.js";
import { bitfitMethod } from "./whole/bitfit.js";
import { lnTuningMethod } from "./whole/ln-tuning.js";

/** A new method is its file and one line here. */
const methods = [
  loraMethod,
  veraMethod,
  pveraMethod,
  dynamicDoraMethod,
  hydraMethod,
  uoraMethod,
  kradapterMethod,
  lolduMethod,
  lormaMethod,
  boftMethod,
  oftMethod,
  hraMethod,
  psoftMethod,
  goftMethod,
  sodaMethod,
  orthogonalAdaptationMethod,
  kadaptationMethod,
  rosaMethod,
  ia3Method,
  tinyloraMethod,
  uniloraMethod,
  supertuningMethod,
  lnTuningMethod,
  bitfitMethod,
  beftMethod,
  lohaMethod,
  lokrMethod,
  adaloraMethod,
  gloraMethod,
  elaloraMethod,
  ssmloraMethod,
  difforaMethod,
  smoreMethod,
  fourierftMethod,
  waveftMethod,
  shiraMethod,
  neuroadaMethod,
  hiraMethod,
  missMethod,
  graloraMethod,
  deloraMethod,
  c3aMethod,
  mpoMethod,
  roadMethod,
  randloraMethod,
  vbloraMethod,
  peanutMethod,
  lilyMethod,
  polyMethod,
  fineGatesMethod,
  alphaTuningMethod,
  sketchTuneMethod,
  osfMethod,
  deftProjectionMethod,
  frodMethod,
  adamssMethod,
  bdloraMethod,
  kasaMethod,
  qaloraMethod,
  aloraMethod,
  veloraMethod,
  montecloraMethod,
] as unknown as readonly Method<SiteConfig>[];

/** MAP over those of them that add to the weight. */
export const mapMethod = mapOver(methods.filter(({ additive }) => additive));

/** Every method that reparametrises sites. */
export const siteMethods = [...methods, mapMethod] as unknown as readonly Method<SiteConfig>[];
