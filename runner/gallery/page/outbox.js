// The page of all jobs: the filter, and the cards grouped by day or by pack.
const list = one("list"), cards = [...document.querySelectorAll(".card")];
one("tools").hidden = false;

function groupOf(card, by) {
  if (by === "day") return card.dataset.day;
  return card.dataset.pack || "without a pack";
}

function arrange(by) {
  const sections = new Map();
  for (const card of cards) {
    const name = groupOf(card, by);
    if (!sections.has(name)) {
      const inside = [make("h2", {}, name), make("div", { className: "cards" })];
      sections.set(name, make("section", { className: "day" }, ...inside));
    }
    sections.get(name).lastChild.append(card);
  }
  const names = [...sections.keys()];
  if (by === "pack") names.sort((a, b) => a.localeCompare(b));
  if (names.length) list.replaceChildren(...names.map((name) => sections.get(name)));
  for (const button of document.querySelectorAll("[data-by]")) {
    button.setAttribute("aria-pressed", String(button.dataset.by === by));
  }
  narrow();
}

function narrow() {
  try { sessionStorage.setItem("fluxdrop:jobs", filter.value); } catch { /* not kept over a reload */ }
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const card of cards) {
    const text = `${card.textContent} ${card.dataset.pack} ${card.dataset.words}`.toLowerCase();
    card.hidden = !words.every((word) => text.includes(word));
    count += card.hidden ? 0 : 1;
  }
  for (const section of list.querySelectorAll(".day")) {
    section.hidden = !section.querySelector(".card:not([hidden])");
  }
  one("none").hidden = count > 0 || !words.length;
  one("shown").textContent = words.length ? `${count} of ${cards.length}` : "";
}

filter.addEventListener("input", narrow);
for (const button of document.querySelectorAll("[data-by]")) {
  button.addEventListener("click", () => arrange(button.dataset.by));
}
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== filter) {
    event.preventDefault();
    filter.focus();
  }
});
const names = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
for (const card of cards) {
  const moment = card.querySelector("time");
  const when = new Date(moment.dateTime);
  if (Number.isNaN(when.getTime())) continue;
  // The file has UTC; show the local time.
  moment.textContent = when.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  card.dataset.day = names.format(when);
}
try { filter.value = sessionStorage.getItem("fluxdrop:jobs") ?? ""; } catch { /* empty */ }
arrange("day");
if (one("live")) live(() => false);
