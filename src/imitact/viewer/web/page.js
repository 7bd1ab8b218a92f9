// The page: a tab per section, the keyboard, and an address that restores what is shown.

class Unreadable {
  constructor(section) {
    this.element = el("div", {}, el("p", { class: "finding error" }, section.why));
  }
}

const KINDS = { dataset: Dataset, training: Training, evaluation: Evaluation, run: Run, unreadable: Unreadable };
const LABELS = { dataset: "Demonstrations", training: "Training", evaluation: "Evaluation", run: "Run on a robot" };

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
  if (!tab.view) { // built when first shown
    tab.view = new KINDS[tab.section.kind](tab.section, hashNow());
    tab.panel.append(tab.view.element);
  }
  if (focus) tab.button.focus();
  redraw();
  remember(tab.view);
}

// Keep what is shown in the address, so that a link or a reload shows the same.
let timer = 0;
function remember(view) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const state = new URLSearchParams();
    if (tabs.length > 1) state.set("tab", tabs[open].section.name);
    if (view instanceof Dataset) {
      state.set("tick", view.tick);
      state.set("episodes", view.selected.join(","));
    } else if (view instanceof Run) {
      for (const [name, value] of Object.entries(view.state())) state.set(name, value);
    }
    const text = `#${state.toString().replaceAll("%2C", ",")}`;
    if (text !== location.hash) history.replaceState(null, "", text);
  }, 250);
}

function restore() {
  const hash = hashNow();
  const at = tabs.findIndex((tab) => tab.section.name === hash.get("tab"));
  if (at >= 0 && at !== open) show(at);
  const view = tabs[open].view;
  if (view instanceof Run) view.restore(hash);
  if (!(view instanceof Dataset)) return;
  const episodes = (hash.get("episodes") || "").split(",").filter(Boolean).map(Number).filter((index) => view.by.has(index));
  if (episodes.length && episodes.join() !== view.selected.join()) view.choose(episodes);
  if (hash.has("tick")) { view.play(false); view.seekTo(Number(hash.get("tick")) || 0); }
}

function start() {
  if (!page.sections.length) return;
  const list = el("div", { role: "tablist", "aria-label": "sections" });
  const main = el("main", {});
  const several = (kind) => page.sections.filter((section) => section.kind === kind).length > 1;
  tabs = page.sections.map((section, at) => {
    const label = LABELS[section.of || section.kind];
    const button = el("button", { type: "button", role: "tab", id: `tab-${at}`, "aria-controls": `panel-${at}`, onclick: () => show(at) },
      several(section.kind) ? section.name : label, section.badge ? el("small", {}, section.badge) : null);
    const panel = el("section", { role: "tabpanel", id: `panel-${at}`, "aria-labelledby": `tab-${at}`, hidden: true, "data-kind": section.kind },
      el("p", { class: "where" }, label, " in ", el("code", {}, section.path)));
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
    el("footer", {}, `imitact ${page.imitact}. This file contains everything that the page shows; nothing is loaded.`));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target;
    if (at.tagName === "SELECT" || at.tagName === "VIDEO" || (at.tagName === "INPUT" && at.type !== "range")) return;
    if (event.key === " " && (at.tagName === "BUTTON" || at.tagName === "SUMMARY")) return; // the space bar presses it
    if (tabs[open].view?.key?.(event)) event.preventDefault();
  });
  addEventListener("hashchange", restore);
  const first = tabs.findIndex((tab) => tab.section.name === hashNow().get("tab"));
  show(Math.max(first, 0));
  dark.addEventListener("change", () => { if (tabs[open].view instanceof Dataset) tabs[open].view.choose(tabs[open].view.selected); });
  document.documentElement.dataset.ready = "yes";
}

start();
