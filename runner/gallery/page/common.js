"use strict";
// What the job's page and the page of all jobs share.
const one = (name) => document.querySelector(`[data-${name}]`);
const filter = one("filter");
function make(tag, properties, ...inside) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
}
// A page of what still runs is replaced: load it again, but not while it is being used.
function live(isUsed) {
  for (const preview of document.querySelectorAll("[data-preview]")) {
    // Its file is absent before the first, and between two pictures.
    const { src } = preview;
    preview.addEventListener("error", () => { preview.hidden = true; });
    preview.addEventListener("load", () => { preview.hidden = false; });
    setInterval(() => { if (!document.hidden) preview.src = `${src}?${Date.now()}`; }, 1000);
  }
  setInterval(() => {
    if (!isUsed() && document.activeElement !== filter && !document.hidden) location.reload();
  }, 5000);
}
