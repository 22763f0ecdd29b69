"use strict";
// Whatever goes wrong in the page is written on its root element, where a test (or a reader of the source) finds it.
(() => {
  const note = (text) => {
    const root = document.documentElement;
    root.dataset.errors = root.dataset.errors ? `${root.dataset.errors} | ${text}` : String(text);
  };
  addEventListener("error", (event) => note(event.message || "a resource failed to load"), true);
  addEventListener("unhandledrejection", (event) => note(event.reason));
  addEventListener("securitypolicyviolation", (event) => note(`${event.violatedDirective}: ${event.blockedURI}`));
})();
