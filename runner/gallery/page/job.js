// One job's page: the viewer, copying a picture as a spec, filter, sorting, favourites, ratings, keys.
const told = document.querySelector("script[type='application/json']");
const data = JSON.parse(told.textContent), { job } = told.dataset;
const pages = [...document.querySelector(".pages")?.querySelectorAll("a") ?? []];
const shots = [...document.querySelectorAll(".shot")];
const images = data.images.map((image) => ({
  ...image,
  prompt: data.prompts[image.prompt],
  spec: { ...data.spec, ...image.spec },
  result: { ...data.result, ...image.result },
}));
const viewer = one("viewer"), exporter = one("exporter"), board = one("board");
const key = `fluxdrop:${told.dataset.key}:`;
let current = 0, onlyFavourites = false, order = shots.map((_, place) => place), visible = order;
let compared = null, leaving = false, picking = false;
const picks = new Set();

// --- storage (some browsers refuse it for file://; the page works without) ---
function load(storage, name, otherwise) {
  try { return JSON.parse(window[storage].getItem(key + name)) ?? otherwise; } catch { return otherwise; }
}
function save(storage, name, value) {
  try { window[storage].setItem(key + name, JSON.stringify(value)); } catch { /* not saved */ }
}
// With their specs: the favourites of a job's other pages can be exported here too.
const favourites = new Map(Object.entries(load("localStorage", "favourites", {})));
// From 1 to 5, or -1 where it is rejected.
const ratings = load("localStorage", "ratings", {});
// What a key or a button of the selection is for.
const chosen = () => !viewer.open && picks.size ? [...picks].sort((a, b) => a - b) : images[current] ? [current] : [];

// --- specs ---
function scalar(value) {
  // JSON is valid YAML once the characters that YAML forbids unescaped are escaped.
  return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g,
    (mark) => "\\u" + mark.charCodeAt(0).toString(16).padStart(4, "0"));
}
function yaml(spec) {
  const plain = (value) => typeof value === "string" && /^[a-z][a-z0-9_-]*$/.test(value)
    && !/^(null|true|false|yes|no|on|off|y|n)$/.test(value);
  return Object.entries(spec).map(([name, value]) => {
    const written = plain(name) ? name : scalar(name);
    return `${written}: ${plain(value) ? value : scalar(value)}`;
  }).join("\n") + "\n";
}
function specOf(image) {
  const spec = { ...image.spec, prompt: image.prompt };
  if (!image.prompt) delete spec.prompt;
  // Only a sidecar names the version of its format.
  delete spec.schema;
  delete spec.$schema;
  const names = [...data.order, ...Object.keys(spec)];
  return Object.fromEntries([...new Set(names)].filter((name) => name in spec).map((name) => [name, spec[name]]));
}
function grouped(list, without) {
  const restOf = (spec) => Object.fromEntries(Object.entries(spec).filter(([name]) => !without.includes(name)));
  return [...Map.groupBy(list, (spec) => JSON.stringify(restOf(spec))).values()].map((specs) => ({
    rest: restOf(specs[0]), prompts: new Set(specs.map(({ prompt }) => prompt ?? "")), seeds: specs.map(({ seed }) => seed),
  }));
}
const toExport = () => picks.size ? chosen().map((place) => images[place].file) : [...favourites.keys()].sort();
function exports(how) {
  const files = toExport();
  // Its content is ignored: in the inbox, its name has `clean` leave the job alone.
  if (how === "keep") return [`put ${job}.keep into inbox/\n`];
  if (how === "list") return [files.map((file) => `outbox/${job}/${file}\n`).join("")];
  const own = new Map(images.map((image) => [image.file, image]));
  const list = files.map((file) => own.has(file) ? specOf(own.get(file)) : favourites.get(file));
  if (how === "same") return grouped(list, ["seed"]).map(({ rest, seeds }) => yaml({ ...rest, seeds }));
  const count = Math.max(1, Number(one("count").value) || 1);
  // No seed at all: the runner draws a new one when it accepts the spec.
  return grouped(list, ["seed", "prompt"]).map(({ rest, prompts }) => {
    const [first] = prompts;
    const prompt = prompts.size > 1 ? { matrix: { prompt: [...prompts] } } : first ? { prompt: first } : {};
    return yaml({ ...rest, ...prompt, count });
  });
}

// --- copying ---
function toast(text) {
  const note = one("toast");
  note.textContent = text;
  note.dataset.on = "";
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => delete note.dataset.on, 1600);
}
async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text });
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(`${what} copied`);
}

// --- favourites, ratings, the selection ---
function favour(places) {
  const all = places.every((place) => favourites.has(images[place].file));
  for (const place of places) {
    if (all) favourites.delete(images[place].file); else favourites.set(images[place].file, specOf(images[place]));
  }
  save("localStorage", "favourites", Object.fromEntries(favourites));
  narrow();
}
function rate(places, rating) {
  const all = places.every((place) => ratings[images[place].file] === rating);
  for (const place of places) {
    if (all || !rating) delete ratings[images[place].file]; else ratings[images[place].file] = rating;
  }
  save("localStorage", "ratings", ratings);
  narrow();
}
function pick(place, on = !picks.has(place)) {
  if (on) picks.add(place); else picks.delete(place);
  paint();
}
function pickTo(place) {
  // All that are seen between the current picture and this one.
  const ends = [visible.indexOf(current), visible.indexOf(place)].sort((a, b) => a - b);
  for (const each of visible.slice(Math.max(0, ends[0]), ends[1] + 1)) picks.add(each);
  rove(place);
  paint();
}
function paint() {
  shots.forEach((shot, place) => {
    const { file } = images[place];
    shot.toggleAttribute("data-favourite", favourites.has(file));
    shot.toggleAttribute("data-chosen", picks.has(place));
    if (ratings[file]) shot.dataset.rating = ratings[file] > 0 ? ratings[file] : "✕"; else delete shot.dataset.rating;
  });
  one("favourites").textContent = favourites.size;
  viewer.querySelector("[data-favourite]").setAttribute("aria-pressed", String(favourites.has(images[current]?.file)));
  one("rate").value = String(ratings[images[current]?.file] ?? 0);
  one("picks").hidden = !picks.size;
  one("picked").textContent = picks.size ? `${picks.size} selected` : "";
  one("compare").disabled = picks.size !== 2;
}
function download() {
  // A browser leaves the page for a file of this disk instead: their list is of more use there.
  if (location.protocol === "file:") {
    document.querySelector("[name=as][value=list]").checked = true;
    return actions.export();
  }
  // At once it would take the first only.
  chosen().forEach((place, nth) => setTimeout(() => {
    make("a", { href: encodeURIComponent(images[place].file), download: images[place].file }).click();
  }, 250 * nth));
}
function showExports() {
  const how = document.querySelector("[name=as]:checked").value;
  const parts = toExport().length ? exports(how) : [];
  one("of").textContent = picks.size ? "Selected pictures" : "Favourites";
  one("exports").replaceChildren(...parts.flatMap((part, place) => {
    const exported = `${job}-${picks.size ? "selected" : "favourites"}${parts.length > 1 ? `-${place + 1}` : ""}.${how === "list" ? "txt" : "yaml"}`;
    const name = how === "keep" ? `${job}.keep` : exported;
    const href = URL.createObjectURL(new Blob([part], { type: "text/plain" }));
    return [
      make("textarea", { readOnly: true, value: part, ariaLabel: name }),
      make("div", { className: "row-of-buttons" },
        make("button", { type: "button", onclick: () => copy(part, name) }, "Copy"),
        make("a", { className: "button", download: name, href }, `Save ${name}`)),
    ];
  }));
  if (!parts.length) one("exports").textContent = "None yet. Press F on a picture, or its star.";
  document.querySelector(".count").hidden = how !== "new";
}

// --- the viewer ---
function inputsOf({ spec }) {
  return ["image", "mask"].flatMap((name) => [spec[name] ?? []].flat().map((input) => String(input?.path ?? input))
    .filter((path) => path.startsWith("outbox/")).map((path) => [name, `inputs/${encodeURIComponent(path.split("/").pop())}`]));
}
// Some formats are none of a browser's.
const small = (src) => make("img", { src, alt: "", width: 48, height: 48, onerror() { this.remove(); } });
function settingsOf(image) {
  const { result } = image, spec = specOf(image);
  const model = typeof result.model === "object" && result.model ? result.model.repo : result.model;
  for (const shownOnce of ["prompt", "width", "height", "metadata"]) delete spec[shownOnce];
  const settings = {
    file: image.file, subject: result.subject, variable: result.variable,
    size: result.width && result.height ? `${result.width} × ${result.height}` : "", ...spec,
    pack: result.pack, repository: model, dtype: result.dtype, device: result.device,
    took: typeof result.seconds === "number" ? `${result.seconds.toFixed(1)} s` : "",
    made: result.created_at ? new Date(result.created_at).toLocaleString() : "",
  };
  const filled = Object.entries(settings).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return new Map(filled.map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]));
}
function cut(percent) {
  one("cut").value = percent;
  one("frame").style.setProperty("--cut", `${percent}%`);
}
function showBefore(url) {
  one("before").src = url;
  for (const button of one("inputs").children) button.ariaPressed = String(button.value === url);
}
function showPicture(place) {
  if (leaving) return window.addEventListener("popstate", () => showPicture(place), { once: true });
  const image = images[place], full = one("full"), before = one("before"), more = one("more"), prompt = one("prompt");
  current = place;
  full.src = encodeURIComponent(image.file);
  full.alt = image.file;
  for (const each of [full, before]) each.classList.toggle("crisp", shots[place].classList.contains("crisp"));
  prompt.textContent = image.prompt || "(no prompt)";
  one("file").href = encodeURIComponent(image.file);
  one("sidecar").href = encodeURIComponent(image.file.replace(/\.[^.]*$/, ".json"));
  const at = visible.indexOf(place);
  one("at").textContent = `${at < 0 ? "–" : at + 1} of ${visible.length} · ${image.file}`;
  // What differs from the picture that it is compared with, or else from the one before it.
  const other = images[compared ?? visible[at - 1]], settings = settingsOf(image), others = other ? settingsOf(other) : settings;
  one("settings").replaceChildren(...[...settings].flatMap(([name, value]) => {
    const differs = others.get(name) !== value && !["file", "took", "made"].includes(name);
    const was = ` ${compared === null ? "previous" : "other"}: ${others.get(name) ?? "none"}`;
    const dd = make("dd", { className: differs ? "differs" : "" }, value, ...differs ? [make("small", {}, was)] : []);
    return [make("dt", {}, name), dd];
  }));
  const beside = compared !== null && compared !== place ? [["compared with", encodeURIComponent(images[compared].file)]] : [];
  const befores = [...beside, ...inputsOf(image)];
  one("inputs").replaceChildren(...befores.map(([name, url]) => make("button", { type: "button", value: url }, small(url), name)));
  one("inputs").hidden = one("slider").hidden = before.hidden = !befores.length;
  if (befores.length) showBefore(befores[0][1]); else before.removeAttribute("src");
  paint();
  if (!viewer.open) {
    cut(compared === null ? 0 : 50);
    viewer.showModal();
  }
  // So that Back closes it; where an address led here, there is nothing to go back to.
  if (location.hash) history.replaceState(history.state, "", `#${shots[place].id}`);
  else history.pushState({ opened: true }, "", `#${shots[place].id}`);
  delete prompt.dataset.whole;
  Object.assign(more, { hidden: prompt.scrollHeight <= prompt.clientHeight + 2, textContent: "more", ariaExpanded: false });
  viewer.scrollTop = viewer.querySelector("aside").scrollTop = 0;
  const next = images[visible[at + 1]];
  if (next) new Image().src = encodeURIComponent(next.file);
}
function go(step) {
  const at = visible.indexOf(current) + step;
  const page = document.querySelector(step > 0 ? "[rel=next]" : "[rel=prev]");
  if (at >= 0 && at < visible.length) showPicture(visible[at]);
  else if (page) location.replace(page.href + (step > 0 ? "#-first" : "#-last"));
}

// --- filter ---
// As the gallery searches: each word must begin a word, or be anywhere in scripts without spaces.
const folded = (text) => ` ${text.normalize("NFKC").toLowerCase().replace(/[\s\p{P}\p{S}]+/gu, " ").trim()}`;
const haystacks = images.map((image) => folded([image.prompt, ...settingsOf(image)].flat().join(" ")));
const inside = (haystack, word) => haystack.includes(/^[\x20-\x7f]+$/.test(word) ? word : word.trim());
function marksOf({ file }) {
  return ratings[file] > 0 ? ` rating ${ratings[file]} ` : ratings[file] ? " rejected " : " ";
}
function narrow() {
  // `steps=4` is these words and no longer ones, `-word` a word that must not be there.
  const words = filter.value.split(/\s+/).map((word) => ({
    out: /^-./.test(word), text: folded(word.replace(/^-/, "")) + (/[=:]/.test(word) ? " " : ""),
  })).filter(({ text }) => text.trim());
  const wanted = (place) => (!onlyFavourites || favourites.has(images[place].file))
    && words.every(({ out, text }) => inside(haystacks[place] + marksOf(images[place]), text) !== out);
  visible = order.filter(wanted);
  const seen = new Set(visible), narrowed = words.length > 0 || onlyFavourites;
  shots.forEach((shot, place) => { shot.hidden = !seen.has(place); });
  for (const row of document.querySelectorAll(".row, .group")) row.hidden = narrowed && !row.querySelector(".shot:not([hidden])");
  for (const other of document.querySelectorAll(".missing, .to-come")) other.hidden = narrowed;
  one("none").hidden = !narrowed || visible.length > 0;
  one("shown").textContent = narrowed ? `${visible.length.toLocaleString()} of ${shots.length.toLocaleString()}${pages.length ? " on this page" : ""}` : "";
  if (shots[current]?.hidden && visible.length && !viewer.open) rove(visible[0], false);
  save("sessionStorage", "filter", filter.value);
  paint();
}

// --- sorting ---
const homes = shots.map((shot) => [shot.parentNode, shot.nextSibling]);
const flat = make("div", { className: "grid" });
const sortKeys = {
  rating: ({ file }) => -(ratings[file] ?? 0), made: ({ result }) => -Date.parse(result.created_at) || 0,
  seed: ({ spec }) => spec.seed ?? 0, took: ({ result }) => -(result.seconds ?? 0),
};
function sortPictures() {
  const by = sortKeys[one("sort").value];
  order = shots.map((_, place) => place);
  board.hidden = Boolean(by);
  if (by) {
    order.sort((a, b) => by(images[a]) - by(images[b]));
    flat.replaceChildren(...order.map((place) => shots[place]));
    board.after(flat);
  } else {
    // From the last on, so that the one before which it was is back.
    [...order].reverse().forEach((place) => homes[place][0].insertBefore(shots[place], homes[place][1]));
    flat.remove();
  }
  narrow();
}

// --- keys ---
function rove(place, focus = true) {
  if (!shots[place]) return;
  if (shots[current]) shots[current].tabIndex = -1;
  current = place;
  shots[place].tabIndex = 0;
  if (focus) {
    shots[place].focus();
    shots[place].scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}
function vertical(down) {
  // The nearest picture of the nearest line above or below, whatever rows and cells they are in.
  const from = shots[current].getBoundingClientRect();
  const middle = from.left + from.width / 2;
  let best = current, bestLine = Infinity, bestSide = Infinity;
  for (const place of visible) {
    const at = shots[place].getBoundingClientRect();
    const line = down ? at.top - from.bottom : from.top - at.bottom;
    if (line < -4) continue;
    const side = Math.abs(at.left + at.width / 2 - middle);
    if (line < bestLine - 8 || (line < bestLine + 8 && side < bestSide)) [best, bestLine, bestSide] = [place, Math.min(line, bestLine), side];
  }
  rove(best);
}
const moves = {
  ArrowRight: () => rove(visible[visible.indexOf(current) + 1] ?? current),
  ArrowLeft: () => rove(visible[visible.indexOf(current) - 1] ?? current),
  ArrowDown: () => vertical(true),
  ArrowUp: () => vertical(false),
  Home: () => rove(visible[0]),
  End: () => rove(visible[visible.length - 1]),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape" && event.target === filter) { filter.value = ""; narrow(); filter.blur(); }
    return;
  }
  const open = document.querySelector("dialog[open]");
  if (open && open !== viewer) return;
  const inGrid = !open && (document.activeElement === document.body || document.activeElement.matches(".shot"));
  if (event.key === "/" && !open) filter.focus();
  else if (event.key === "?" && !open) one("keys").showModal();
  else if (event.shiftKey && inGrid && event.key.startsWith("Arrow")) {
    picks.add(current);
    moves[event.key]();
    pick(current, true);
  } else if (event.key === "f") favour(chosen());
  else if (event.key === "x") rate(chosen(), -1);
  else if (/^[0-5]$/.test(event.key)) rate(chosen(), Number(event.key));
  else if (event.key === "s" && !open && images[current]) pick(current);
  else if (event.key === "Escape" && !open && picks.size) actions.clear();
  else if (event.key === "b" && open && !one("slider").hidden) { if (!event.repeat) hold(); }
  else if (event.key === "c" && images[current]) copy(yaml(specOf(images[current])), "Spec");
  else if (open && event.key === "ArrowRight") go(1);
  else if (open && event.key === "ArrowLeft") go(-1);
  else if (open && visible.length && ["Home", "End"].includes(event.key)) showPicture(visible.at(event.key === "Home" ? 0 : -1));
  else if (inGrid && visible.length && moves[event.key]) moves[event.key]();
  else return;
  event.preventDefault();
});

// --- wiring ---
const place = (target) => shots.indexOf(target.closest(".shot"));
function hold() {
  const { value } = one("cut"), over = new AbortController();
  cut(100);
  const release = () => { cut(value); over.abort(); };
  for (const end of ["keyup", "pointerup", "pointercancel", "blur"]) window.addEventListener(end, release, { signal: over.signal });
}
const actions = {
  close: (button) => button.closest("dialog").close(),
  go: (button) => go(Number(button.dataset.go)),
  favourite: () => favour(chosen()),
  reject: () => rate(chosen(), -1),
  compare: () => { [compared] = chosen(); showPicture(chosen()[1]); },
  download,
  clear: () => { picks.clear(); paint(); },
  picking: (button) => { button.ariaPressed = String(picking = !picking); },
  beside: (button) => { button.ariaPressed = String(one("cut").disabled = one("frame").toggleAttribute("data-two")); },
  more: (button) => {
    const whole = one("prompt").toggleAttribute("data-whole");
    Object.assign(button, { textContent: whole ? "less" : "more", ariaExpanded: whole });
  },
  copy: (button) => button.dataset.copy === "spec" ? copy(yaml(specOf(images[current])), "Spec") : copy(images[current].prompt, "Prompt"),
  help: () => one("keys").showModal(),
  export: () => { showExports(); exporter.showModal(); },
  only: (button) => { button.ariaPressed = String(onlyFavourites = !onlyFavourites); narrow(); },
};
document.addEventListener("click", (event) => {
  const shot = event.target.closest(".shot");
  if (shot && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    if (event.target.closest(".star")) favour([place(shot)]);
    else if (event.shiftKey) pickTo(place(shot));
    else { rove(place(shot), false); if (picking) pick(current); else showPicture(current); }
    return;
  }
  const button = event.target.closest("button");
  if (event.target.matches("dialog")) event.target.close();
  else if (button) for (const name of Object.keys(button.dataset)) actions[name]?.(button);
});
one("inputs").addEventListener("pointerdown", (event) => {
  const button = event.target.closest("button");
  if (button) { showBefore(button.value); hold(); }
});
one("inputs").addEventListener("click", (event) => {
  // By a key; pressing with a pointer shows it as long as it is held.
  if (event.detail) return;
  showBefore(event.target.closest("button").value);
  cut(one("cut").value > 0 ? 0 : 100);
});
one("cut").addEventListener("input", () => cut(one("cut").value));
one("rate").addEventListener("change", () => rate([current], Number(one("rate").value)));
one("sort").addEventListener("change", sortPictures);
let touched = null;
one("frame").addEventListener("pointerdown", (event) => { touched = event.pointerType === "touch" && visualViewport.scale < 1.05 ? event : null; });
one("frame").addEventListener("pointerup", (event) => {
  const across = touched ? event.clientX - touched.clientX : 0;
  if (Math.abs(across) > 40 && Math.abs(across) > 2 * Math.abs(event.clientY - touched.clientY)) go(across < 0 ? 1 : -1);
  touched = null;
});
// One star, moved to the picture under the pointer, instead of one for each of thousands.
const star = make("button", { className: "star", type: "button", tabIndex: -1, ariaLabel: "favourite" }, "☆");
document.addEventListener("pointerover", (event) => {
  const shot = event.pointerType === "mouse" && event.target.closest(".shot");
  if (shot && star.parentNode !== shot) shot.append(star);
});
viewer.addEventListener("close", () => {
  // This event comes late: another picture may be open by now.
  if (viewer.open) return;
  compared = null;
  // Back, where opening it went forward; where the page was opened with it, there is no way back.
  leaving = Boolean(history.state?.opened && location.hash);
  if (leaving) history.back(); else if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  rove(current);
});
window.addEventListener("popstate", () => {
  leaving = false;
  follow();
});
exporter.addEventListener("change", showExports);
one("count").addEventListener("input", showExports);
filter.addEventListener("input", narrow);
const size = one("size");
const grow = () => document.body.style.setProperty("--thumb", `${size.value}px`);
const width = load("localStorage", "size", null);
size.value = width ?? shots[0]?.offsetWidth ?? 168;
if (width) grow();
size.addEventListener("input", () => { grow(); save("localStorage", "size", size.value); });
const tools = one("tools");
tools.hidden = shots.length === 0;
document.body.style.setProperty("--tools", `${tools.offsetHeight}px`);
shots.forEach((shot, at) => { shot.tabIndex = at ? -1 : 0; });
filter.value = load("sessionStorage", "filter", "");
const inputs = new Map(images.flatMap(inputsOf).map(([name, url]) => [url, name]));
one("strip").append(...[...inputs].slice(0, 12).map(([url, name]) => make("a", { className: "button", href: url }, small(url), name)));
narrow();
// The picture that the address names: of this page, its first or last, or one of another page.
function follow() {
  const address = decodeURIComponent(location.hash.slice(1));
  const named = { "-first": visible[0], "-last": visible.at(-1) }[address] ?? shots.findIndex((shot) => shot.id === address);
  const number = address.startsWith(`${job}-`) ? Number(address.slice(job.length + 1)) : 0;
  const elsewhere = pages.findLast((page) => Number(page.dataset.start) <= number);
  if (shots[named]) { if (!viewer.open || named !== current) showPicture(named); }
  else if (!address && viewer.open) viewer.close();
  else if (elsewhere && !elsewhere.hasAttribute("aria-current")) location.replace(elsewhere.href + location.hash);
}
follow();
if (told.dataset.final === "false") live(() => document.querySelector("dialog[open]") || picks.size || picking || onlyFavourites || one("sort").selectedIndex);
