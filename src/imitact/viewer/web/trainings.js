// A training: learning curves, and validation error over the horizon, the joints and the steps.

class Training {
  constructor(section) {
    this.data = section;
    this.element = el("div", {}, facts(section.facts),
      section.note ? el("p", { class: "hint" }, section.note) : null,
      section.curves.length ? this.makeCurves() : el("p", { class: "hint" }, "No metrics yet."),
      section.validations.length ? this.makeValidation() : null);
  }

  makeCurves() {
    const { curves } = this.data;
    const last = Math.max(...curves.map((curve) => curve.x[curve.x.length - 1]));
    this.smooth = 0.9;
    const panels = curves.map((curve) => {
      const chart = new Chart({
        title: curve.label, note: curve.unit ? ` ${curve.unit}` : "",
        from: 0, to: last, height: 150, label: `${curve.label} over steps`,
      });
      chart.curve = curve;
      chart.onPointer((step) => panels.forEach((other) => this.showValue(other, step)));
      return chart;
    });
    const positive = (curve) => curve.y.every((value) => value > 0);
    const set = () => {
      for (const chart of panels) {
        const { curve } = chart;
        chart.log = this.log && curve.log && positive(curve);
        const own = style("--accent");
        const dots = curve.x.length < 60;
        const smooth = dots || !curve.log ? null : this.smoothed(curve.y);
        chart.lines = [{ x: curve.x, y: curve.y, colour: own, alpha: smooth ? 0.28 : 1, width: smooth ? 1 : 1.5, dots }];
        if (smooth) chart.lines.push({ x: curve.x, y: smooth, colour: own, width: 1.75 });
        [chart.low, chart.high] = range([curve.y]);
        if (chart.log) [chart.low, chart.high] = [Math.min(...curve.y) * 0.9, Math.max(...curve.y) * 1.1];
        else if (positive(curve)) chart.low = Math.max(0, chart.low);
        chart.draw();
        this.showValue(chart, null);
      }
    };
    this.log = true;
    set();
    dark.addEventListener("change", set);
    return el("section", {}, heading("Learning curves", "means over the steps between two lines of metrics.jsonl"),
      el("div", { class: "legend" },
        el("label", { class: "choice" }, el("input", {
          type: "checkbox", checked: true, onchange: (event) => { this.log = event.target.checked; set(); },
        }), "logarithmic"),
        choice("smoothing", [["0", "none"], ["0.9", "over 10 lines"], ["0.98", "over 50 lines"]], "0.9",
          (value) => { this.smooth = Number(value); set(); })),
      el("div", { class: "panels wide" }, panels.map((chart) => chart.element)),
      table("last values as a table", ["metric", "step", "value", "lowest", "highest"],
        () => curves.map(({ label, unit: own, x, y }) => [
          label + (own ? `, ${own}` : ""),
          count(x[x.length - 1]), short(y[y.length - 1]), short(Math.min(...y)), short(Math.max(...y)),
        ])));
  }

  smoothed(values) {
    if (!this.smooth) return null;
    let kept = 0;
    let weight = 0;
    return values.map((value) => {
      kept = this.smooth * kept + (1 - this.smooth) * value;
      weight = this.smooth * weight + (1 - this.smooth);
      return kept / weight; // corrects for the start at zero
    });
  }

  showValue(chart, step) {
    const { x, y } = chart.curve;
    let at = x.length - 1;
    if (step !== null) {
      at = 0;
      while (at < x.length - 1 && x[at + 1] <= step) at++;
      if (at < x.length - 1 && x[at + 1] - step < step - x[at]) at++;
    }
    chart.value.textContent = `${short(y[at])} at ${count(x[at])}`;
    chart.setCursor(step === null ? null : x[at]);
  }

  makeValidation() {
    const { validations, joints, units, matrix, rate_hz: rate } = this.data;
    const last = validations[validations.length - 1];
    const whole = el("section", {}, heading("Validation error",
      `L1 between prediction and demonstration on the validation episodes, at step ${count(last.step)}`));
    const time = (tick) => `tick ${tick}${rate ? ` (${(tick / rate).toFixed(2)} s ahead)` : ""}`;
    if (last.per_tick.length > 1) {
      const axis = Float32Array.from(last.per_tick, (_, tick) => tick);
      this.horizon = new Chart({
        title: "over the horizon", note: " mean over the joints, by tick of the chunk",
        from: 0, to: axis.length - 1, height: 190,
      });
      const chart = this.horizon;
      const set = () => {
        chart.base = validations.map((validation, at) => ({
          x: axis, y: validation.per_tick, colour: style("--accent"), width: at === validations.length - 1 ? 2 : 1,
          alpha: at === validations.length - 1 ? 1 : 0.2 + (0.4 * at) / validations.length,
        }));
        chart.lines = chart.base;
        [chart.low, chart.high] = range([...chart.base.map((line) => line.y), ...(matrix || []).filter((_, row) => units[row] === units[0])]);
        chart.low = Math.max(0, chart.low);
        chart.draw();
      };
      set();
      dark.addEventListener("change", set);
      chart.onPointer((x) => {
        const tick = x === null ? axis.length - 1 : Math.round(x);
        chart.value.textContent = `${short(last.per_tick[tick])}${unit(this.data.unit)} at ${time(tick)}`;
        chart.setCursor(x === null ? null : tick);
      });
      whole.append(chart.element);
      if (validations.length > 1) {
        const earlier = validations.slice(0, -1).map((v) => count(v.step)).join(", ");
        whole.append(el("p", { class: "hint" }, `Paler lines are earlier validations, at steps ${earlier}.`));
      }
    }
    if (matrix) {
      whole.append(this.heatMap("each joint over the horizon", joints, units, matrix, matrix[0].map((_, tick) => tick), (at) => time(at), (row) => {
        if (!this.horizon) return;
        const axis = Float32Array.from(matrix[0], (_, tick) => tick);
        this.horizon.above = row === null ? [] : [{ x: axis, y: matrix[row], colour: style("--mark"), width: 1.75 }];
        this.horizon.focus();
      }, "tick of the chunk"));
    } else {
      whole.append(el("p", { class: "hint" }, "The held_out.json of this training has no error per joint and tick: "
        + "an earlier version wrote it, or there has been another validation since."));
    }
    if (validations.length > 1) {
      const over = joints.map((_, row) => validations.map((validation) => validation.per_joint[row]));
      whole.append(this.heatMap("each joint over training", joints, units, over, validations.map((v) => v.step),
        (at) => `step ${count(validations[at].step)}`, () => {}, "step"));
    }
    const most = new Map();
    joints.forEach((_, row) => most.set(units[row], Math.max(most.get(units[row]) || 0, last.per_joint[row])));
    whole.append(el("h3", {}, "each joint, mean over the chunk"), el("div", { class: "levels" }, joints.map((name, row) => {
      const fill = el("i", {});
      fill.style.width = `${(100 * last.per_joint[row]) / (most.get(units[row]) || 1)}%`;
      return el("div", {}, el("span", { class: "name" }, name), el("div", { class: "level" }, fill),
        el("span", { class: "value" }, `${short(last.per_joint[row])}${unit(units[row])}`));
    })), table("validation error as a table", ["joint", "unit", ...validations.map((v) => `step ${count(v.step)}`)],
      () => joints.map((name, row) => [name, units[row], ...validations.map((v) => short(v.per_joint[row]))])));
    return whole;
  }

  heatMap(title, names, units, rows, columns, describe, onRow, axis) {
    return new HeatMap(title, names, units, rows, columns, describe, onRow, axis).element;
  }
}

// Heat map: rows of coloured cells. Each unit has its own scale, since errors in rad and errors of a
// gripper's opening cannot be compared.
class HeatMap {
  constructor(title, names, units, rows, columns, describe, onRow, axis) {
    Object.assign(this, { names, units, rows, columns, axis });
    this.scale = new Map();
    rows.forEach((row, at) => this.scale.set(units[at], Math.max(this.scale.get(units[at]) || 0, ...row)));
    this.value = el("output", { class: "value" });
    this.canvas = el("canvas", { role: "img", "aria-label": `${title}: the numbers are in the table below` });
    this.box = el("div", { class: "plot heat" }, this.canvas);
    this.row = 18;
    this.box.style.height = `${names.length * this.row + 20}px`;
    this.box.chart = this;
    const unitText = (own) => unit(own) || ` (${own === "1" ? "gripper, 0 to 1" : own})`;
    const legend = [...this.scale].map(([own, high]) =>
      el("span", { class: "scale" }, "0", el("i", {}), short(high) + unitText(own)));
    this.element = el("figure", { class: "chart" },
      el("figcaption", {}, el("span", { class: "name" }, title), el("span", { class: "unit" }, legend), this.value),
      this.box);
    this.box.addEventListener("pointermove", (event) => {
      const box = this.canvas.getBoundingClientRect();
      const at = Math.floor((event.clientY - box.top) / this.row);
      const column = Math.floor(((event.clientX - box.left - this.left) / (box.width - this.left - 6)) * columns.length);
      if (at < 0 || at >= names.length || column < 0 || column >= columns.length) return;
      this.value.textContent = `${names[at]}, ${describe(column)}: ${short(rows[at][column])}${unit(units[at])}`;
      onRow(at);
    });
    this.box.addEventListener("pointerleave", () => { this.value.textContent = ""; onRow(null); });
    charts.add(this);
    sizes.observe(this.box);
  }

  draw() {
    if (!this.box.clientWidth) return;
    const [context, width, height] = fit(this.canvas);
    context.font = `11px ${style("--font")}`;
    context.textBaseline = "middle";
    this.left = Math.min(width * 0.4, 10 + Math.max(...this.names.map((name) => context.measureText(name).width)));
    const wide = (width - this.left - 6) / this.columns.length;
    context.textAlign = "right";
    this.names.forEach((name, at) => {
      context.fillStyle = style("--text");
      context.fillText(name, this.left - 6, (at + 0.5) * this.row, this.left - 8);
      this.rows[at].forEach((value, column) => {
        context.fillStyle = heatColour(value / (this.scale.get(this.units[at]) || 1));
        context.fillRect(this.left + column * wide, at * this.row, Math.ceil(wide - (wide > 8 ? 1 : 0)), this.row - 1);
      });
    });
    context.fillStyle = style("--faint");
    context.textAlign = "center";
    const places = this.columns.length <= 12 ? this.columns.map((_, at) => at) : roundNumbers(0, this.columns.length - 1, 8);
    for (const at of places) {
      const text = count(this.columns[at] ?? at);
      const half = context.measureText(text).width / 2;
      context.fillText(text, clamp(this.left + (at + 0.5) * wide, this.left + half, width - half), height - 9);
    }
  }
}

// Dark to bright with evenly rising lightness, readable for colour-blind readers (five stops of cividis).
const STOPS = [[0, 34, 78], [66, 78, 108], [124, 123, 120], [188, 175, 111], [254, 232, 56]];
function heatColour(share) {
  const at = clamp(share, 0, 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  const mix = STOPS[low].map((value, i) => Math.round(value + (at - low) * (STOPS[low + 1][i] - value)));
  return `rgb(${mix.join(" ")})`;
}
