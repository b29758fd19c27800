"use strict";
// One job's page: the viewer, copying a picture as a spec, filter, sorting, favourites, ratings, keys.
const told = document.querySelector("script[type='application/json']");
const data = JSON.parse(told.textContent), { job } = told.dataset;
const one = (name) => document.querySelector(`[data-${name}]`);
const pages = [...document.querySelector(".pages")?.querySelectorAll("a") ?? []];
const shots = [...document.querySelectorAll(".shot")];
const images = data.images.map((image) => ({
  ...image,
  prompt: data.prompts[image.prompt],
  spec: { ...data.spec, ...image.spec },
  result: { ...data.result, ...image.result },
}));
const viewer = one("viewer"), exporter = one("exporter"), filter = one("filter");
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
const favourites = new Set(load("localStorage", "favourites", []));
// The favourites of a job's other pages can be exported here too: their specs are kept beside their names.
const kept = load("localStorage", "specs", {});
const here = new Set(images.map(({ file }) => file));
function favoured() {
  return [...favourites].filter((file) => here.has(file) || pages.length).sort();
}
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
  const groups = new Map();
  for (const spec of list) {
    const rest = Object.fromEntries(Object.entries(spec).filter(([name]) => !without.includes(name)));
    const group = JSON.stringify(rest);
    if (!groups.has(group)) groups.set(group, { rest, prompts: new Set(), seeds: [] });
    groups.get(group).prompts.add(spec.prompt ?? "");
    groups.get(group).seeds.push(spec.seed);
  }
  return [...groups.values()];
}
const toExport = () => picks.size ? chosen().map((place) => images[place].file) : favoured();
function exports(how) {
  const files = toExport();
  // Its content is ignored: in the inbox, its name has `clean` leave the job alone.
  if (how === "keep") return [`put ${job}.keep into inbox/\n`];
  if (how === "list") return [files.map((file) => `outbox/${job}/${file}\n`).join("")];
  const own = Object.fromEntries(images.map((image) => [image.file, image]));
  const list = files.map((file) => own[file] ? specOf(own[file]) : kept[file]).filter(Boolean);
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
    const area = document.createElement("textarea");
    area.value = text;
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
    const { file } = images[place];
    if (all) { favourites.delete(file); delete kept[file]; } else { favourites.add(file); kept[file] = specOf(images[place]); }
  }
  save("localStorage", "favourites", [...favourites]);
  save("localStorage", "specs", kept);
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
  one("favourites").textContent = favoured().length;
  viewer.querySelector("[data-favourite]").setAttribute("aria-pressed", String(favourites.has(images[current]?.file)));
  one("rate").value = String(ratings[images[current]?.file] ?? 0);
  one("picks").hidden = !picks.size;
  one("picked").textContent = picks.size ? `${picks.size} selected` : "";
  one("compare").disabled = picks.size !== 2;
}
function download() {
  // At once a browser would take the first only.
  chosen().forEach((place, nth) => setTimeout(() => {
    const link = document.createElement("a");
    link.href = encodeURIComponent(images[place].file);
    link.download = images[place].file;
    link.click();
  }, 250 * nth));
}
function showExports() {
  const how = document.querySelector("[name=as]:checked").value;
  const parts = toExport().length ? exports(how) : [];
  one("of").textContent = picks.size ? "Selected pictures" : "Favourites";
  one("exports").replaceChildren(...parts.flatMap((part, place) => {
    const area = document.createElement("textarea");
    const row = document.createElement("div"), copyIt = document.createElement("button"), save = document.createElement("a");
    const favourites = `${job}-favourites${parts.length > 1 ? `-${place + 1}` : ""}.${how === "list" ? "txt" : "yaml"}`;
    const name = how === "keep" ? `${job}.keep` : favourites;
    area.readOnly = true;
    area.value = part;
    area.setAttribute("aria-label", name);
    row.className = "row-of-buttons";
    copyIt.type = "button";
    copyIt.textContent = "Copy";
    copyIt.addEventListener("click", () => copy(part, name));
    save.className = "button";
    save.textContent = `Save ${name}`;
    save.download = name;
    save.href = URL.createObjectURL(new Blob([part], { type: "text/plain" }));
    row.append(copyIt, save);
    return [area, row];
  }));
  if (!parts.length) one("exports").textContent = "None yet. Press F on a picture, or its star.";
  document.querySelector(".count").hidden = how !== "new";
}

// --- the viewer ---
function inputsOf({ spec }) {
  return ["image", "mask"].flatMap((name) => [spec[name] ?? []].flat().map((input) => String(input.path ?? input))
    .filter((path) => path.startsWith("outbox/")).map((path) => [name, `inputs/${encodeURIComponent(path.split("/").pop())}`]));
}
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
  for (const button of one("inputs").children) button.setAttribute("aria-pressed", String(button.dataset.url === url));
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
    const dt = document.createElement("dt"), dd = document.createElement("dd"), was = document.createElement("small");
    dt.textContent = name;
    dd.textContent = value;
    if (others.get(name) !== value && !["file", "took", "made"].includes(name)) {
      was.textContent = ` ${compared === null ? "previous" : "other"}: ${others.get(name) ?? "none"}`;
      dd.append(was);
      dd.dataset.differs = "";
    }
    return [dt, dd];
  }));
  const beside = compared !== null && compared !== place ? [["compared with", encodeURIComponent(images[compared].file)]] : [];
  const befores = [...beside, ...inputsOf(image)];
  one("inputs").replaceChildren(...befores.map(([name, url]) => {
    const button = document.createElement("button"), picture = new Image(48, 48);
    button.type = "button";
    button.dataset.url = url;
    picture.alt = "";
    picture.src = url;
    // Some formats are none of a browser's.
    picture.addEventListener("error", () => picture.remove());
    button.append(picture, name);
    return button;
  }));
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
  more.hidden = prompt.scrollHeight <= prompt.clientHeight + 2;
  more.textContent = "more";
  more.setAttribute("aria-expanded", "false");
  viewer.scrollTop = viewer.querySelector("aside").scrollTop = 0;
  const next = images[visible[at + 1]];
  if (next) new Image().src = encodeURIComponent(next.file);
}
function turn(way, picture) {
  const page = document.querySelector(`[rel=${way}]`);
  if (page) location.replace(page.href + picture);
}
function go(step) {
  const at = visible.indexOf(current) + step;
  if (at >= 0 && at < visible.length) showPicture(visible[at]);
  else turn(step > 0 ? "next" : "prev", step > 0 ? "#-first" : "#-last");
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
const board = one("board"), homes = shots.map((shot) => [shot.parentNode, shot.nextSibling]);
const flat = document.createElement("div");
flat.className = "grid";
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
    const from = current;
    moves[event.key]();
    pick(from, true);
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
  else if (open && event.key === "Home") showPicture(visible[0]);
  else if (open && event.key === "End") showPicture(visible.at(-1));
  else if (inGrid && visible.length && moves[event.key]) moves[event.key]();
  else return;
  event.preventDefault();
});

// --- wiring ---
const place = (target) => shots.indexOf(target.closest(".shot"));
function hold() {
  const { value } = one("cut");
  cut(100);
  const release = () => { cut(value); for (const over of ["keyup", "pointerup", "pointercancel", "blur"]) window.removeEventListener(over, release); };
  for (const over of ["keyup", "pointerup", "pointercancel", "blur"]) window.addEventListener(over, release);
}
const actions = {
  close: (button) => button.closest("dialog").close(),
  go: (button) => go(Number(button.dataset.go)),
  favourite: () => favour(chosen()),
  reject: () => rate(chosen(), -1),
  compare: () => { [compared] = chosen(); showPicture(chosen()[1]); },
  download,
  clear: () => { picks.clear(); paint(); },
  picking: (button) => { picking = !picking; button.setAttribute("aria-pressed", String(picking)); },
  beside: (button) => { button.setAttribute("aria-pressed", String(one("cut").disabled = one("frame").toggleAttribute("data-two"))); },
  more: (button) => {
    const whole = one("prompt").toggleAttribute("data-whole");
    button.textContent = whole ? "less" : "more";
    button.setAttribute("aria-expanded", String(whole));
  },
  // By a key: pressing with a pointer shows it as long as it is held.
  url: (button, event) => { showBefore(button.dataset.url); if (!event.detail) cut(one("cut").value > 0 ? 0 : 100); },
  copy: (button) => button.dataset.copy === "spec" ? copy(yaml(specOf(images[current])), "Spec") : copy(images[current].prompt, "Prompt"),
  help: () => one("keys").showModal(),
  export: () => { showExports(); exporter.showModal(); },
  only: (button) => {
    onlyFavourites = !onlyFavourites;
    button.setAttribute("aria-pressed", String(onlyFavourites));
    narrow();
  },
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
  else if (button) for (const name of Object.keys(button.dataset)) actions[name]?.(button, event);
});
one("inputs").addEventListener("pointerdown", (event) => {
  const button = event.target.closest("button");
  if (button) { showBefore(button.dataset.url); hold(); }
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
const star = document.createElement("button");
star.className = "star";
star.type = "button";
star.tabIndex = -1;
star.textContent = "☆";
star.setAttribute("aria-label", "favourite");
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
if (told.dataset.final === "false") {
  // The file of a preview is absent before the first, and between two pictures.
  const preview = one("preview");
  preview?.addEventListener("error", () => { preview.hidden = true; });
  preview?.addEventListener("load", () => { preview.hidden = false; });
  if (preview) setInterval(() => { if (!document.hidden) preview.src = `preview.webp?${Date.now()}`; }, 1000);
  // While the job runs this file is replaced. Reload it, but not while it is being used.
  setInterval(() => {
    if (!document.querySelector("dialog[open]") && document.activeElement !== filter && !picks.size && !document.hidden) location.reload();
  }, 5000);
}
