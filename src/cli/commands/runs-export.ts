import type { z } from "zod";
import { writeFileAtomic } from "#io";
import {
  findRun,
  metricsCsv,
  openEventFile,
  type RunRecord,
  type RunStore,
  runJsonLines,
} from "../../training/index.js";
import type { Context } from "../command.js";
import { configMarkdown } from "../tracking/follow.js";
import { withStore } from "../tracking/location.js";
import type { runsExportSchema } from "../tracking/schemas.js";

export function runRunsExport(options: z.output<typeof runsExportSchema>, { ui }: Context): Promise<void> {
  return withStore(options.track, async (store) => {
    const run = await findRun(store, options.run);
    const path = await exporters[options.format](store, run, options.out);
    ui.say(`wrote ${path}`);
    ui.result({ run: run.id, format: options.format, path });
  });
}

const exporters = {
  async jsonl(store: RunStore, run: RunRecord, path: string) {
    await writeFileAtomic(
      path,
      runJsonLines(run, await store.metrics(run.id), await store.artifacts(run.id)),
    );
    return path;
  },
  async csv(store: RunStore, run: RunRecord, path: string) {
    await writeFileAtomic(path, metricsCsv(await store.metrics(run.id)));
    return path;
  },
  async tensorboard(store: RunStore, run: RunRecord, folder: string) {
    const events = await openEventFile(folder, { name: run.id, createdAt: run.createdAt });
    await events.text("config", configMarkdown(run.config));
    const points = await store.metrics(run.id);
    await events.write([...points].sort((a, b) => a.step - b.step));
    await events.close();
    return events.path;
  },
};
