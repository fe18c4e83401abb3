const NAMES = `
  Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor Not IsNaN IsInf
  Shape Size NonZero ArgMax ArgMin Hardmax Floor Ceil Round Sign
  ConstantOfShape EyeLike RandomNormalLike RandomUniformLike tunesmith.StopGradient`;

/**
 * Operators whose derivative is zero almost everywhere, or that read only the shape of a value: nothing flows back
 * through them, on purpose. Every other operator without a rule is an error. A straight-through estimate is the
 * caller's choice (`ops.customVjp`).
 */
export const stops: ReadonlySet<string> = new Set(NAMES.trim().split(/\s+/));
