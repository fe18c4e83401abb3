/** A section of the page for files that stay: picked once, kept in the browser's own file system. */
import { removeStoredFiles, type StoredFiles, storedFiles, storeFiles } from "tunesmith";
import { element, reported } from "./page.js";

/**
 * Wires the section `name`: its file fields, dropping files on it, its list of what is stored and the button that removes.
 *
 * @returns Gives the set that is chosen.
 */
export async function fileSection(
  name: string,
  onChoice: (chosen: StoredFiles | undefined) => Promise<void>,
) {
  const root = `/stored/${name}`;
  const [section, list] = [element("section", name), element("select", `${name}-stored`)];
  let sets: readonly StoredFiles[] = [];
  const chosen = () => sets.find(({ id }) => id === list.value);

  async function show(id: string | null): Promise<void> {
    sets = await storedFiles({ root });
    const label = ({ files, bytes }: StoredFiles) =>
      `${files.map((file) => file.name).join(", ")} (${(bytes / 1e6).toFixed(1)} MB)`;
    list.replaceChildren(...sets.map((set) => new Option(label(set), set.id, false, set.id === id)));
    if (id !== null) localStorage.setItem(name, id);
    await onChoice(chosen());
  }

  const store = (files: Iterable<File>) =>
    reported(async (status) => {
      // Asks that the browser does not clear this site's files when the disk gets full.
      await navigator.storage.persist();
      const onProgress = ({ phase, done, total }: { phase: string; done: number; total: number }) =>
        status(`${phase} ${Math.round((100 * done) / total)} %`);
      const stored = await storeFiles(files, { root, onProgress });
      await show(stored.id);
      status("stored");
    });

  for (const field of section.querySelectorAll<HTMLInputElement>("input[type=file]"))
    field.addEventListener("change", () => field.files?.length && store(field.files));
  section.addEventListener("dragover", (event) => event.preventDefault());
  section.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer?.files.length) store(event.dataTransfer.files);
  });
  list.addEventListener("change", () => reported(() => show(list.value)));
  element("button", `${name}-remove`).addEventListener("click", () =>
    reported(async () => {
      if (list.value) await removeStoredFiles(list.value, { root });
      await show(null);
    }),
  );
  await show(localStorage.getItem(name));
  return chosen;
}
