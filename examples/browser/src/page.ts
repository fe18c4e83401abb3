/** Small things of the page. */

/** The element of this tag and id. */
export function element<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  id: string,
): HTMLElementTagNameMap[Tag] {
  const found = document.getElementById(id);
  if (found?.localName !== tag) throw new Error(`no <${tag} id="${id}"> in the page`);
  return found as HTMLElementTagNameMap[Tag];
}

const output = element("output", "status");

function say(text: string, code = ""): void {
  output.textContent = text;
  output.className = code ? "error" : "";
  output.dataset.code = code;
}

/** Runs what a button does. An error is shown: Tunesmith's name what is wrong and how to put it right. */
export async function reported(work: (status: (text: string) => void) => Promise<void>): Promise<void> {
  try {
    await work(say);
  } catch (error) {
    const { message, code = "error", fix = "" } = error as Error & { code?: string; fix?: string };
    say(message.includes(fix) ? message : `${message} (${fix})`, code);
  }
}

/** Lets the browser save a file. */
export function download(blob: Blob, name: string): void {
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: name,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
