"use strict";
// One job's page: the viewer, copying a picture as a spec, the filter, favourites, keys.
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
const key = `fluxdrop:${job}:`;
let current = 0, onlyFavourites = false, visible = shots.map((_, place) => place);

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
function exports(how) {
  const files = favoured();
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

// --- favourites ---
function favour(place) {
  const { file } = images[place];
  if (favourites.delete(file)) delete kept[file];
  else { favourites.add(file); kept[file] = specOf(images[place]); }
  save("localStorage", "favourites", [...favourites]);
  save("localStorage", "specs", kept);
  paint();
  if (onlyFavourites) narrow();
}
function paint() {
  shots.forEach((shot, place) => shot.toggleAttribute("data-favourite", favourites.has(images[place].file)));
  one("favourites").textContent = favoured().length;
  one("favourite").setAttribute("aria-pressed", String(favourites.has(images[current]?.file)));
}
function showExports() {
  const how = document.querySelector("[name=as]:checked").value;
  const parts = one("favourites").textContent === "0" ? [] : exports(how);
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
function showPicture(place) {
  const image = images[place], { result } = image, full = one("full");
  current = place;
  full.src = encodeURIComponent(image.file);
  full.alt = image.prompt || image.file;
  full.classList.toggle("crisp", shots[place].classList.contains("crisp"));
  one("prompt").textContent = image.prompt || "(no prompt)";
  one("file").href = encodeURIComponent(image.file);
  const model = typeof result.model === "object" && result.model ? result.model.repo : result.model;
  const seconds = typeof result.seconds === "number" ? `${result.seconds.toFixed(1)} s` : "";
  const size = result.width && result.height ? `${result.width} × ${result.height}` : "";
  const made = result.created_at ? new Date(result.created_at).toLocaleString() : "";
  const shownOnce = ["prompt", "width", "height", "metadata"];
  const settings = [["file", image.file], ["subject", result.subject], ["variable", result.variable], ["size", size],
    ...Object.entries(specOf(image)).filter(([name]) => !shownOnce.includes(name)),
    ["pack", result.pack], ["repository", model], ["dtype", result.dtype], ["device", result.device], ["took", seconds], ["made", made]];
  one("settings").replaceChildren(...settings.filter(([, value]) => value !== undefined && value !== null && value !== "").flatMap(([name, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = typeof value === "object" ? JSON.stringify(value) : String(value);
    return [dt, dd];
  }));
  paint();
  if (!viewer.open) viewer.showModal();
  history.replaceState(null, "", `#${shots[place].id}`);
  const next = images[visible[visible.indexOf(place) + 1]];
  if (next) new Image().src = encodeURIComponent(next.file);
}
function turn(way, picture) {
  const page = document.querySelector(`[rel=${way}]`);
  if (page) location.href = page.href + picture;
}
function go(step) {
  const at = visible.indexOf(current) + step;
  if (at >= 0 && at < visible.length) showPicture(visible[at]);
  else turn(step > 0 ? "next" : "prev", step > 0 ? "#-first" : "#-last");
}

// --- filter ---
// As the gallery searches: each word must begin a word, or be anywhere in scripts without spaces.
const folded = (text) => ` ${text.normalize("NFKC").toLowerCase().replace(/[\s\p{P}\p{S}]+/gu, " ").trim()}`;
const haystacks = images.map(({ prompt, result, spec, file }) => folded([prompt, result.subject, result.variable, spec.seed, file]
  .filter((part) => part !== undefined && part !== null).join(" ")));
const inside = (haystack, word) => haystack.includes(/^[\x20-\x7f]+$/.test(word) ? ` ${word}` : word);
function narrow() {
  const words = folded(filter.value).split(" ").filter(Boolean);
  const wanted = (place) => words.every((word) => inside(haystacks[place], word))
    && (!onlyFavourites || favourites.has(images[place].file));
  visible = [];
  shots.forEach((shot, place) => {
    shot.hidden = !wanted(place);
    if (!shot.hidden) visible.push(place);
  });
  const narrowed = words.length > 0 || onlyFavourites;
  for (const row of document.querySelectorAll(".row")) row.hidden = narrowed && !row.querySelector(".shot:not([hidden])");
  for (const other of document.querySelectorAll(".missing, .to-come")) other.hidden = narrowed;
  one("shown").textContent = narrowed ? `${visible.length.toLocaleString()} of ${shots.length.toLocaleString()}${pages.length ? " on this page" : ""}` : "";
  if (shots[current]?.hidden && visible.length) rove(visible[0], false);
  save("sessionStorage", "filter", filter.value);
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
  if (event.target.matches("input, textarea")) {
    if (event.key === "Escape" && event.target === filter) { filter.value = ""; narrow(); filter.blur(); }
    return;
  }
  const open = document.querySelector("dialog[open]");
  if (open && open !== viewer) return;
  const inGrid = !open && (document.activeElement === document.body || document.activeElement.matches(".shot"));
  if (event.key === "/" && !open) filter.focus();
  else if (event.key === "?" && !open) one("keys").showModal();
  else if (event.key === "f" && images[current]) favour(current);
  else if (event.key === "c" && images[current]) copy(yaml(specOf(images[current])), "Spec");
  else if (open && event.key === "ArrowRight") go(1);
  else if (open && event.key === "ArrowLeft") go(-1);
  else if (inGrid && visible.length && moves[event.key]) moves[event.key]();
  else return;
  event.preventDefault();
});

// --- wiring ---
const place = (target) => shots.indexOf(target.closest(".shot"));
document.addEventListener("click", (event) => {
  const shot = event.target.closest(".shot");
  if (shot && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    if (event.target.closest(".star")) favour(place(shot));
    else { rove(place(shot), false); showPicture(place(shot)); }
    return;
  }
  const button = event.target.closest("button");
  if (event.target.matches("dialog")) event.target.close();
  else if (!button) return;
  else if ("close" in button.dataset) button.closest("dialog").close();
  else if ("go" in button.dataset) go(Number(button.dataset.go));
  else if ("favourite" in button.dataset) favour(current);
  else if (button.dataset.copy === "spec") copy(yaml(specOf(images[current])), "Spec");
  else if (button.dataset.copy === "prompt") copy(images[current].prompt, "Prompt");
  else if ("help" in button.dataset) one("keys").showModal();
  else if ("export" in button.dataset) { showExports(); exporter.showModal(); }
  else if ("only" in button.dataset) {
    onlyFavourites = !onlyFavourites;
    button.setAttribute("aria-pressed", String(onlyFavourites));
    narrow();
  }
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
  history.replaceState(null, "", location.pathname + location.search);
  rove(current);
});
exporter.addEventListener("change", showExports);
one("count").addEventListener("input", showExports);
filter.addEventListener("input", narrow);
const size = one("size");
const grow = () => document.body.style.setProperty("--thumb", `${size.value}px`);
const chosen = load("localStorage", "size", null);
size.value = chosen ?? shots[0]?.offsetWidth ?? 168;
if (chosen) grow();
size.addEventListener("input", () => { grow(); save("localStorage", "size", size.value); });
const tools = one("tools");
tools.hidden = shots.length === 0;
document.body.style.setProperty("--tools", `${tools.offsetHeight}px`);
shots.forEach((shot, at) => { shot.tabIndex = at ? -1 : 0; });
filter.value = load("sessionStorage", "filter", "");
paint();
narrow();
// The picture that the address names: of this page, its first or last, or one of another page.
const address = decodeURIComponent(location.hash.slice(1));
const named = { "-first": visible[0], "-last": visible.at(-1) }[address] ?? shots.findIndex((shot) => shot.id === address);
const number = address.startsWith(`${job}-`) ? Number(address.slice(job.length + 1)) : 0;
const elsewhere = pages.findLast((page) => Number(page.dataset.start) <= number);
if (shots[named]) showPicture(named);
else if (elsewhere && !elsewhere.hasAttribute("aria-current")) location.replace(elsewhere.href + location.hash);
if (told.dataset.final === "false") {
  // While the job runs this file is replaced. Reload it, but not while it is being used.
  setInterval(() => {
    if (!document.querySelector("dialog[open]") && document.activeElement !== filter && !document.hidden) location.reload();
  }, 5000);
}
