import { adaloraMethod } from "./lowrank/adalora.js";
import { deloraMethod } from "./lowrank/delora.js";
import { dynamicDoraMethod } from "./lowrank/dora-dynamic.js";
import { gloraMethod } from "./lowrank/glora.js";
import { graloraMethod } from "./lowrank/gralora.js";
import { hiraMethod } from "./lowrank/hira.js";
import { hydraMethod } from "./lowrank/hydra.js";
import { kadaptationMethod } from "./lowrank/kadaptation.js";
import { kradapterMethod } from "./lowrank/kradapter.js";
import { lohaMethod } from "./lowrank/loha.js";
import { lokrMethod } from "./lowrank/lokr.js";
import { lolduMethod } from "./lowrank/loldu.js";
import { loraMethod } from "./lowrank/lora.js";
import { lormaMethod } from "./lowrank/lorma.js";
import { missMethod } from "./lowrank/miss.js";
import { pveraMethod } from "./lowrank/pvera.js";
import { uoraMethod } from "./lowrank/uora.js";
import { veraMethod } from "./lowrank/vera.js";
import type { Method, SiteConfig } from "./method.js";
import { ia3Method } from "./multiplicative/ia3.js";
import { roadMethod } from "./multiplicative/road.js";
import { boftMethod } from "./orthogonal/boft.js";
import { goftMethod } from "./orthogonal/goft.js";
import { hraMethod } from "./orthogonal/hra.js";
import { oftMethod } from "./orthogonal/oft.js";
import { orthogonalAdaptationMethod } from "./orthogonal/orthogonal-adaptation.js";
import { psoftMethod } from "./orthogonal/psoft.js";
import { sodaMethod } from "./orthogonal/soda.js";
import { neuroadaMethod } from "./sparse/neuroada.js";
import { rosaMethod } from "./sparse/rosa.js";
import { shiraMethod } from "./sparse/shira.js";
import { c3aMethod } from "./spectral/c3a.js";
import { fourierftMethod } from "./spectral/fourierft.js";
import { waveftMethod } from "./spectral/waveft.js";

/** Every method that reparametrises sites; a new one is its file and one line here. */
export const siteMethods = [
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
  lohaMethod,
  lokrMethod,
  adaloraMethod,
  gloraMethod,
  fourierftMethod,
  waveftMethod,
  shiraMethod,
  hiraMethod,
  missMethod,
  graloraMethod,
  deloraMethod,
  c3aMethod,
  roadMethod,
  neuroadaMethod,
] as unknown as readonly Method<SiteConfig>[];
