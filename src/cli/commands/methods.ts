import { describeMethod, methodNamed, methodNames } from "../../methods/index.js";
import type { Context } from "../command.js";
import { fieldOf } from "../config/flags.js";
import { table } from "../ui.js";

export async function runMethods({ ui }: Context): Promise<void> {
  if (ui.json) return ui.result({ methods: methodNames.map((name) => describeMethod(methodNamed(name))) });
  for (const name of methodNames) {
    const { summary, paper, options } = methodNamed(name);
    ui.say(`${name}: ${summary}${paper ? ` (arXiv ${paper})` : ""}`);
    const fields = Object.entries(options.shape).map(([key, schema]) => fieldOf(key, schema as never));
    ui.say(table(fields.map(({ flag, description }) => [flag, description])));
    ui.say();
  }
}
