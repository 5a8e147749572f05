// Requests to the HTTP API. Paths are relative, so that the page works behind the path prefix of a proxy.

import * as key from "./key.js";

const TOP_K = 5;
const ATTEMPTS = 6;
const QUICK = 10; // s until a short request counts as not answered
const SLOW = 120; // s until the classification of an image does

/**
 * A failure, with a message for the user. `kind` is "gone" (no answer), "key" (another API key is needed), "image" (it
 * cannot be read) or "refused".
 */
export class Problem extends Error {
  constructor(message, kind = "refused") {
    super(message);
    this.kind = kind;
  }
}

/** The models: [{name, version, labels, cam, …}]; of those that are not in memory, only name and version. */
export async function models() {
  const { models: loaded, not_loaded: others = [] } = await json(await send("v1/models"));
  return [...loaded, ...others.map(({ name, versions }) => ({ name, version: versions.at(-1).version }))];
}

/** One model, which is loaded if it is not in memory. */
export async function model(name) {
  return json(await send(`v1/models/${encodeURIComponent(name)}`, {}, SLOW));
}

/** The model card of a version, in Markdown. */
export async function card(model) {
  const response = await send(`v1/models/${encodeURIComponent(model.name)}/versions/${model.version}/card`);
  return response.ok ? response.text() : json(response);
}

/** How the requests of a model are shared among its versions, and how far its shadows agree. */
export async function rollout(name) {
  return json(await send(`v1/models/${encodeURIComponent(name)}/rollout`));
}

/** The images on which its shadows differed last, newest first. */
export async function differing(name) {
  return json(await send(`v1/models/${encodeURIComponent(name)}/rollout/images`));
}

/** Names of the example images that the service offers. */
export async function examples() {
  return json(await send("examples"));
}

/** The metrics as text, or null without access to them. */
export async function metrics() {
  const response = await send("metrics");
  return response.ok ? response.text() : null;
}

/** Path of the requests for one version of a model. */
export function classifyPath(model) {
  return `v1/models/${encodeURIComponent(model.name)}/versions/${model.version}/classify?top_k=${TOP_K}`;
}

/** Classify one file, as any client of the API does. Waits and tries again while the service is overloaded. */
export async function classify(file, model, more = "") {
  // errors=inline: browsers report a failed request as an error of the page, also if only the image cannot be read.
  const { results: [result], timing } = await post(`${classifyPath(model)}&errors=inline${more}`, file);
  if (result.error) throw new Problem(result.error.detail, "image");
  return { ...result, timing };
}

/** The classes of one file with all blocks (`whole`) and without blocks with these numbers (`predictions`). */
export async function lesion(file, model, blocks) {
  const path = `v1/models/${encodeURIComponent(model.name)}/versions/${model.version}/lesion`;
  return post(`${path}?top_k=${TOP_K}&deleted=${blocks}`, file);
}

/** Post a file, and try again while the service is overloaded. */
async function post(path, file) {
  const headers = { "Content-Type": "application/octet-stream" };
  for (let attempt = 1; ; attempt++) {
    const response = await send(path, { method: "POST", body: file, headers }, SLOW);
    const wait = response.headers.get("Retry-After");
    if (![429, 503].includes(response.status) || wait === null || attempt === ATTEMPTS) return json(response);
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(wait)));
  }
}

/** The heat map of each class as a PNG in base64, and the milliseconds to make them. */
export async function heatMaps(file, model) {
  const { predictions, timing } = await classify(file, model, "&cam=overlay");
  return { pictures: predictions.map((prediction) => prediction.cam_png), time: timing.extras_ms };
}

async function send(path, options = {}, seconds = QUICK) {
  const headers = { ...options.headers, ...key.headers() };
  try {
    return await fetch(path, { ...options, headers, signal: AbortSignal.timeout(1000 * seconds) });
  } catch {
    throw new Problem("The service cannot be reached. Is it still running?", "gone");
  }
}

async function json(response) {
  const content = await response.json().catch(() => null);
  if (response.ok && content !== null) return content;
  if (response.status === 401 || response.status === 403) throw new Problem(content?.detail ?? "An API key is needed", "key");
  if (content?.detail) throw new Problem(content.detail);
  // Without a reason, a proxy before the service answers.
  const gone = [502, 503, 504].includes(response.status);
  throw new Problem(`The service does not answer (status ${response.status}).`, gone ? "gone" : "refused");
}
