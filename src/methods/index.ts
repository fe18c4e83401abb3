export {
  type AdaptOptions,
  adapt,
  adapterNamed,
  type EffectOptions,
  loadAdapter,
  type SaveAdapterOptions,
  saveAdapter,
  setActive,
  setScale,
  unload,
} from "./adapt.js";
export { type Adapted, type AdaptedLm, isAdapted } from "./adapted.js";
export type { Adapter, AdapterSite } from "./adapter.js";
export {
  type AlignmentConfig,
  type AlignmentOptions,
  alignmentSchema,
  alignTasks,
  type TaskGap,
  taskGaps,
} from "./align.js";
export {
  type AttentionGradient,
  type AttentionHead,
  type FastGradientOptions,
  fastLoraAttentionGrad,
  featureCount,
  loraAttentionGrad,
  type Meter,
} from "./analysis/attention-gradient.js";
export { type LoraCost, type LoraFlops, type LoraSiteCost, loraCost } from "./analysis/lora-cost.js";
export {
  type HeadEfficiency,
  type LoraEfficiencyOptions,
  loraEfficiency,
} from "./analysis/lora-efficiency.js";
export { type Sized, trainedNumbers } from "./budget.js";
export { byTask, setTask } from "./by-task.js";
export { type CalibrateOptions, type Calibration, calibrate } from "./calibration.js";
export { callMethod, type LoneMap } from "./call-method.js";
export { type ChainOptions, type Knot, trainChain } from "./chain.js";
export { siteConfigSchema } from "./config.js";
export { applyDelta, type DeltaReport, saveDelta } from "./delta.js";
export { type DensityOptions, deft, softDensity } from "./density.js";
export { checkFingerprint, type Fingerprint, fingerprint, fingerprintHash } from "./fingerprint.js";
export * from "./formats/index.js";
export {
  type FullConfig,
  freeze,
  fullSchema,
  isUnfrozen,
  type Unfrozen,
  type UnfrozenLm,
  unfreeze,
} from "./full.js";
export { type AdaloraConfig, adalora, adaloraMethod } from "./lowrank/adalora.js";
export { type AdamssConfig, adamss, adamssMethod } from "./lowrank/adamss.js";
export { type AloraConfig, alora, aloraMethod } from "./lowrank/alora.js";
export { type BdloraConfig, bdlora, bdloraMethod } from "./lowrank/bdlora.js";
export {
  type DeftProjectionConfig,
  deftProjection,
  deftProjectionMethod,
} from "./lowrank/deft-projection.js";
export { type DeloraConfig, delora, deloraMethod } from "./lowrank/delora.js";
export { type DifforaConfig, diffora, difforaMethod } from "./lowrank/diffora.js";
export { leastEigenvalue, type ModuleKernelOptions, moduleKernels } from "./lowrank/diffora-kernel.js";
export {
  type GateEvent,
  type ModuleSearch,
  type ModuleSearchOptions,
  type SearchHalf,
  searchModules,
} from "./lowrank/diffora-search.js";
export { type ModuleTable, type SelectOptions, selectModules } from "./lowrank/diffora-table.js";
export { type DynamicDoraConfig, dynamicDora, dynamicDoraMethod } from "./lowrank/dora-dynamic.js";
export { type ElaloraConfig, elalora, elaloraMethod } from "./lowrank/elalora.js";
export { type FrodConfig, frod, frodMethod } from "./lowrank/frod.js";
export { type GloraConfig, type GloraForms, glora, gloraForms, gloraMethod } from "./lowrank/glora.js";
export { formsAt, gloraChoices, setForms } from "./lowrank/glora-paths.js";
export {
  extractGlora,
  type GloraCandidate,
  type GloraSearchOptions,
  type GloraSelection,
  gloraParameters,
  searchForms,
  searchGlora,
} from "./lowrank/glora-search.js";
export { type GraloraConfig, gralora, graloraMethod } from "./lowrank/gralora.js";
export { type HiraConfig, hira, hiraMethod } from "./lowrank/hira.js";
export { type HydraConfig, hydra, hydraMethod } from "./lowrank/hydra.js";
export { type KadaptationConfig, kadaptation, kadaptationMethod } from "./lowrank/kadaptation.js";
export { type KasaConfig, kasa, kasaMethod } from "./lowrank/kasa.js";
export { type KradapterConfig, khatriRaoWidths, kradapter, kradapterMethod } from "./lowrank/kradapter.js";
export { type LilyConfig, lily, lilyMethod } from "./lowrank/lily.js";
export { type LohaConfig, loha, lohaMethod } from "./lowrank/loha.js";
export { kroneckerSizes, type LokrConfig, lokr, lokrMethod } from "./lowrank/lokr.js";
export { type LolduConfig, loldu, lolduMethod } from "./lowrank/loldu.js";
export { type LoraConfig, lora, loraMethod } from "./lowrank/lora.js";
export { type LormaConfig, lorma, lormaMethod } from "./lowrank/lorma.js";
export { type MapConfig, type MapOptions, map, mapOver } from "./lowrank/map.js";
export { type MissConfig, miss, missMethod } from "./lowrank/miss.js";
export {
  dirichletDivergence,
  type MontecloraConfig,
  monteclora,
  montecloraMethod,
} from "./lowrank/monteclora.js";
export { type PeanutConfig, peanut, peanutMethod } from "./lowrank/peanut.js";
export { type PolyConfig, poly, polyMethod } from "./lowrank/poly.js";
export { type PveraConfig, pvera, pveraMethod } from "./lowrank/pvera.js";
export { type QaloraConfig, qalora, qaloraMethod } from "./lowrank/qalora.js";
export { type RandloraConfig, randlora, randloraMethod } from "./lowrank/randlora.js";
export { movesAt, ranksOf } from "./lowrank/rank-moves.js";
export { alternating, type SsmloraConfig, ssmlora, ssmloraMethod } from "./lowrank/ssmlora.js";
export { type TinyloraConfig, tinylora, tinyloraMethod } from "./lowrank/tinylora.js";
export { type UniloraConfig, unilora, uniloraMethod } from "./lowrank/unilora.js";
export { type UoraConfig, uora, uoraMethod } from "./lowrank/uora.js";
export { type VbloraConfig, vblora, vbloraMethod } from "./lowrank/vblora.js";
export { type VeloraConfig, velora, veloraMethod } from "./lowrank/velora.js";
export { type VeraConfig, vera, veraMethod } from "./lowrank/vera.js";
export type { TensorChangeNorm } from "./measure.js";
export { type MergeOptions, merge } from "./merge.js";
export type {
  Adaptation,
  BaseTensor,
  HookContext,
  HookSite,
  InitContext,
  Method,
  Settling,
  SharedInitContext,
  SharedSpec,
  SiteCall,
  SiteConfig,
  SiteShape,
  SiteTensors,
  Statistic,
  TensorSpec,
  TensorValues,
} from "./method.js";
export {
  type ArrowConfig,
  type ArrowMethod,
  type ArrowOptions,
  arrowOver,
  arrowSchema,
} from "./mixture/arrow.js";
export { type ArrowSettings, arrow } from "./mixture/arrow-experts.js";
export type { ExpertSource } from "./mixture/read-experts.js";
export { type SmoreConfig, smore, smoreMethod } from "./mixture/smore.js";
export { type XloraConfig, type XloraMethod, type XloraOptions, xloraOver } from "./mixture/xlora.js";
export { type XloraSettings, xlora } from "./mixture/xlora-experts.js";
export {
  type Mpo,
  type MpoGauge,
  type MpoOptions,
  type MpoShape,
  mpoContract,
  mpoCounts,
  mpoDecompose,
  mpoFactors,
  mpoRegauge,
  mpoShape,
} from "./mpo/chain.js";
export type { MpoGroup } from "./mpo/group.js";
export {
  isMpoModel,
  type MpoModel,
  type MpoModelConfig,
  mpoMerge,
  mpoModel,
} from "./mpo/model.js";
export { type MpoConfig, mpo, mpoMethod } from "./mpo/mpo.js";
export { type Ia3Config, ia3, ia3Method } from "./multiplicative/ia3.js";
export { type RoadConfig, road, roadMethod } from "./multiplicative/road.js";
export { type BoftConfig, boft, boftMethod, butterflyOrder } from "./orthogonal/boft.js";
export { type ConceptOverlap, mergeConcepts, overlapReport } from "./orthogonal/concepts.js";
export { type GoftConfig, goft, goftMethod, rotationTree } from "./orthogonal/goft.js";
export { type HraConfig, hra, hraMethod } from "./orthogonal/hra.js";
export { type OftConfig, oft, oftMethod } from "./orthogonal/oft.js";
export {
  basisName,
  conceptBasis,
  type OrthogonalAdaptationConfig,
  orthogonalAdaptation,
  orthogonalAdaptationMethod,
} from "./orthogonal/orthogonal-adaptation.js";
export { type OsfConfig, osf, osfMethod } from "./orthogonal/osf.js";
export { type PsoftConfig, psoft, psoftMethod } from "./orthogonal/psoft.js";
export { evenFactors, type SodaConfig, soda, sodaMethod } from "./orthogonal/soda.js";
export { type StiefelOptions, type StiefelState, stiefelState, stiefelStep } from "./orthogonal/stiefel.js";
export type { PassText } from "./pass-text.js";
export { type LoadAdapterOptions, loadPeft } from "./peft/load.js";
export { savePeft } from "./peft/save.js";
export { type AlphaTuningConfig, alphaTuning, alphaTuningMethod } from "./quantised/alphatuning.js";
export {
  type Allocation,
  type AllocationItem,
  allocateBits,
} from "./quantised/bit-allocation.js";
export {
  type LqDecomposition,
  type LqFactors,
  type LqOptions,
  lqDecompose,
} from "./quantised/lq-decomposition.js";
export {
  type LqAdapted,
  type LqLoraConfig,
  type LqReport,
  type LqSite,
  lqLora,
  lqLoraMethod,
} from "./quantised/lq-lora.js";
export { type LqPlanOptions, type LqWeight, lqCandidates, lqPlan } from "./quantised/lq-plan.js";
export {
  buildSketch,
  readSketch,
  type Sketch,
  type SketchLayout,
  type SketchOptions,
} from "./quantised/sketch.js";
export { type SketchTuneConfig, sketchTune, sketchTuneMethod } from "./quantised/sketchtune.js";
export type { QuantizedMergeOptions } from "./quantized-merge.js";
export { relativeRates } from "./rates.js";
export {
  formatReceipt,
  type QuantizedMergeReport,
  type Receipt,
  type ReceiptAction,
  type Receipted,
  type ReceiptOptions,
  type RequantizedSite,
  receiptOf,
} from "./receipt.js";
export {
  applyMethod,
  describeMethod,
  type MethodEntry,
  type MethodSearch,
  methodNamed,
  methodNames,
} from "./registry.js";
export { type FineGatesConfig, fineGates, fineGatesMethod } from "./sparse/fine-gates.js";
export {
  type LtSftConfig,
  type LtSftOptions,
  ltSft,
  pulledToBase,
  type SparselyTuned,
} from "./sparse/lt-sft.js";
export { type NeuroadaConfig, neuroada, neuroadaMethod } from "./sparse/neuroada.js";
export {
  applyPatch,
  composePatches,
  loadPatch,
  patchOf,
  type SparseChange,
  type SparsePatch,
  savePatch,
} from "./sparse/patch.js";
export { type RosaConfig, rosa, rosaMethod } from "./sparse/rosa.js";
export { type Projection, type SelektConfig, type Selekted, selekt } from "./sparse/selekt.js";
export { type ShiraConfig, shira, shiraMethod } from "./sparse/shira.js";
export { type SupertuningConfig, supertuning, supertuningMethod } from "./sparse/supertuning.js";
export { type C3aConfig, c3a, c3aMethod } from "./spectral/c3a.js";
export { type FourierftConfig, fourierft, fourierftMethod } from "./spectral/fourierft.js";
export { type WaveftConfig, waveft, waveftMethod } from "./spectral/waveft.js";
export { type TallyOptions, talliesOf } from "./tallies.js";
export { isTarget, selectTargets, type TargetSelection } from "./targets.js";
export {
  klDistance,
  MMD_BANDWIDTHS,
  mmdDistance,
  type TaskDistance,
  type TaskFeatures,
} from "./task-distance.js";
export { toLora } from "./to-lora.js";
export { trainableCount } from "./trainable-count.js";
export { type BeftConfig, beft, beftMethod } from "./whole/beft.js";
export { type BitfitConfig, bitfit, bitfitMethod } from "./whole/bitfit.js";
export { type LnTuningConfig, lnTuning, lnTuningMethod } from "./whole/ln-tuning.js";
