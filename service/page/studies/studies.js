// The page of studies: one widget per study. The part of the address behind # names a study and its settings, such as
// #shattered-gradients?layers=24&beta=0.5

import { byId, show } from "../dom.js";
import { Widget } from "./widget.js";

const remember = (link) => history.replaceState(null, "", link);
const widgets = [...document.querySelectorAll(".widget")].map((section) => new Widget(section, remember));

/** Show the study that the address names, with its settings. */
function follow() {
  const [id, query] = location.hash.slice(1).split("?");
  const widget = widgets.find((each) => each.id === id);
  if (widget === undefined) return;
  if (query !== undefined) {
    const refused = widget.use(new URLSearchParams(query));
    byId("notice").textContent = refused.join(" ");
    show(byId("notice"), refused.length > 0);
    widget.compute();
  }
  byId(id).scrollIntoView();
  byId(id).querySelector("h2").focus({ preventScroll: true });
}

// Only a service has the other pages; a static export has this one alone.
show(document.querySelector("nav"), location.pathname.endsWith("/studies"));
addEventListener("hashchange", follow);
follow();
for (const widget of widgets) widget.computeWhenVisible();
