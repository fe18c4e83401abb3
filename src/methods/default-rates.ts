// Written by scripts/sweep-methods.mjs: the learning rate of the lowest held-out loss, by method.
export const rates: Readonly<Record<string, number>> = {};
