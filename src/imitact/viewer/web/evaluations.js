// An evaluation: success rate, stages reached, and episodes with failures first.

class Evaluation {
  constructor(section) {
    this.data = section;
    const percent = (share) => `${(100 * share).toFixed(1)} %`;
    const [low, high] = section.interval;
    const share = section.successes / section.episodes;
    const span = el("i", { class: "span" });
    span.style.left = `${100 * low}%`;
    span.style.width = `${100 * (high - low)}%`;
    const dot = el("i", { class: "dot" });
    dot.style.left = `${100 * share}%`;
    this.element = el("div", {},
      section.note ? el("p", { class: "hint warn" }, section.note) : null,
      el("div", { class: "headline" },
        el("p", { class: "big" }, el("b", {}, String(section.successes)), ` of ${section.episodes}`, el("small", {}, "succeed")),
        el("div", { class: "interval", role: "img", "aria-label": `${percent(share)}, 95 % interval ${percent(low)} to ${percent(high)}` },
          el("div", { class: "track" }, span, dot),
          el("div", { class: "ends" }, el("span", {}, "0"),
            el("span", {}, `95 % interval ${percent(low)} to ${percent(high)}`),
            el("span", {}, "100 %")))),
      facts(section.facts), section.stages.length ? this.makeStages() : null, this.makeRows(), this.makeSpread());
  }

  makeStages() {
    const { stages, reached, episodes } = this.data;
    return el("section", {}, heading("Stages reached", "number of episodes that reached each stage, and where the others failed"),
      el("div", { class: "levels funnel" }, stages.map((name, stage) => {
        const fill = el("i", {});
        fill.style.width = `${(100 * reached[stage]) / episodes}%`;
        const lost = stage ? reached[stage - 1] - reached[stage] : 0;
        return el("div", {}, el("span", { class: "name" }, `${stage}  ${name}`), el("div", { class: "level" }, fill),
          el("span", { class: "value" }, String(reached[stage]), lost ? el("em", {}, ` −${lost}`) : null));
      })));
  }

  makeRows() {
    const { rows, step_cap: cap, stages, rate_hz: rate } = this.data;
    const reachedAt = (row) => (row.success ? row.first_ticks[row.first_ticks.length - 1] : null);
    const columns = [
      ["seed", (r) => r.seed], ["result", (r) => (r.success ? 1 : 0)], ["highest stage", (r) => r.highest_stage ?? -1],
      ["success at tick", (r) => reachedAt(r) ?? Infinity], ["ticks", (r) => r.ticks], ["queries", (r) => r.queries],
      ["jerk, rad/s³", (r) => r.jerk_rad_s3 ?? 0], ["return", (r) => r.reward_sum],
    ];
    let [by, rising] = [1, true]; // failures first
    let only = false;
    const head = columns.map(([name], at) => el("th", { scope: "col" }, el("button", { type: "button", onclick: () => {
      [by, rising] = [at, at === by ? !rising : true];
      fill();
    } }, name)));
    const body = el("tbody", {});
    const line = (row) => {
      const ribbon = el("div", { class: "stagebar", role: "img", "aria-label": `stages over ${row.ticks} ticks` });
      for (const [reward, ticks] of row.rewards) {
        const part = el("i", { title: stages.length ? `${ticks} ticks: ${stages[reward] ?? reward}` : `${ticks} ticks: reward ${reward}` });
        part.style.width = `${(100 * ticks) / cap}%`;
        const top = stages.length > 1 ? stages.length - 1 : Math.max(1, row.highest_stage ?? 1);
        part.style.background = heatColour(0.12 + 0.88 * clamp(reward / top, 0, 1));
        ribbon.append(part);
      }
      const play = row.video ? el("button", { type: "button", class: "play", onclick: () => this.playVideo(row) }, "▶ video") : "";
      const entry = el("tr", { class: row.success ? "" : "failed", "data-seed": row.seed },
        el("th", { scope: "row" }, String(row.seed)),
        el("td", {}, el("span", { class: row.success ? "good" : "bad" }, row.success ? "✓ success" : "✗ failed")),
        el("td", { title: stages[row.highest_stage] ?? "" }, row.highest_stage === null ? "–" : String(row.highest_stage)),
        el("td", {}, short(reachedAt(row))), el("td", {}, String(row.ticks)), el("td", {}, String(row.queries)),
        el("td", {}, short(row.jerk_rad_s3)), el("td", {}, short(row.reward_sum)), el("td", { class: "wide" }, ribbon), el("td", {}, play));
      return entry;
    };
    const fill = () => {
      const key = columns[by][1];
      const sorted = rows.filter((row) => !only || !row.success).sort((a, b) => (key(a) - key(b)) * (rising ? 1 : -1) || a.seed - b.seed);
      body.replaceChildren(...sorted.map(line));
      head.forEach((cell, at) => {
        if (at === by) cell.setAttribute("aria-sort", rising ? "ascending" : "descending");
        else cell.removeAttribute("aria-sort");
      });
    };
    fill();
    const failures = rows.filter((row) => !row.success).length;
    const first = [...rows].sort((a, b) => a.success - b.success || a.seed - b.seed).filter((row) => row.video);
    const strip = first.length ? el("div", { class: "videos" }, first.map((row) => this.makeVideo(row))) : null;
    const without = rows.filter((row) => !row.success && !row.video).map((row) => row.seed);
    const some = without.slice(0, 8).join(", ") + (without.length > 8 ? ", …" : "");
    const hint = without.length
      ? `${plural(without.length, "failure")} without video, seed${without.length === 1 ? "" : "s"} ${some}. `
        + `imitact evaluate with --first-seed ${without[0]} --episodes 1 --videos 1 records one.` : "";
    return el("section", {}, heading("Episodes", `failures first: ${failures} of ${rows.length}`), strip,
      hint ? el("p", { class: "hint" }, hint) : null,
      el("div", { class: "legend" },
        el("label", { class: "choice" }, el("input", {
          type: "checkbox", onchange: (event) => { only = event.target.checked; fill(); },
        }), "failures only"),
        el("span", {}, `bars: stage at each tick over ${cap} ticks (${(cap / rate).toFixed(1)} s), dark to bright`)),
      el("div", { class: "scroll" }, el("table", { class: "rows" },
        el("thead", {}, el("tr", {}, head,
          el("th", { scope: "col", class: "wide" }, "stages over time"), el("th", {}))),
        body)));
  }

  makeVideo(row) {
    const video = el("video", { controls: true, muted: true, playsinline: true, preload: "metadata", "aria-label": `video of seed ${row.seed}` });
    video.muted = true;
    const figure = el("figure", { class: row.success ? "" : "failed", "data-video": row.seed },
      video, el("figcaption", {}, el("span", { class: row.success ? "good" : "bad" }, row.success ? "✓" : "✗"),
        ` seed ${row.seed}: ${this.data.stages[row.highest_stage] ?? `return ${short(row.reward_sum)}`}`));
    video.addEventListener("error", () => video.replaceWith(el("p", { class: "absent" },
      "This browser cannot play h264 video; the file is in the folder videos of the evaluation.")));
    video.src = url(row.video, "video/mp4");
    return figure;
  }

  playVideo(row) {
    const figure = this.element.querySelector(`[data-video="${row.seed}"]`);
    figure.scrollIntoView({ behavior: "smooth", block: "center" });
    const video = figure.querySelector("video");
    if (video) { video.currentTime = 0; video.play().catch(() => {}); }
  }

  makeSpread() {
    const { rows } = this.data;
    const parts = [
      ["success at tick", rows.filter((row) => row.success).map((row) => [row.first_ticks[row.first_ticks.length - 1] ?? row.ticks, true]), ""],
      ["jerk", rows.filter((row) => row.jerk_rad_s3 !== null).map((row) => [row.jerk_rad_s3, row.success]), " rad/s³"],
    ].filter(([, values]) => values.length > 1);
    if (!parts.length) return null;
    return el("section", {}, heading("Ticks and jerk", "distribution over the episodes; failures in red"),
      el("div", { class: "panels wide" }, parts.map(([name, values, own]) => new Histogram(name, own, values).element)));
  }
}

class Histogram {
  constructor(title, own, values) {
    const sorted = values.map(([value]) => value).sort((a, b) => a - b);
    const middle = sorted[Math.floor(sorted.length / 2)];
    const [low, high] = [sorted[0], sorted[sorted.length - 1]];
    const bins = Math.min(24, Math.max(5, Math.ceil(2 * Math.sqrt(values.length))));
    this.bins = Array.from({ length: bins }, () => [0, 0]);
    for (const [value, good] of values) this.bins[Math.min(bins - 1, Math.floor(((value - low) / (high - low || 1)) * bins))][good ? 0 : 1]++;
    Object.assign(this, { low, high });
    this.canvas = el("canvas", { role: "img", "aria-label": `${title}: ${short(low)} to ${short(high)}${own}, median ${short(middle)}` });
    this.box = el("div", { class: "plot" }, this.canvas);
    this.box.style.height = "140px";
    this.box.chart = this;
    this.element = el("figure", { class: "chart" }, el("figcaption", {},
      el("span", { class: "name" }, title), el("span", { class: "unit" }, own),
      el("output", { class: "value" }, `median ${short(middle)}, ${short(low)} to ${short(high)}`)), this.box);
    charts.add(this);
    sizes.observe(this.box);
  }

  draw() {
    if (!this.box.clientWidth) return;
    const [context, width, height] = fit(this.canvas);
    const most = Math.max(...this.bins.map(([a, b]) => a + b));
    const wide = (width - 12) / this.bins.length;
    const tall = (n) => (n / most) * (height - 26);
    this.bins.forEach(([good, bad], at) => {
      context.fillStyle = style("--accent");
      context.fillRect(6 + at * wide, height - 20 - tall(good), wide - 2, tall(good));
      context.fillStyle = style("--bad");
      context.fillRect(6 + at * wide, height - 20 - tall(good) - tall(bad), wide - 2, tall(bad));
    });
    context.font = `10px ${style("--font")}`;
    context.fillStyle = style("--faint");
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (const value of roundNumbers(this.low, this.high, 6)) {
      const column = 6 + ((value - this.low) / (this.high - this.low || 1)) * (width - 12);
      context.fillText(short(Number(value.toPrecision(6))), clamp(column, 14, width - 14), height - 8);
    }
  }
}
