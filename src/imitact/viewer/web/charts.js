// Charts: lines over a common axis, and the parts that several tabs share.

// lines: [{x, y, colour, width, dash, alpha, dots}], with x increasing and as long as y. There are
// two layers, all lines and above them the lines in focus. The cursor is an element of its own, so
// that moving it redraws nothing.
class Chart {
  constructor({ title, note = "", low, high, from = 0, to = 1, log = false, height = 96, label }) {
    Object.assign(this, { low, high, from, to, log, lines: [], above: [], marks: [], bands: [] });
    this.left = 46;
    this.bottom = 18;
    this.canvas = el("canvas", { role: "img", "aria-label": label || title });
    this.top = el("canvas", { "aria-hidden": "true" });
    this.cursor = el("div", { class: "cursor", hidden: true });
    this.box = el("div", { class: "plot" }, this.canvas, this.top, this.cursor);
    this.box.style.height = `${height}px`;
    this.value = el("output", { class: "value" });
    this.element = el("figure", { class: "chart" },
      el("figcaption", {}, el("span", { class: "name" }, title), el("span", { class: "unit" }, note),
        this.value), this.box);
    this.box.chart = this;
    charts.add(this);
    sizes.observe(this.box);
  }

  // Call move(x) while the pointer moves over the chart (or only while pressed), move(null) as it leaves.
  onPointer(move, pressed = false) {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const share = (event.clientX - box.left - this.left) / Math.max(box.width - this.left - 6, 1);
      return this.from + clamp(share, 0, 1) * (this.to - this.from);
    };
    this.box.classList.add("live");
    this.box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.box.setPointerCapture(event.pointerId);
      move(at(event), event);
    });
    this.box.addEventListener("pointermove", (event) => {
      if (!pressed || event.buttons & 1) move(at(event), event);
    });
    if (!pressed) this.box.addEventListener("pointerleave", () => move(null));
  }

  across(x, width) {
    return this.left + ((x - this.from) / (this.to - this.from || 1)) * (width - this.left - 6);
  }

  down(y, height) {
    const scale = this.log ? (v) => Math.log10(Math.max(v, 1e-12)) : (v) => v;
    const [low, high] = [scale(this.low), scale(this.high)];
    return 5 + (1 - (scale(y) - low) / (high - low || 1)) * (height - 5 - this.bottom);
  }

  draw() {
    if (!this.box.clientWidth) return;
    const [context, width, height] = fit(this.canvas);
    this.size = width;
    context.font = `10px ${style("--font")}`;
    context.textBaseline = "middle";
    context.lineWidth = 1;
    const grid = style("--grid");
    const faint = style("--faint");
    let about = Math.max(2, Math.floor(height / 34));
    let edge = this.log ? decades(this.low, this.high) : roundNumbers(this.low, this.high, about);
    // An axis needs two numbers to show its scale.
    while (!this.log && edge.length < 2 && about < 12) edge = roundNumbers(this.low, this.high, ++about);
    context.textAlign = "right";
    // As many digits as neighbours need to differ: 0.9603 and 0.9604 on the axis of a joint at rest.
    const digits = this.log || edge.length < 2 ? 0 : clamp(Math.ceil(-Math.log10(edge[1] - edge[0]) - 1e-9), 0, 5);
    const write = (y) => (digits > 2 && Math.abs(y) < 100 && y !== 0 ? y.toFixed(digits) : short(Number(y.toPrecision(6))));
    for (const y of edge) {
      const row = Math.round(this.down(y, height)) + 0.5;
      if (row < 2 || row > height - this.bottom + 2) continue;
      context.strokeStyle = grid;
      context.beginPath();
      context.moveTo(this.left, row);
      context.lineTo(width - 6, row);
      context.stroke();
      context.fillStyle = faint;
      context.fillText(write(y), this.left - 6, row);
    }
    context.textAlign = "center";
    for (const x of roundNumbers(this.from, this.to, Math.max(2, Math.floor(width / 90)))) {
      const column = this.across(x, width);
      const text = count(Number(x.toPrecision(6)));
      const half = context.measureText(text).width / 2;
      context.fillText(text, clamp(column, this.left + half - 4, width - half - 1), height - 7);
    }
    for (const { from, to, colour } of this.bands) { // spans of x that are shaded
      const [left, right] = [from, to].map((x) => clamp(this.across(x, width), this.left, width - 6));
      context.globalAlpha = 0.14;
      context.fillStyle = colour;
      context.fillRect(left, 5, Math.max(right - left, 1), height - 5 - this.bottom);
    }
    context.globalAlpha = 1;
    this.trace(context, width, height, this.lines);
    this.focus();
    this.place();
  }

  focus() {
    if (!this.box.clientWidth) return;
    const [context, width, height] = fit(this.top);
    context.font = `10px ${style("--font")}`;
    context.textAlign = "center";
    context.fillStyle = style("--faint");
    context.strokeStyle = style("--mark");
    let [words, from, to] = ["", 0, -Infinity]; // of the label not written yet
    const write = () => words && context.fillText(words, (from + to) / 2, 9);
    for (const { x, text, bad } of this.marks) { // in the order of ticks
      const column = Math.round(this.across(x, width)) + 0.5;
      context.strokeStyle = style(bad ? "--bad" : "--mark");
      context.setLineDash(bad ? [] : [2, 3]);
      context.beginPath();
      context.moveTo(column, 12);
      context.lineTo(column, height - this.bottom);
      context.stroke();
      const space = (context.measureText(words).width + context.measureText(text).width) / 2 + 4;
      if (column - (from + to) / 2 < space) {
        [words, to] = [`${words}, ${text}`, column]; // stages at nearly the same tick share a label
      } else {
        write();
        [words, from, to] = [text, column, column];
      }
    }
    write();
    context.setLineDash([]);
    this.trace(context, width, height, this.above);
  }

  trace(context, width, height, lines) {
    context.save();
    context.beginPath();
    context.rect(this.left, 0, width - this.left, height - this.bottom + 2);
    context.clip();
    context.lineJoin = "round";
    for (const line of lines) {
      context.strokeStyle = line.colour;
      context.globalAlpha = line.alpha ?? 1;
      context.lineWidth = line.width ?? 1.25;
      context.setLineDash(line.dash ?? []);
      context.beginPath();
      const { x, y } = line;
      // Where many points fall on one pixel, only its lowest and highest are visible.
      const crowd = x.length / Math.max(width - this.left, 1);
      const stride = crowd > 3 ? Math.floor(crowd) : 1;
      for (let i = 0; i < x.length; i += stride) {
        if (stride === 1) {
          context.lineTo(this.across(x[i], width), this.down(y[i], height));
          continue;
        }
        let [low, high] = [Infinity, -Infinity];
        for (let j = i; j < Math.min(i + stride, x.length); j++) {
          low = Math.min(low, y[j]);
          high = Math.max(high, y[j]);
        }
        const column = this.across(x[i], width);
        context.lineTo(column, this.down(low, height));
        context.lineTo(column, this.down(high, height));
      }
      context.stroke();
      if (line.dots || x.length === 1) {
        context.fillStyle = line.colour;
        for (let i = 0; i < x.length; i++) {
          context.beginPath();
          context.arc(this.across(x[i], width), this.down(y[i], height), 2.5, 0, 7);
          context.fill();
        }
      }
    }
    context.restore();
  }

  // Move the cursor to x; null hides it.
  setCursor(x) {
    this.at = x;
    this.place();
  }

  place() {
    const shown = this.at !== null && this.at !== undefined && this.size;
    this.cursor.hidden = !shown;
    if (!shown) return;
    this.cursor.dataset.at = this.at;
    this.cursor.style.transform = `translateX(${this.across(this.at, this.size)}px)`;
  }
}

// The range of all numbers, with a margin; [0, 1] where there are none.
function range(arrays, margin = 0.06) {
  let [low, high] = [Infinity, -Infinity];
  for (const array of arrays) {
    for (let i = 0; i < array.length; i++) {
      if (array[i] < low) low = array[i];
      if (array[i] > high) high = array[i];
    }
  }
  if (!(high >= low)) return [0, 1];
  const pad = (high - low) * margin || Math.abs(high) * 0.1 || 0.1;
  return [low - pad, high + pad];
}


const facts = (pairs) => el("dl", { class: "facts" },
  pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));

const heading = (text, note = "") => el("h2", {}, text, note ? el("small", {}, note) : null);

// A table that is built when it is opened: the numbers of a chart as text.
function table(summary, head, rows) {
  const whole = el("details", {}, el("summary", {}, summary));
  whole.addEventListener("toggle", () => {
    if (whole.open && whole.children.length === 1) {
      whole.append(el("div", { class: "scroll" }, el("table", {},
        el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, rows().map((row) => el("tr", {}, row.map((cell, at) =>
          el(at ? "td" : "th", at ? {} : { scope: "row" }, String(cell)))))))));
    }
  });
  return whole;
}

// A labelled drop-down list; onChoose is called with the value.
function choice(label, options, chosen, onChoose) {
  const select = el("select", { onchange: () => onChoose(select.value) },
    options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  return el("label", { class: "choice" }, label, select);
}
