// Requests to the HTTP API. Paths are relative, so that the page works behind the path prefix of a proxy.
// `errors=inline`: browsers report a failed request as an error of the page, also if only the image cannot be read.

const TOP_K = 5;
const ATTEMPTS = 6;

/** An error response; its message is shown to the user. */
export class Problem extends Error {}

/** The served models: [{name, version, labels, cam, …}]. */
export async function models() {
  return (await json(await fetch("v1/models"))).models;
}

/** Names of the example images that the service offers. */
export async function examples() {
  return json(await fetch("examples"));
}

/** Classify one file. Waits and tries again while the service is overloaded. */
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
