// All images of this page: sent a few at a time, shown as a strip of thumbnails.

import { classify } from "./api.js";
import { announce, byId, element, percent, show } from "./dom.js";
import { count, save } from "./summary.js";

const AT_ONCE = 4; // requests in flight, which the service computes in batches
const ATTEMPTS = 3; // times that an image is sent to a service that is gone, or that needs another key
const FAILED = { image: "unreadable", refused: "failed", gone: "failed", key: "failed" };

/**
 * The images, one of which is selected. `onChange(item)` is called when the selected image or its result changes,
 * `onHalt(problem)` when no image can be sent; `use` sends them again.
 */
export class Batch {
  constructor(onChange, onHalt) {
    this.items = [];
    this.chosen = null;
    this.model = null;
    this.waiting = [];
    this.running = 0;
    this.round = 0; // results of an earlier model are dropped
    this.halted = false;
    this.onChange = onChange;
    this.onHalt = onHalt;
    byId("strip").addEventListener("keydown", (event) => this.move(event));
    byId("save").addEventListener("click", () => save(this.items));
  }

  /** Classify files, and select the first of them. */
  add(files) {
    const added = [...files].map((file) => ({ file, name: file.name || "pasted image", url: URL.createObjectURL(file) }));
    if (added.length === 0) return;
    for (const item of added) {
      item.button = thumbnail(item);
      item.button.addEventListener("click", () => this.choose(item));
      byId("strip").append(element("li", {}, [item.button]));
    }
    this.items.push(...added);
    this.choose(added[0]);
    this.send(added);
  }

  /** Use a model from now on. If it is another one than before, classify all images again. */
  use(model) {
    const other = model.name !== this.model?.name || model.version !== this.model?.version;
    this.model = model;
    this.round++;
    this.waiting = [];
    this.halted = false;
    for (const item of this.items) {
      if (other) item.answer = item.error = undefined;
      item.problem = undefined;
    }
    this.send(this.items.filter((item) => !item.answer && !item.error));
  }

  clear() {
    this.round++;
    this.waiting = [];
    for (const item of this.items) URL.revokeObjectURL(item.url);
    this.items = [];
    byId("strip").replaceChildren();
    this.choose(null);
    this.progress();
  }

  choose(item) {
    this.chosen?.button.removeAttribute("aria-current");
    this.chosen = item;
    item?.button.setAttribute("aria-current", "true");
    item?.button.scrollIntoView({ block: "nearest" });
    this.onChange(item);
  }

  send(items) {
    for (const item of items) label(item);
    if (this.model === null || this.halted) return;
    this.waiting.push(...items);
    this.onChange(this.chosen);
    this.progress();
    while (this.running < AT_ONCE && this.waiting.length > 0) this.work();
  }

  async work() {
    this.running++;
    while (this.waiting.length > 0) {
      const [item, round] = [this.waiting.shift(), this.round];
      const outcome = await classify(item.file, this.model).then(
        (answer) => ({ answer, maps: undefined }),
        (error) => (this.halts(item, error) ? { problem: error } : { error }),
      );
      if (round === this.round) this.done(item, outcome);
    }
    this.running--;
  }

  /** Whether a failure concerns all images. An image that fails so again and again fails alone. */
  halts(item, { kind }) {
    if (kind !== "gone" && kind !== "key") return false;
    item.halts = (item.halts ?? 0) + 1;
    return item.halts < ATTEMPTS;
  }

  done(item, outcome) {
    Object.assign(item, outcome);
    label(item);
    if (item === this.chosen) this.onChange(item);
    this.progress();
    if (outcome.problem && !this.halted) {
      this.halted = true; // the other images would fail in the same way
      this.waiting = [];
      this.onHalt(outcome.problem);
    }
  }

  progress() {
    const total = this.items.length;
    const failed = this.items.filter((item) => item.error).length;
    const done = this.items.filter((item) => item.answer).length + failed;
    show(byId("batch"), total > 1);
    show(byId("clear"), total > 0);
    show(byId("save"), done > 0);
    show(byId("progress"), total > 1 && done < total);
    Object.assign(byId("progress"), { max: Math.max(1, total), value: done });
    const unread = this.items.filter((item) => item.error?.kind === "image").length;
    const bad = failed === 0 ? "" : `, ${failed} ${unread === failed ? "could not be read" : "failed"}`;
    byId("batch-title").textContent = `${total} images`;
    byId("progress-text").textContent = done < total ? `${done} of ${total} done` : `all done${bad}`;
    count(this.items);
    if (total > 0 && done === total) announce(total === 1 ? describe(this.items[0]) : `${total} images done${bad}.`);
  }

  /** Move along the strip with the arrow keys. */
  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step && this.items[this.items.indexOf(this.chosen) + step];
    if (!next) return;
    event.preventDefault();
    next.button.focus();
    this.choose(next);
  }
}

function thumbnail(item) {
  const picture = element("img", { src: item.url, alt: "", loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => picture.replaceWith(element("span", { className: "broken", textContent: "?" })));
  return element("button", { type: "button", className: "thumb" }, [
    picture,
    element("span", { className: "thumb-label" }),
    element("span", { className: "thumb-value" }),
  ]);
}

function label(item) {
  const best = item.answer?.predictions[0];
  item.button.classList.toggle("failed", Boolean(item.error));
  item.button.classList.toggle("pending", !best && !item.error);
  item.button.querySelector(".thumb-label").textContent = best?.label ?? FAILED[item.error?.kind] ?? "…";
  item.button.querySelector(".thumb-value").textContent = best ? percent(best.probability) : "";
  item.button.title = item.name;
  item.button.setAttribute("aria-label", describe(item));
}

function describe(item) {
  const best = item.answer?.predictions[0];
  if (best) return `${item.name}: ${best.label}, ${percent(best.probability)}`;
  return item.error ? `${item.name}: ${item.error.message}` : `${item.name}: waiting`;
}
