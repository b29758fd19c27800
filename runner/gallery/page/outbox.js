// The page of all jobs: the filter, and the cards grouped by day or by pack.
const list = one("list"), cards = [...document.querySelectorAll(".card")];
one("tools").hidden = false;

function arrange(by) {
  const nameOf = ({ dataset }) => by === "day" ? dataset.day : dataset.pack || "without a pack";
  const groups = [...Map.groupBy(cards, nameOf)];
  if (by === "pack") groups.sort(([a], [b]) => a.localeCompare(b));
  const sections = groups.map(([name, own]) => make("section", { className: "day" },
    make("h2", {}, name), make("div", { className: "cards" }, ...own)));
  if (sections.length) list.replaceChildren(...sections);
  for (const button of document.querySelectorAll("[data-by]")) button.ariaPressed = String(button.dataset.by === by);
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
