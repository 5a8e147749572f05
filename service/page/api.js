// The service's HTTP interface. Paths are relative, so that the page works behind a proxy's prefix.
// `errors=inline`: an image that cannot be read is no failed request, which browsers report as an error of the page.

const TOP_K = 5;
const ATTEMPTS = 6;

/** An answer that is no success; its message is for people. */
export class Problem extends Error {}

/** What is loaded: [{name, version, labels, cam, …}]. */
export async function models() {
  return (await json(await fetch("v1/models"))).models;
}

/** Names of the example images that the service offers. */
export async function examples() {
  return json(await fetch("examples"));
}

/** Classify one file. Waits and tries again while the service says that it is overloaded. */
export async function classify(file, model) {
  const name = encodeURIComponent(model.name);
  const path = `v1/models/${name}/versions/${model.version}/classify?top_k=${TOP_K}&errors=inline${model.cam ? "&cam=overlay" : ""}`;
  for (let attempt = 1; ; attempt++) {
    const response = await send(path, file);
    const wait = response.headers.get("Retry-After");
    if (response.status !== 503 || wait === null || attempt === ATTEMPTS) {
      const { results: [result], timing } = await json(response);
      if (result.error) throw new Problem(result.error.detail);
      return { ...result, timing };
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(wait)));
  }
}

async function send(path, file) {
  try {
    return await fetch(path, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
  } catch {
    throw new Problem("The service cannot be reached. Is it still running?");
  }
}

async function json(response) {
  const content = await response.json().catch(() => null);
  if (!response.ok) throw new Problem(content?.detail ?? `The service answered with status ${response.status}.`);
  return content;
}
