// A run on a robot: asked, commanded, sent and measured of each joint, what held it, and its timing.

const SERIES = [
  // key, what it is, colour, dash, width
  ["state", "measured", "--text", [], 1.25],
  ["asked", "asked", "--e3", [1, 3], 1.5],
  ["action", "commanded", "--accent", [5, 3], 1.25],
  ["sent", "sent", "--e4", [2, 2], 1.25],
];
const LANES = [["hold", "held"], ["filter", "safety filter"], ["person", "person"]];

// The parts of a line between missing values.
function pieces(x, y, look) {
  const out = [];
  for (let i = 0; i < y.length; i++) {
    if (Number.isNaN(y[i])) continue;
    let end = i;
    while (end < y.length && !Number.isNaN(y[end])) end++;
    out.push({ ...look, x: x.subarray(i, end), y: y.subarray(i, end) });
    i = end;
  }
  return out;
}

class Run {
  constructor(section, hash) {
    this.data = section;
    this.x = floats(section.x);
    this.at = 0;
    this.period = (section.every || 1) / section.rate_hz;
    this.end = this.x[this.x.length - 1];
    [this.from, this.to] = [0, this.end || 1];
    this.charts = [];
    const spans = Object.entries(section.spans).flatMap(([kind, found]) => found.map((span) => ({ ...span, kind })));
    this.events = spans.sort((a, b) => a.from - b.from);
    const notes = [
      section.every > 1 ? `The curves show ${section.every === 2 ? "every second tick" : `every tick of ${section.every}`}; marks and figures are of all ticks.` : "",
      section.not_marked ? `${plural(section.not_marked, "short span")} are counted and not marked.` : "",
      section.is_cut ? "The log is longer than a page reads; its end is left out." : "",
    ].filter(Boolean);
    this.element = el("div", {}, this.makeSummary(), facts(section.facts),
      notes.length ? el("p", { class: "hint warn" }, notes.join(" ")) : null,
      heading("The run", "one time axis, in seconds, for all that follows"),
      this.makeBar(), this.makeLanes(), this.makeEvents(), this.makeJoints(), this.makeTiming());
    const seconds = (name, otherwise) => (Number.isFinite(parseFloat(hash.get(name))) ? parseFloat(hash.get(name)) : otherwise);
    this.seekTo(seconds("s", 0));
    const [from, to] = (hash.get("window") || "").split("-").map(Number);
    if (to > from) this.window(from, to); else this.paint();
    dark.addEventListener("change", () => this.paint());
  }

  state() { // for the address
    const whole = this.from <= 0 && this.to >= this.end;
    return { s: this.at.toFixed(2), ...(whole ? {} : { window: `${this.from.toFixed(2)}-${this.to.toFixed(2)}` }) };
  }

  restore(hash) {
    if (hash.has("s")) this.seekTo(Number(hash.get("s")) || 0);
    const [from, to] = (hash.get("window") || "").split("-").map(Number);
    if (to > from) this.window(from, to);
  }

  makeSummary() {
    return el("ul", { class: "story" }, this.data.summary.map((line) => el("li", { class: line.severity },
      el("button", { type: "button", class: "text", title: `go to ${line.at.toFixed(2)} s`, onclick: () => this.show(line.at, line.joint) }, line.text))));
  }

  makeBar() {
    const button = (text, label, act) => el("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    this.slider = el("input", { type: "range", min: 0, max: this.end, step: "any", "aria-label": "time, s", oninput: () => this.seekTo(Number(this.slider.value)) });
    this.clock = el("output", { class: "clock", "aria-live": "off" });
    const key = (name) => el("kbd", {}, name);
    return el("div", { class: "bar", role: "group", "aria-label": "time" },
      button("⇤", "first tick (home)", () => this.seekTo(0)),
      button("‹", "one tick back (left arrow)", () => this.step(-1)),
      button("›", "one tick forward (right arrow)", () => this.step(1)),
      button("−", "show more time (-)", () => this.zoom(2)),
      button("+", "show less time (+)", () => this.zoom(0.5)),
      this.slider, this.clock,
      el("span", { class: "keys" }, key("←"), key("→"), " tick ", key("shift"), " ten ", key("["), key("]"), " mark ",
        key("+"), key("−"), " zoom ", key("0"), " all"));
  }

  makeLanes() {
    const lanes = [["phases", this.data.phases.map((phase) => ({ ...phase, kind: "phase" }))],
      ...LANES.map(([kind, label]) => [label, this.data.spans[kind].map((span) => ({ ...span, kind }))])]
      .filter(([, spans]) => spans.length);
    if (this.data.skips.length) {
      lanes.push(["skipped ticks", this.data.skips.map(([at, n]) => ({ kind: "skip", from: at - n / this.data.rate_hz, to: at, ticks: n, name: plural(n, "tick"), words: "" }))]);
    }
    this.lanes = new Lanes(lanes, (span) => this.colour(span));
    this.charts.push(this.lanes);
    this.lanes.onPointer((x) => this.seekTo(x), true);
    return el("section", {}, this.lanes.element);
  }

  colour(span) {
    if (span.kind === "hold") return style(["waiting", "not engaged", "stopped"].includes(span.name) ? "--faint" : "--bad");
    if (span.kind === "filter") return style(["range", "motion", "stall"].includes(span.name) ? "--e3" : "--bad");
    if (span.kind === "person") return style("--e4");
    if (span.kind === "skip") return style("--bad");
    return style(span.number % 2 ? "--accent" : "--e5");
  }

  makeEvents() {
    const kinds = new Map();
    for (const span of this.events) {
      const key = `${span.kind} ${span.name}`;
      if (!kinds.has(key)) kinds.set(key, []);
      kinds.get(key).push(span);
    }
    if (!kinds.size) return el("p", { class: "hint" }, "Nothing held the robot, and the safety filter passed every action.");
    const label = { hold: "held", filter: "safety filter", person: "person" };
    const rows = [...kinds.values()].sort((a, b) => total(b) - total(a));
    function total(spans) { return spans.reduce((sum, span) => sum + span.ticks, 0); }
    return el("div", { class: "scroll marks" }, el("table", {},
      el("thead", {}, el("tr", {}, ["what", "why", "times", "ticks", "first", ""].map((name) => el("th", { scope: "col", class: name === "why" ? name : null }, name)))),
      el("tbody", {}, rows.map((spans) => {
        const longest = spans.reduce((a, b) => (b.ticks > a.ticks ? b : a));
        const dot = el("i", { class: "dot" });
        dot.style.background = `var(${{ hold: "--bad", filter: "--e3", person: "--e4" }[spans[0].kind]})`;
        return el("tr", { "data-mark": `${spans[0].kind} ${spans[0].name}` },
          el("th", { scope: "row" }, dot, `${label[spans[0].kind]}: ${spans[0].name}`),
          el("td", { class: "why" }, longest.words || "–"), el("td", {}, count(spans.length)), el("td", {}, count(total(spans))),
          el("td", {}, `${spans[0].from.toFixed(2)} s`),
          el("td", {}, el("button", { type: "button", class: "text", onclick: () => this.show(longest.from, longest.joint) }, "longest")));
      }))));
  }

  makeJoints() {
    const { action, state } = this.data;
    const columns = (blob, size) => {
      const flat = floats(blob);
      return Array.from({ length: size }, (_, dim) => Float32Array.from({ length: this.x.length }, (_, i) => flat[i * size + dim]));
    };
    const columnsOf = Object.fromEntries(SERIES.map(([key]) => [key, columns(this.data.series[key], (key === "state" ? state : action).names.length)]));
    this.series = SERIES.filter(([key]) => columnsOf[key].some((column) => column.some((value) => !Number.isNaN(value))));
    const names = [...action.names, ...state.names.filter((name) => !action.names.includes(name))];
    this.joints = names.map((name) => {
      const [told, seen] = [action.names.indexOf(name), state.names.indexOf(name)];
      const own = told >= 0 ? action.units[told] : state.units[seen];
      const chart = new Chart({ title: name, note: unit(own), from: 0, to: this.end || 1, height: 150, label: `${name} over time` });
      chart.onPointer((x, event) => { this.seekTo(x); event?.preventDefault?.(); }, true);
      chart.value.classList.add("long");
      this.charts.push(chart);
      return { name, chart, values: Object.fromEntries(SERIES.map(([key]) => [key, columnsOf[key][key === "state" ? seen : told]])) };
    });
    this.curves = "all";
    const arms = new Map(); // a column per arm
    for (const joint of this.joints) {
      const arm = /^(left|right)/.exec(joint.name)?.[1] ?? "";
      arms.set(arm, [...(arms.get(arm) || []), joint.chart.element]);
    }
    const boxes = [...arms.values()].map((elements) => el("div", {}, elements));
    return el("section", {}, heading("Joints", "drag in a chart to move through time; shaded where the robot was held or the safety filter acted"),
      el("div", { class: "legend" }, this.series.map(([key, text, colour, dash]) => {
        const line = el("i", { class: dash.length ? "dash" : "" });
        line.style.borderTopColor = `var(${colour})`;
        return el("span", { "data-series": key }, line, text);
      }),
      choice("curves", [["all", "asked, commanded, sent, measured"], ["gap", "measured − commanded"], ["cut", "commanded − asked"], ["round", "sent − commanded"]], "all", (value) => {
        this.curves = value;
        this.paint();
      })), el("div", { class: boxes.length > 1 ? "arms" : "panels wide" }, boxes.length > 1 ? boxes : this.joints.map((joint) => joint.chart.element)));
  }

  makeTiming() {
    const { answers, seams } = this.data;
    const make = (title, note, lines) => {
      const chart = new Chart({ title, note, from: 0, to: this.end || 1, height: 130, label: `${title} over time` });
      chart.onPointer((x) => this.seekTo(x), true);
      chart.parts = lines;
      chart.value.classList.add("long");
      this.charts.push(chart);
      return chart;
    };
    const dots = (pairs) => ({ x: Float32Array.from(pairs, (p) => p[0]), y: Float32Array.from(pairs, (p) => p[1]) });
    const late = { x: this.x, y: floats(this.data.late_ms) };
    const ages = Object.entries(this.data.ages_ms).map(([name, blob]) => ({ name, x: this.x, y: floats(blob) }));
    this.timing = [make("lateness", " ms", [{ name: "late", ...late, colour: "--accent" }]),
      make("ages", " ms", ages.map((age, at) => ({ ...age, colour: `--e${at % 8}` })))];
    if (answers.length) this.timing.push(make("answers of the policy", " ms", [{ name: "", ...dots(answers), colour: "--e2", dots: true }]));
    if (seams.length) this.timing.push(make("seams between chunks", " legal steps", [{ name: "", ...dots(seams), colour: "--e6", dots: true }]));
    const legend = el("div", { class: "legend" }, el("span", {}, "ages of"), ages.map((age, at) => {
      const line = el("i", {});
      line.style.borderTopColor = `var(--e${at % 8})`;
      return el("span", {}, line, age.name);
    }));
    return el("section", {}, heading("Timing", "how late ticks began, how old their values were, how long answers took, and how far a new chunk jumped"), legend,
      el("div", { class: "panels wide" }, this.timing.map((chart) => chart.element)));
  }

  // Draw the lines of all charts within the window.
  paint() {
    const bands = this.events.filter((span) => span.kind !== "person" && span.to >= this.from && span.from <= this.to && span.name !== "waiting")
      .map((span) => ({ from: span.from, to: span.to, colour: this.colour(span) }));
    for (const { chart, values } of this.joints) {
      let lines;
      if (this.curves === "all") {
        lines = this.series.filter(([key]) => values[key]).flatMap(([key, , colour, dash, width]) =>
          pieces(...this.cut(this.x, values[key]), { colour: style(colour), dash, width }));
      } else {
        const [a, b] = { gap: ["state", "action"], cut: ["action", "asked"], round: ["sent", "action"] }[this.curves];
        const y = values[a] && values[b] ? values[a].map((value, i) => value - values[b][i]) : new Float32Array(this.x.length).fill(NaN);
        lines = pieces(...this.cut(this.x, y), { colour: style("--accent"), width: 1.5 });
      }
      this.fill(chart, lines, bands);
    }
    for (const chart of this.timing) {
      const lines = chart.parts.flatMap((part) => {
        const look = { colour: style(part.colour), width: 1.25 };
        const [x, y] = this.cut(part.x, part.y);
        return part.dots ? (x.length ? [{ ...look, x, y, dots: true, alpha: 0.8 }] : []) : pieces(x, y, look);
      });
      this.fill(chart, lines, [], true);
    }
    this.lanes.from = this.from;
    this.lanes.to = this.to;
    this.lanes.draw();
    this.seekTo(this.at);
  }

  fill(chart, lines, bands, isTime = false) {
    Object.assign(chart, { lines, bands, from: this.from, to: this.to });
    [chart.low, chart.high] = range(lines.map((line) => line.y));
    if (isTime) [chart.low, chart.high] = [0, Math.max(chart.high, 0.01)]; // none is below 0
    chart.draw();
  }

  // What lies in the window, and one point on either side.
  cut(x, y) {
    let low = 0;
    while (low < x.length - 1 && x[low + 1] < this.from) low++;
    let high = x.length;
    while (high > low + 1 && x[high - 2] > this.to) high--;
    return [x.subarray(low, high), y.subarray(low, high)];
  }

  window(from, to) {
    const wide = clamp(to - from, Math.min(10 * this.period, this.end || 1), this.end || 1);
    this.from = clamp(from, 0, Math.max(0, this.end - wide));
    this.to = this.from + wide;
    this.paint();
  }

  zoom(by) {
    const wide = (this.to - this.from) * by;
    const share = clamp((this.at - this.from) / (this.to - this.from), 0, 1);
    this.window(this.at - wide * share, this.at + wide * (1 - share));
  }

  // Go to a time, and to the chart of a joint.
  show(at, joint = "") {
    this.seekTo(at);
    const found = this.joints.find(({ name }) => name === joint);
    (found ? found.chart.element : this.lanes.element).scrollIntoView({ behavior: "smooth", block: "center" });
  }

  nearest(x, at) {
    let [low, high] = [0, x.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (x[middle] <= at) low = middle; else high = middle;
    }
    return x.length && Math.abs(x[high] - at) < Math.abs(x[low] - at) ? high : low;
  }

  step(by) {
    this.seekTo(this.x[clamp(this.nearest(this.x, this.at) + by, 0, this.x.length - 1)]);
  }

  mark(by) {
    const eps = this.period / 2;
    const found = by > 0 ? this.events.find((span) => span.from > this.at + eps)
      : this.events.filter((span) => span.from < this.at - eps).pop();
    if (found) this.seekTo(found.from);
  }

  seekTo(at) {
    const row = this.nearest(this.x, at);
    this.at = this.x[row];
    if (this.at < this.from - 1e-6 || this.at > this.to + 1e-6) { // rounding puts the end beside the window
      const half = (this.to - this.from) / 2;
      this.window(this.at - half, this.at + half);
      return; // it comes here again
    }
    this.slider.value = this.at;
    const here = this.events.filter((span) => span.from <= this.at + 1e-6 && this.at < Math.max(span.to, span.from + 1e-6));
    this.clock.textContent = `${this.at.toFixed(2)} s of ${this.end.toFixed(2)} s`;
    const phase = this.data.phases.find((each) => each.from <= this.at + 1e-6 && this.at < each.to);
    this.lanes.value.textContent = [phase ? phase.name : "", ...here.map((span) => (span.words && span.kind !== "person" ? `${span.name}: ${span.words}` : span.name))].filter(Boolean).join("; ") || "nothing held";
    for (const { chart, values } of this.joints) {
      chart.value.textContent = this.series.filter(([key]) => values[key]).map(([key, text]) => `${text} ${short(values[key][row])}`).join("  ");
    }
    for (const chart of this.timing) {
      chart.value.textContent = chart.parts.map((part) => {
        const near = this.nearest(part.x, this.at);
        const text = part.dots ? `${short(part.y[near])} at ${part.x[near].toFixed(2)} s` : short(part.y[near]);
        return part.name && chart.parts.length > 1 ? `${part.name} ${text}` : text;
      }).join("  ");
    }
    for (const chart of this.charts) chart.setCursor(this.at);
    if (tabs[open]?.view === this) remember(this);
  }

  key(event) {
    const by = event.shiftKey ? 10 : 1;
    const act = {
      ArrowLeft: () => this.step(-by), ArrowRight: () => this.step(by), Home: () => this.seekTo(0), End: () => this.seekTo(this.end),
      "[": () => this.mark(-1), "]": () => this.mark(1), "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2),
      0: () => this.window(0, this.end || 1),
    }[event.key];
    act?.();
    return Boolean(act);
  }
}

// Lanes: what was going on over time, a strip for each kind, on the axis of the charts.
class Lanes extends Chart {
  constructor(lanes, colour) {
    super({ title: "what happened", height: 22 + 30 * lanes.length, label: "phases, holds, acts of the safety filter and interventions over time" });
    Object.assign(this, { lanes, colour });
    this.value.classList.add("long");
    this.cursor.classList.add("over");
  }

  draw() {
    if (!this.box.clientWidth) return;
    const [context, width, height] = fit(this.canvas);
    this.size = width;
    context.textBaseline = "middle";
    context.textAlign = "left";
    const right = width - 6;
    this.lanes.forEach(([label, spans], at) => {
      const top = 4 + at * 30;
      context.font = `11px ${style("--font")}`;
      context.fillStyle = style("--faint");
      context.fillText(label, this.left, top + 6);
      context.fillStyle = style("--grid");
      context.fillRect(this.left, top + 13, right - this.left, 12);
      for (const span of spans) {
        const from = clamp(this.across(span.from, width), this.left, right);
        const to = clamp(this.across(span.to, width), this.left, right);
        if (span.to < this.from || span.from > this.to) continue;
        context.globalAlpha = span.kind === "phase" ? 0.35 : 1;
        context.fillStyle = this.colour(span);
        context.fillRect(from, top + 13, Math.max(to - from - (span.kind === "phase" ? 1 : 0), 1.5), 12);
        context.globalAlpha = 1;
        const wide = context.measureText(span.name).width;
        if (span.kind === "phase" && to - from > wide + 10) {
          context.fillStyle = style("--text");
          context.fillText(span.name, from + 5, top + 19);
        }
      }
    });
    context.font = `10px ${style("--font")}`;
    context.fillStyle = style("--faint");
    context.textAlign = "center";
    for (const x of roundNumbers(this.from, this.to, Math.max(2, Math.floor(width / 90)))) {
      const text = count(Number(x.toPrecision(6)));
      const half = context.measureText(text).width / 2;
      context.fillText(text, clamp(this.across(x, width), this.left + half - 4, width - half - 1), height - 7);
    }
    this.place();
  }
}
