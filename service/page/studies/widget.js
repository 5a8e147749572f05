// One study on the page: its controls, its worker, its charts, and its numbers as a table and as a file.

import { byId, element, show } from "../dom.js";
import { draw } from "./chart.js";
import { short, VIEWS } from "./views.js";

const ROWS = 41; // of a table at most; longer curves show every n-th point
const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

export class Widget {
  #section;
  #view;
  #onCommit;
  #worker = null;
  #run = 0;
  #charts = null;
  #canvases = {};
  #legends = {};

  /** `onCommit(link)` gets the address of new settings, once a control is released. */
  constructor(section, onCommit) {
    this.#section = section;
    section.append(byId("widget-end").content.cloneNode(true));
    this.#view = VIEWS[section.id];
    this.#onCommit = onCommit;
    this.#build();
    for (const control of this.#controls()) {
      control.addEventListener("input", () => this.compute());
      control.addEventListener("change", () => this.#onCommit(this.link()));
    }
    section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    section.querySelector(".save").addEventListener("click", () => this.#save());
    section.querySelector(".reset").addEventListener("click", () => {
      section.querySelector("form").reset();
      this.#onCommit(this.link());
      this.compute();
    });
    section.querySelector("details").addEventListener("toggle", () => this.#tabulate());
    dark.addEventListener("change", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(section.querySelector(".charts"));
    this.#describe();
  }

  get id() {
    return this.#section.id;
  }

  /** Compute once the section comes into view. */
  computeWhenVisible() {
    const observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        observer.disconnect();
        if (this.#run === 0) this.compute();
      },
      { rootMargin: "200px" },
    );
    observer.observe(this.#section);
  }

  /** Set controls from the address, and return sentences about values that they do not take. */
  use(parameters) {
    const refused = [];
    const controls = new Map(this.#controls().map((control) => [control.name, control]));
    this.#section.querySelector("form").reset();
    for (const [name, value] of parameters) {
      const control = controls.get(name);
      if (control === undefined) {
        refused.push(`There is no setting ${name}.`);
        continue;
      }
      if (control.type === "checkbox") control.checked = value === "on";
      else control.value = value;
      if (control.value === "") control.value = [...control.options].find((option) => option.defaultSelected).value;
      const taken = text(control);
      if (taken !== value && Number(taken) !== Number(value)) refused.push(`${name} cannot be ${value}: ${taken} is used.`);
    }
    return refused;
  }

  /** The address of the present settings. */
  link() {
    return `#${this.id}?${this.#controls().map((control) => `${control.name}=${text(control)}`).join("&")}`;
  }

  /** Compute the curves for the present settings; cancels the computation before. */
  compute() {
    this.#describe();
    this.#run += 1;
    this.#section.dataset.points = 0;
    this.#busy(true);
    this.#worker ??= this.#start();
    this.#worker.postMessage({ run: this.#run, study: this.id, settings: this.#settings() });
  }

  #controls() {
    return [...this.#section.querySelectorAll("form input, form select")];
  }

  #settings() {
    const value = (control) => {
      if (control.type === "checkbox") return control.checked;
      return control.type === "range" ? Number(control.value) : control.value;
    };
    return Object.fromEntries(this.#controls().map((control) => [control.name, value(control)]));
  }

  #start() {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data: { run, charts, done, failure } }) => {
      if (run !== this.#run) return; // of settings that have changed meanwhile
      if (failure) return this.#fail(failure);
      const first = this.#section.dataset.points === "0";
      this.#charts = charts;
      if (first || done || !still.matches) this.#draw();
      const curves = Object.values(charts).flatMap((chart) => Object.values(chart));
      this.#section.dataset.points = curves.reduce((sum, curve) => sum + curve.x.length, 0);
      if (done) this.#finish();
    };
    worker.onerror = (event) => this.#fail(event.message ?? "its script cannot be loaded");
    return worker;
  }

  #fail(reason) {
    this.#section.querySelector(".result").textContent = `The computation failed: ${reason}. Reload the page.`;
    this.#busy(false);
  }

  #finish() {
    this.#section.querySelector(".result").textContent = this.#view.sentence(this.#charts);
    this.#tabulate();
    this.#busy(false);
  }

  #busy(busy) {
    this.#section.querySelector(".charts").setAttribute("aria-busy", busy);
    show(this.#section.querySelector(".working"), busy);
  }

  /** Show the values of the controls, and the link to them. */
  #describe() {
    for (const control of this.#controls()) {
      const shown = control.dataset.power === undefined ? text(control) : short(10 ** Number(control.value));
      const output = this.#section.querySelector(`output[for="${control.id}"]`);
      if (output !== null) output.textContent = shown;
      if (control.dataset.power !== undefined) control.setAttribute("aria-valuetext", shown);
    }
    this.#section.querySelector(".permalink").href = this.link();
    for (const [name, view] of Object.entries(this.#view.charts)) {
      const { styles, theory } = view(this.#settings());
      const keys = Object.entries(styles).map(([curve, { colour, dash }]) => key(curve, `${colour.slice(2)} ${dash}`));
      if (theory) keys.push(key(theory, "text dotted"));
      this.#legends[name].replaceChildren(...keys);
    }
  }

  #build() {
    const settings = this.#settings();
    const result = this.#section.querySelector(".result");
    for (const [name, view] of Object.entries(this.#view.charts)) {
      const { title } = view(settings);
      const label = `${title}; the numbers are in the table below.`;
      const canvas = element("canvas", {}, [], { role: "img", "aria-label": label, "aria-describedby": result.id });
      const legend = element("ul", { className: "keys" }, [], { "aria-hidden": "true" });
      const figure = element("figure", {}, [element("figcaption", { textContent: title }), legend, canvas]);
      this.#canvases[name] = canvas;
      this.#legends[name] = legend;
      this.#section.querySelector(".charts").append(figure);
    }
  }

  #draw() {
    if (this.#charts === null) return;
    const settings = this.#settings();
    for (const [name, view] of Object.entries(this.#view.charts)) draw(this.#canvases[name], view(settings), this.#charts[name]);
  }

  /** The curves as tables, if they are open: screen readers and copying need no canvas. */
  #tabulate() {
    const details = this.#section.querySelector("details");
    if (!details.open || this.#charts === null) return;
    const settings = this.#settings();
    const tables = Object.entries(this.#view.charts).map(([name, view]) => table(view(settings), this.#charts[name]));
    details.querySelector(".tables").replaceChildren(...tables);
  }

  #save() {
    const content = { study: this.id, generator: "Philox2x32-10", settings: this.#settings(), charts: this.#charts };
    const url = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
    element("a", { href: url, download: `${this.id}.json` }).click();
    URL.revokeObjectURL(url);
  }
}

/** The value of a control in an address. */
function text(control) {
  if (control.type === "checkbox") return control.checked ? "on" : "off";
  return control.value;
}

const key = (name, className) => element("li", {}, [element("i", { className }), name]);

function table({ title, x, styles }, curves) {
  const drawn = Object.keys(styles).filter((name) => curves[name]?.x.length > 0);
  const longest = drawn.map((name) => curves[name].x).reduce((a, b) => (b.length > a.length ? b : a), []);
  const every = Math.ceil(longest.length / ROWS);
  const caption = every > 1 ? `${title}, every ${every}th point` : title;
  const cells = (tag, texts, attributes) => texts.map((each) => element(tag, { textContent: each }, [], attributes));
  const head = element("tr", {}, cells("th", [x.label, ...drawn], { scope: "col" }));
  const rows = [...longest.keys()].filter((index) => index % every === 0).map((index) =>
    element("tr", {}, [
      ...cells("th", [short(longest[index])], { scope: "row" }),
      ...cells("td", drawn.map((name) => short(curves[name].y[index])), {}),
    ]),
  );
  const parts = [element("caption", { textContent: caption }), element("thead", {}, [head]), element("tbody", {}, rows)];
  return element("div", { className: "table" }, [element("table", {}, parts)], { tabindex: "0", role: "region", "aria-label": caption });
}
