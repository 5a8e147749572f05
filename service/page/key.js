// The API key of the user, for a service that needs one. It is kept for this tab only, until the tab is closed.

import { byId, sentence, show } from "./dom.js";

const NAME = "resnet-serve-api-key";

let key = null;
try {
  key = sessionStorage.getItem(NAME);
} catch {
  // The browser stores nothing for this page: the key is kept until it is loaded again.
}

/** The headers that carry the key; none without a key. */
export function headers() {
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

/** Ask the user for a key, with the reason; resolves when there is one. */
export function ask(reason) {
  byId("key-reason").textContent = key === null ? "This service needs an API key." : `Refused: ${sentence(reason)}`;
  show(byId("key-form"), true);
  show(byId("forget"), false);
  byId("key").focus();
  return new Promise((resolve) => {
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      remember(byId("key").value);
      byId("key").value = "";
      show(byId("key-form"), false);
      resolve();
    };
  });
}

/** Offer to forget a key that works. */
export function accepted() {
  show(byId("forget"), key !== null);
}

function remember(value) {
  key = value;
  try {
    sessionStorage.setItem(NAME, value);
  } catch {
    // As above.
  }
}

byId("forget").addEventListener("click", () => {
  try {
    sessionStorage.removeItem(NAME);
  } catch {
    // As above.
  }
  location.reload();
});
