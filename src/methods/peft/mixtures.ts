import { z } from "zod";
import { type LilyConfig, lilyMethod } from "../lowrank/lily.js";
import { type PeanutConfig, peanutMethod } from "../lowrank/peanut.js";
import { type PolyConfig, polyMethod, TASK_KEY } from "../lowrank/poly.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";

const size = (standard: number) => z.number().int().positive().default(standard);

/** Key of our own in Lily's files: the targets as they were given, since they say which modules share. */
const TARGETS_KEY = "tunesmith_targets";
/** Key of our own in Poly's files: the task that was chosen last. */
const TASK_ID_KEY = "tunesmith_task_id";

/** Lily. What modules share is written at each of them. */
export const lilyMapping: PeftMapping<LilyConfig> = {
  peftType: "LILY",
  method: lilyMethod,
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: size(32),
        stride_A: size(1),
        num_B: size(2),
        scaling: z.number().default(1),
        [TARGETS_KEY]: z.string().optional(),
      }),
      config,
      file,
    );
    const targets = own[TARGETS_KEY];
    return {
      rank: own.r,
      stride: own.stride_A,
      experts: own.num_B,
      scale: own.scaling,
      ...(targets === undefined ? {} : { targets }),
    };
  },
  config: (own) => ({
    r: own.rank,
    stride_A: own.stride,
    num_B: own.experts,
    scaling: own.scale,
    init_weights: true,
    ...(typeof own.targets === "string" ? { [TARGETS_KEY]: own.targets } : {}),
  }),
  suffix: (key) => `${key}.weight`,
  sharedName: (key) => `base_model.model.${key}.weight`,
};

/** PEANuT. */
export const peanutMapping: PeftMapping<PeanutConfig> = {
  peftType: "PEANUT",
  method: peanutMethod,
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: size(32),
        depth: z.number().int().nonnegative().default(0),
        act_fn: z.string().default("relu"),
        scaling: z.number().default(1),
      }),
      config,
      file,
    );
    return { rank: own.r, depth: own.depth, activation: own.act_fn, scale: own.scaling };
  },
  config: (own) => ({
    r: own.rank,
    depth: own.depth,
    act_fn: own.activation,
    scaling: own.scale,
    init_weights: true,
  }),
  suffix: (key) => `${key}.weight`,
};

/** Poly. PEFT is given the tasks of a batch's rows; here one task is chosen. */
export const polyMapping: PeftMapping<PolyConfig> = {
  peftType: "POLY",
  method: polyMethod,
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: size(8),
        n_tasks: size(1),
        n_skills: size(4),
        n_splits: size(1),
        poly_type: z.literal("poly").default("poly"),
        [TASK_ID_KEY]: z.number().int().nonnegative().default(0),
      }),
      config,
      file,
    );
    const { n_tasks: tasks, n_skills: skills, n_splits: splits } = own;
    return { rank: own.r, tasks, skills, splits, taskId: own[TASK_ID_KEY] };
  },
  config: (own, { shared }) => ({
    r: own.rank,
    n_tasks: own.tasks,
    n_skills: own.skills,
    n_splits: own.splits,
    poly_type: "poly",
    init_weights: true,
    [TASK_ID_KEY]: Number(shared[TASK_KEY]?.tensor.data[0]),
  }),
  suffix: (key) => (key === "poly_logits" ? "poly_router.module_logits" : key),
};
