export {
  knnAffinity,
  linearAffinity,
  nearestNeighbours,
  pairwiseDistances,
  rbfAffinity,
} from "./affinity.js";
export { type BootstrapInterval, type BootstrapOptions, bootstrapInterval } from "./bootstrap.js";
export { cholesky } from "./cholesky.js";
export { linearCka } from "./cka.js";
export { type SymmetricEigen, symmetricEigen } from "./eigh.js";
export { matrixExponential } from "./expm.js";
export { type Complex, fft, fft2, ifft, ifft2 } from "./fft.js";
export { type GemmBackend, type GemmOptions, gemm, gemmInThread } from "./gemm.js";
export { type GemmSession, type GemmTensor, gemmOnRuntime } from "./gemm-ort.js";
export { haar2d, inverseHaar2d } from "./haar.js";
export { type KMeansOptions, kMeans } from "./k-means.js";
export { inversePermutation, type Ldu, type Lu, ldu, lu } from "./lu.js";
export {
  diagonal,
  frobeniusNorm,
  identity,
  type Matrix,
  type Matrix64,
  matrix,
  maxAbs,
  scaleColumns,
  slice,
  toFloat32,
  toFloat64,
  transpose,
  zeros,
} from "./matrix.js";
export { type PowerIterationOptions, powerIteration, type SingularTriple } from "./power-iteration.js";
export { nearestOrthogonal, type Procrustes, procrustes } from "./procrustes.js";
export { khatriRao, kronecker } from "./products.js";
export { type Qr, qr } from "./qr.js";
export { orthogonalColumns } from "./random-orthogonal.js";
export { type RandomizedSvdOptions, randomizedSvd } from "./randomized-svd.js";
export { silhouette } from "./silhouette.js";
export { type SinkhornOptions, sinkhorn, type TransportPlan } from "./sinkhorn.js";
export { inverse, leastSquares, pseudoInverse, solve } from "./solve.js";
export { numericalRank, type Svd, svd } from "./svd.js";
