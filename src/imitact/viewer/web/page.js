// The page: a tab for each thing to look at, keys, and an address that remembers.

const KINDS = { dataset: Dataset, training: Training, evaluation: Evaluation };
const WORDS = { dataset: "Demonstrations", training: "Training", evaluation: "Evaluation" };

const hashNow = () => new URLSearchParams(location.hash.slice(1));
let tabs = [];
let open = 0;

function show(at, focus = false) {
  const before = tabs[open]?.view;
  before?.play?.(false);
  open = at;
  tabs.forEach((tab, place) => {
    tab.button.setAttribute("aria-selected", place === at);
    tab.button.tabIndex = place === at ? 0 : -1;
    tab.panel.hidden = place !== at;
  });
  const tab = tabs[at];
  if (!tab.view) { // made when first looked at
    tab.view = new KINDS[tab.section.kind](tab.section, hashNow());
    tab.panel.append(tab.view.element);
  }
  if (focus) tab.button.focus();
  redraw();
  remember(tab.view);
}

// The address remembers what is looked at, so that a link, or a reload, shows the same.
let later = 0;
function remember(view) {
  clearTimeout(later);
  later = setTimeout(() => {
    const words = new URLSearchParams();
    if (tabs.length > 1) words.set("tab", tabs[open].section.name);
    if (view instanceof Dataset) {
      words.set("tick", view.tick);
      words.set("episodes", view.selected.join(","));
    }
    const text = `#${words.toString().replaceAll("%2C", ",")}`;
    if (text !== location.hash) history.replaceState(null, "", text);
  }, 250);
}

function follow() {
  const hash = hashNow();
  const at = tabs.findIndex((tab) => tab.section.name === hash.get("tab"));
  if (at >= 0 && at !== open) show(at);
  const view = tabs[open].view;
  if (!(view instanceof Dataset)) return;
  const asked = (hash.get("episodes") || "").split(",").filter(Boolean).map(Number).filter((index) => view.by.has(index));
  if (asked.length && asked.join() !== view.selected.join()) view.choose(asked);
  if (hash.has("tick")) { view.play(false); view.to(Number(hash.get("tick")) || 0); }
}

function begin() {
  if (!page.sections.length) return;
  const list = el("div", { role: "tablist", "aria-label": "what the page shows" });
  const main = el("main", {});
  const several = (kind) => page.sections.filter((section) => section.kind === kind).length > 1;
  tabs = page.sections.map((section, at) => {
    const words = WORDS[section.kind];
    const button = el("button", { type: "button", role: "tab", id: `tab-${at}`, "aria-controls": `panel-${at}`, onclick: () => show(at) },
      several(section.kind) ? section.name : words, section.badge ? el("small", {}, section.badge) : null);
    const panel = el("section", { role: "tabpanel", id: `panel-${at}`, "aria-labelledby": `tab-${at}`, hidden: true, "data-kind": section.kind },
      el("p", { class: "where" }, words, " in ", el("code", {}, section.path)));
    list.append(button);
    main.append(panel);
    return { section, button, panel, view: null };
  });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    show((open + by + tabs.length) % tabs.length, true);
  });
  document.body.append(el("header", { class: "top" }, el("h1", {}, page.title), tabs.length > 1 ? list : null), main,
    el("footer", {}, `imitact ${page.imitact}. Everything in this page is in this file; nothing is loaded.`));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target;
    if (at.tagName === "SELECT" || at.tagName === "VIDEO" || (at.tagName === "INPUT" && at.type !== "range")) return;
    if (event.key === " " && (at.tagName === "BUTTON" || at.tagName === "SUMMARY")) return; // it is pressed by it
    if (tabs[open].view?.key?.(event)) event.preventDefault();
  });
  addEventListener("hashchange", follow);
  const first = tabs.findIndex((tab) => tab.section.name === hashNow().get("tab"));
  show(Math.max(first, 0));
  dark.addEventListener("change", () => { if (tabs[open].view instanceof Dataset) tabs[open].view.choose(tabs[open].view.selected); });
  document.documentElement.dataset.ready = "yes";
}

begin();
