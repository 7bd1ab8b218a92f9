// Demonstrations: videos, states and actions over one time axis; lengths and starts of episodes.

const UNPLAYABLE = "This browser cannot play h264 video. Curves and cursors still work; another browser, or "
  + "imitact view with --rerun, shows the frames.";

class Dataset {
  constructor(section, hash) {
    this.data = section;
    this.rate = section.rate_hz;
    this.tick = 0;
    this.playing = false;
    this.speed = 1;
    this.camera = section.cameras[0]?.name;
    this.by = new Map(section.episodes.map((episode, place) => [episode.index, { ...episode, place }]));
    const withVideo = section.episodes.filter((e) => Object.keys(e.clips).length).map((e) => e.index);
    const requested = (hash.get("episodes") || "").split(",").map(Number).filter((i) => this.by.has(i));
    this.selected = requested.length && hash.get("episodes") ? requested : withVideo.length ? withVideo : [...this.by.keys()].slice(0, 8);
    this.focused = this.selected[0];
    this.cards = new Map();
    this.found = new Map(); // episode (null: all) to its findings
    for (const finding of section.findings || []) {
      this.found.set(finding.episode, [...(this.found.get(finding.episode) || []), finding]);
    }
    this.element = el("div", {},
      facts(section.facts), section.left_out ? el("p", { class: "hint" }, section.left_out) : null,
      [null, ...section.unread].flatMap((index) => this.findingsOf(index)).map((finding) => this.makeFinding(finding)),
      heading("Episodes", "one time axis for all videos and curves"),
      this.makeBar(), this.makePicker(), this.makeFilter(), (this.grid = el("div", { class: "cards" })),
      this.makePanels(), this.makeLengths(), this.makeStarts());
    this.choose(this.selected);
    this.seekTo(clamp(Number(hash.get("tick")) || 0, 0, this.last));
  }

  get last() {
    return Math.max(0, ...this.selected.map((index) => this.by.get(index).ticks - 1));
  }

  numbers(index) {
    const episode = this.by.get(index);
    if (!episode.columns) {
      const columns = (blob, size) => {
        const flat = floats(blob);
        return Array.from({ length: size }, (_, dim) => {
          const out = new Float32Array(episode.ticks);
          for (let tick = 0; tick < episode.ticks; tick++) out[tick] = flat[tick * size + dim];
          return out;
        });
      };
      episode.columns = {
        state: columns(episode.state, this.data.state.names.length),
        action: columns(episode.action, this.data.action.names.length),
      };
      episode.x = Float32Array.from({ length: episode.ticks }, (_, tick) => tick);
    }
    return episode;
  }

  makeBar() {
    const button = (text, label, act) => el("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    this.playButton = button("▶", "play (space)", () => this.play(!this.playing));
    this.slider = el("input", {
      type: "range", min: 0, step: 1, "aria-label": "tick",
      oninput: () => { this.play(false); this.seekTo(Number(this.slider.value)); },
    });
    const key = (name) => el("kbd", {}, name);
    this.clock = el("output", { class: "clock", "aria-live": "off" });
    return el("div", { class: "bar", role: "group", "aria-label": "time" },
      button("⇤", "first tick (home)", () => { this.play(false); this.seekTo(0); }),
      button("‹", "one tick back (left arrow)", () => this.step(-1)), this.playButton,
      button("›", "one tick forward (right arrow)", () => this.step(1)),
      this.slider, this.clock,
      choice("speed", [["0.25", "¼×"], ["0.5", "½×"], ["1", "1×"], ["2", "2×"]], "1", (value) => {
        this.speed = Number(value);
        if (this.playing) { this.play(false); this.play(true); }
      }),
      this.data.cameras.length > 1
        ? choice("camera", this.data.cameras.map((c) => [c.name, c.name]), this.camera, (name) => {
          this.camera = name;
          this.choose(this.selected);
        }) : null,
      el("span", { class: "keys" }, key("←"), key("→"), " tick ", key("shift"), " ten ", key("space"), " play ",
        key("["), key("]"), " episode"));
  }

  makePicker() {
    this.chips = new Map();
    const chips = this.data.episodes.map(({ index, clips }) => {
      const hasVideo = Object.keys(clips).length > 0;
      const chip = el("button", {
        type: "button", class: hasVideo ? "chip with-video" : "chip",
        title: [`episode ${index}${this.note(index)}${hasVideo ? "" : ", curves only"}`,
          ...this.findingsOf(index).map((f) => `${f.severity}: ${f.kind}`)].join("\n"),
        onclick: () => this.toggle(index),
      }, String(index));
      const worst = this.findingsOf(index)[0]?.severity; // they are sorted
      if (worst) chip.classList.add(worst);
      this.chips.set(index, chip);
      return chip;
    });
    const unread = this.data.unread.map((index) => el("button", {
      type: "button", class: "chip error", disabled: true, title: `episode ${index} cannot be read`,
    }, String(index)));
    const all = this.data.episodes.map((e) => e.index);
    const withVideo = all.filter((index) => Object.keys(this.by.get(index).clips).length);
    return el("div", { class: "picker", role: "group", "aria-label": "episodes shown" },
      el("span", { class: "label" }, "show"), (this.chipBox = el("span", { class: "chips" }, chips)),
      unread.length ? el("span", { class: "chips" }, unread) : null,
      withVideo.length && withVideo.length < all.length
        ? el("button", { type: "button", class: "text", onclick: () => this.choose(withVideo) }, "with video") : null,
      el("button", { type: "button", class: "text", onclick: () => this.choose(all) }, `all ${all.length}`));
  }

  findingsOf(index) {
    return this.found.get(index) || [];
  }

  // A finding as a line; a click moves to its tick.
  makeFinding(finding) {
    const go = () => {
      if (finding.episode === null || !this.by.has(finding.episode)) return;
      if (!this.selected.includes(finding.episode)) this.choose([...this.selected, finding.episode].sort((a, b) => a - b));
      this.focus(finding.episode);
      this.play(false);
      if (finding.ticks) this.seekTo(finding.ticks[0]);
    };
    return el("p", { class: `finding ${finding.severity}` },
      el("button", { type: "button", class: "text", title: finding.remedy, onclick: (event) => { event.stopPropagation(); go(); } },
        finding.where), `: ${finding.what} `, el("code", {}, finding.kind));
  }

  // Which episodes are offered, and in which order.
  makeFilter() {
    const kinds = [...new Set((this.data.findings || []).filter((f) => f.episode !== null).map((f) => f.kind))];
    const lengths = this.data.episodes.map((e) => e.ticks);
    const [low, high] = [Math.min(...lengths), Math.max(...lengths)];
    Object.assign(this, { order: "number", only: "", shortest: low, longest: high });
    const ticks = (label, key) => {
      const input = el("input", {
        type: "number", min: low, max: high, value: this[key], "aria-label": `${label}, ticks`,
        onchange: () => { this[key] = Number(input.value); this.filter(); },
      });
      return el("label", { class: "choice" }, label, input);
    };
    const only = [["", "all"], ["any", "with findings"], ["error", "with errors"], ["none", "without findings"],
      ...kinds.map((kind) => [`kind ${kind}`, kind])];
    this.filterCount = el("output", { class: "keys" });
    return el("div", { class: "picker", role: "group", "aria-label": "filter" },
      choice("sort by", [["number", "number"], ["findings", "findings"], ["shortest", "length"], ["longest", "length, longest first"]],
        "number", (value) => { this.order = value; this.filter(); }),
      this.data.findings?.length ? choice("only", only, "", (value) => { this.only = value; this.filter(); }) : null,
      low < high ? [ticks("from", "shortest"), ticks("to", "longest"), el("span", { class: "keys" }, "ticks")] : null,
      this.filterCount);
  }

  // Sort and hide chips, and show the first of those that are left.
  filter() {
    const weight = { error: 1e6, warning: 1e3, note: 1 };
    const badness = (index) => this.findingsOf(index).reduce((sum, f) => sum + weight[f.severity], 0);
    const orders = {
      number: (a, b) => a.index - b.index, findings: (a, b) => badness(b.index) - badness(a.index),
      shortest: (a, b) => a.ticks - b.ticks, longest: (a, b) => b.ticks - a.ticks,
    };
    const passes = ({ index, ticks }) => {
      if (ticks < this.shortest || ticks > this.longest) return false;
      const own = this.findingsOf(index);
      if (this.only === "any") return own.length > 0;
      if (this.only === "none") return !own.length;
      if (this.only === "error") return own.some((f) => f.severity === "error");
      return !this.only || own.some((f) => `kind ${f.kind}` === this.only);
    };
    const kept = [...this.data.episodes].sort(orders[this.order]).filter(passes).map((e) => e.index);
    for (const [index, chip] of this.chips) chip.hidden = !kept.includes(index);
    this.chipBox.append(...kept.map((index) => this.chips.get(index)));
    this.filterCount.textContent = kept.length ? plural(kept.length, "episode") : "no episode";
    if (kept.length) this.choose(kept.slice(0, 8));
  }

  note(index) {
    const { seed, name, task } = this.data.notes[index] || {};
    return (seed === undefined ? "" : `, seed ${seed}`) + (name ? `, ${name}` : "") + (task ? `: ${task}` : "");
  }

  toggle(index) {
    const kept = this.selected.filter((other) => other !== index);
    if (kept.length === this.selected.length) kept.push(index);
    if (!kept.length) return;
    this.focused = kept.includes(index) ? index : kept[0];
    const places = [...this.chipBox.children];
    this.choose(kept.sort((a, b) => places.indexOf(this.chips.get(a)) - places.indexOf(this.chips.get(b))));
  }

  choose(indices) {
    this.play(false);
    this.selected = indices;
    if (!indices.includes(this.focused)) this.focused = indices[0];
    for (const [index, chip] of this.chips) {
      const place = indices.indexOf(index);
      chip.setAttribute("aria-pressed", place >= 0);
      chip.style.setProperty("--own", place >= 0 ? hue(place) : "transparent");
    }
    for (const [index, still] of this.stills || []) still.setAttribute("aria-pressed", indices.includes(index));
    this.cards.clear();
    this.grid.replaceChildren(...indices.map((index, place) => this.makeCard(index, place)));
    this.grid.classList.toggle("many", indices.length > 12);
    this.slider.max = this.last;
    for (const panel of this.panels) panel.chart.to = Math.max(1, this.last);
    this.drawCurves();
    this.focus(this.focused);
    this.seekTo(Math.min(this.tick, this.last));
  }

  makeCard(index, place) {
    const episode = this.by.get(index);
    const clip = episode.clips[this.camera];
    const note = this.data.notes[index] || {};
    const clock = el("output", { class: "at" });
    let picture;
    let video = null;
    if (clip) {
      video = el("video", { muted: true, playsinline: true, preload: "auto", "aria-label": `episode ${index}, camera ${this.camera}` });
      video.muted = true;
      picture = el("div", { class: "picture" }, video);
      video.addEventListener("error", () => picture.replaceChildren(el("p", { class: "absent" }, UNPLAYABLE)));
      video.addEventListener("seeked", () => this.seeked(card));
      video.addEventListener("loadedmetadata", () => this.seek(card, card.target ?? 0));
      video.src = url(clip, "video/mp4");
      picture.style.aspectRatio = `${episode.sizes[this.camera][1]} / ${episode.sizes[this.camera][0]}`;
    } else if (!this.camera) {
      picture = el("p", { class: "absent" }, "This dataset has no camera.");
    } else {
      picture = el("p", { class: "absent" }, `No video of episode ${index} in this page. `, el("code", {}, `--episodes ${index}`), " adds it.");
    }
    const done = el("div", { class: "done" });
    const ribbon = el("div", { class: "ribbon" }, done,
      (note.marks || []).map(([stage, tick]) => {
        const mark = el("i", { title: `${this.data.stages[stage] ?? `stage ${stage}`}: tick ${tick}` });
        mark.style.left = `${(100 * tick) / Math.max(episode.ticks - 1, 1)}%`;
        return mark;
      }),
      this.findingsOf(index).filter((finding) => finding.ticks).map((finding) => {
        const [first, stop] = finding.ticks;
        const mark = el("i", { class: `found ${finding.severity}`, title: `${finding.kind}: ${finding.where}` });
        mark.style.left = `${(100 * first) / Math.max(episode.ticks - 1, 1)}%`;
        mark.style.width = `max(4px, ${(100 * (stop - 1 - first)) / Math.max(episode.ticks - 1, 1)}%)`;
        return mark;
      }));
    const own = this.findingsOf(index);
    const worst = own.filter((finding) => finding.severity === own[0].severity).length;
    const element = el("article", { class: "card", "data-episode": index, onclick: () => this.focus(index) },
      el("header", {}, el("b", {}, `episode ${index}`),
        el("span", {}, note.seed === undefined ? note.name || "" : `seed ${note.seed}`),
        own.length ? el("span", { class: `found ${own[0].severity}` }, plural(worst, own[0].severity)) : null, clock),
      picture, ribbon, own.slice(0, 3).map((finding) => this.makeFinding(finding)),
      own.length > 3 ? el("p", { class: "finding" }, `and ${own.length - 3} more`) : null);
    element.style.setProperty("--own", hue(place));
    const card = { index, element, video, clock, done, target: null, sought: 0, ticks: episode.ticks };
    this.cards.set(index, card);
    return element;
  }

  // One panel per joint with its state and its action; arms side by side where names begin with them.
  makePanels() {
    const { state, action } = this.data;
    const dims = state.names.map((name, at) => ({ name, unit: state.units[at], state: at, action: action.names.indexOf(name) }));
    action.names.forEach((name, at) => {
      if (!state.names.includes(name)) dims.push({ name, unit: action.units[at], state: -1, action: at });
    });
    const groups = new Map();
    for (const dim of dims) {
      const word = dim.name.split("_")[0];
      groups.set(word, [...(groups.get(word) || []), dim]);
    }
    const arms = groups.size >= 2 && groups.size <= 3 && [...groups.values()].every((g) => g.length > 1);
    const columns = arms ? [...groups.values()] : [dims];
    this.panels = dims.map((dim) => {
      const chart = new Chart({ title: dim.name, note: unit(dim.unit), label: `${dim.name} over ticks`, height: 104 });
      chart.onPointer((x, event) => { this.play(false); this.seekTo(Math.round(x)); event?.preventDefault?.(); }, true);
      return { ...dim, chart };
    });
    const of = (dim) => this.panels[dims.indexOf(dim)].chart.element;
    this.curves = "both";
    return el("section", {},
      heading("States and actions", "drag in a chart to move through time"),
      el("div", { class: "legend" },
        el("span", {}, el("i", { class: "solid" }), "state"), el("span", {}, el("i", { class: "dash" }), "action"),
        el("span", { class: "focus" }, (this.focusName = el("b", {}, "")), " is in front; the values beside the names are its own at this tick"),
        choice("curves", [["both", "state and action"], ["state", "state"], ["action", "action"], ["gap", "action − state"]], "both", (value) => {
          this.curves = value;
          this.drawCurves();
          this.focus(this.focused);
          this.seekTo(this.tick);
        })),
      el("div", { class: arms ? "arms" : "panels" },
        arms ? columns.map((group) => el("div", {}, group.map(of))) : dims.map(of)));
  }

  // Curves of an episode in a panel, of the kind selected.
  linesOf(panel, index, colour, front) {
    const { columns, x } = this.numbers(index);
    const state = panel.state >= 0 ? columns.state[panel.state] : null;
    const action = panel.action >= 0 ? columns.action[panel.action] : null;
    const crowd = this.selected.length > 12;
    const alpha = front ? 1 : crowd ? 0.35 : 0.5;
    if (this.curves === "gap") {
      if (!state || !action) return [];
      return [{ x, y: action.map((value, tick) => value - state[tick]), colour, alpha, width: front ? 1.75 : 1 }];
    }
    const out = [];
    if (action && this.curves !== "state") {
      out.push({
        x, y: action, colour, alpha: alpha * (front ? 1 : 0.7), width: front ? 1.5 : 1,
        dash: front || !crowd ? [3, 3] : [],
      });
    }
    if (state && this.curves !== "action") out.push({ x, y: state, colour, alpha, width: front ? 1.75 : 1 });
    return out;
  }

  drawCurves() {
    for (const panel of this.panels) {
      panel.chart.lines = this.selected.flatMap((index, place) => this.linesOf(panel, index, hue(place), false));
      [panel.chart.low, panel.chart.high] = range(panel.chart.lines.map((line) => line.y));
      panel.chart.draw();
    }
  }

  focus(index) {
    this.focused = index;
    const place = this.selected.indexOf(index);
    const stages = (this.data.notes[index]?.marks || []).map(([stage, tick]) => ({ x: tick, text: String(stage) }));
    const found = this.findingsOf(index).filter((finding) => finding.ticks && finding.severity !== "note");
    for (const panel of this.panels) {
      const own = found.filter((f) => !f.part || f.part === panel.name || this.data.cameras.some((c) => c.name === f.part));
      panel.chart.marks = [...stages, ...own.map((f) => ({ x: f.ticks[0], text: "!", bad: true }))].sort((a, b) => a.x - b.x);
      panel.chart.above = this.linesOf(panel, index, hue(place), true);
      panel.chart.focus();
    }
    for (const card of this.cards.values()) card.element.classList.toggle("front", card.index === index);
    this.focusName.textContent = `episode ${index}`;
    this.focusName.style.color = hue(place);
    this.showValues();
  }

  showValues() {
    const { columns, ticks } = this.numbers(this.focused);
    const tick = Math.min(this.tick, ticks - 1);
    for (const panel of this.panels) {
      const values = [panel.state >= 0 ? columns.state[panel.state][tick] : null, panel.action >= 0 ? columns.action[panel.action][tick] : null];
      const fixed = (value) => (value === null ? "" : value.toFixed(Math.abs(value) >= 100 ? 1 : 3));
      panel.chart.value.textContent = this.curves === "gap" && values.every((v) => v !== null)
        ? fixed(values[1] - values[0]) : values.filter((v) => v !== null).map(fixed).join(" → ");
    }
  }

  step(ticks) {
    this.play(false);
    this.seekTo(this.tick + ticks);
  }

  // Move everything to a tick; time changes here and nowhere else.
  seekTo(tick) {
    this.tick = clamp(Math.round(tick), 0, this.last);
    this.slider.value = this.tick;
    this.clock.textContent = `tick ${this.tick} / ${this.last}   ${(this.tick / this.rate).toFixed(2)} s`;
    this.slider.setAttribute("aria-valuetext", `tick ${this.tick}, ${(this.tick / this.rate).toFixed(2)} seconds`);
    for (const panel of this.panels) panel.chart.setCursor(this.tick);
    for (const card of this.cards.values()) {
      const own = Math.min(this.tick, card.ticks - 1);
      card.element.dataset.tick = own;
      card.clock.textContent = own < this.tick ? `ended at ${own}` : `tick ${own}`;
      card.done.style.width = `${(100 * own) / Math.max(card.ticks - 1, 1)}%`;
      if (!card.video) continue;
      // The middle of a frame, so that rounding cannot select a neighbour.
      const time = (own + 0.5) / this.rate;
      if (!this.playing) this.seek(card, time);
      else if (own === card.ticks - 1) { card.video.pause(); this.seek(card, time); }
      else if (Math.abs(card.video.currentTime - time) > 0.08 && performance.now() - card.sought > 500) {
        card.sought = performance.now(); // rarely, since seeking makes slow decoding slower
        this.seek(card, time);
      }
    }
    this.showValues();
    remember(this);
  }

  // One seek at a time per video; the newest target follows when it is done.
  seek(card, time) {
    card.target = time;
    if (card.busy || card.video.readyState < 1 || Math.abs(card.video.currentTime - time) < 1e-4) return;
    card.busy = true;
    card.video.currentTime = time;
  }

  seeked(card) {
    card.busy = false;
    if (card.target !== null && !this.playing) this.seek(card, card.target);
  }

  play(on) {
    if (on === this.playing) return;
    this.playing = on;
    this.playButton.textContent = on ? "❚❚" : "▶";
    this.playButton.setAttribute("aria-label", on ? "pause (space)" : "play (space)");
    if (!on) {
      for (const { video } of this.cards.values()) video?.pause();
      this.seekTo(this.tick);
      return;
    }
    if (this.tick >= this.last) this.seekTo(0);
    for (const { video, ticks } of this.cards.values()) {
      if (!video || this.tick >= ticks - 1) continue;
      video.playbackRate = this.speed;
      video.play().catch(() => {}); // a video that is not allowed to play is moved by seeking
    }
    const began = performance.now();
    const first = this.tick;
    const frame = (now) => {
      if (!this.playing) return;
      const tick = first + Math.floor(((now - began) / 1000) * this.rate * this.speed);
      this.seekTo(tick);
      if (tick >= this.last) this.play(false);
      else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  key(event) {
    const by = event.shiftKey ? 10 : 1;
    const acts = {
      ArrowLeft: () => this.step(-by), ArrowRight: () => this.step(by),
      Home: () => { this.play(false); this.seekTo(0); }, End: () => { this.play(false); this.seekTo(this.last); },
      " ": () => this.play(!this.playing),
      "[": () => this.next(-1), "]": () => this.next(1),
    };
    if (!acts[event.key]) return false;
    acts[event.key]();
    return true;
  }

  next(by) {
    const count = this.selected.length;
    this.focus(this.selected[(this.selected.indexOf(this.focused) + by + count) % count]);
  }

  makeLengths() {
    const known = this.data.lengths.map((ticks, index) => [ticks, index]).filter(([ticks]) => ticks); // 0 where unread
    const lengths = known.map(([ticks]) => ticks);
    const [low, high] = [Math.min(...lengths), Math.max(...lengths)];
    const mean = lengths.reduce((a, b) => a + b, 0) / lengths.length;
    const seconds = (ticks) => `${(ticks / this.rate).toFixed(2)} s`;
    const summary = low === high ? `all ${lengths.length} have ${low} ticks, ${seconds(low)}`
      : `${low} to ${high} ticks (${seconds(low)} to ${seconds(high)}), mean ${mean.toFixed(0)}`;
    const whole = el("section", {}, heading("Lengths", summary));
    if (low < high) {
      const bins = Math.min(24, high - low + 1);
      const width = (high - low + 1) / bins;
      const held = Array.from({ length: bins }, () => []);
      known.forEach(([ticks, index]) => held[Math.min(bins - 1, Math.floor((ticks - low) / width))].push(index));
      const most = Math.max(...held.map((bin) => bin.length));
      whole.append(el("div", { class: "bars", role: "list", "aria-label": "distribution of lengths" },
        held.map((bin, at) => {
          const first = Math.ceil(low + at * width);
          const last = Math.ceil(low + (at + 1) * width) - 1;
          const span = first === last ? `${first}` : `${first} to ${last}`;
          const shown = bin.slice(0, 12).join(", ") + (bin.length > 12 ? ", …" : "");
          const fill = el("i", {});
          fill.style.height = `${(100 * bin.length) / most}%`;
          const text = `${span} ticks: ${plural(bin.length, "episode")}${bin.length ? ` (${shown})` : ""}`;
          return el("div", { role: "listitem", title: text, "aria-label": `${span} ticks: ${bin.length}` },
            el("b", {}, bin.length ? String(bin.length) : ""), fill,
            el("span", {}, bins <= 12 || at % 4 === 0 ? String(first) : ""));
        })));
    }
    whole.append(table("lengths as a table", ["episode", "ticks", "seconds"],
      () => known.map(([ticks, index]) => [index, ticks, (ticks / this.rate).toFixed(2)])));
    return whole;
  }

  makeStarts() {
    const { starts, state } = this.data;
    const values = floats(starts.state);
    const size = state.names.length;
    const columns = state.names.map((_, dim) => starts.indices.map((_, row) => values[row * size + dim]));
    const whole = el("section", {}, heading("Starts", `the first state and the first frame of ${plural(starts.indices.length, "episode")}`));
    if (this.data.stills) whole.append(this.makeStills());
    const same = starts.indices.length > 1
      && columns.every((column) => Math.max(...column) - Math.min(...column) < 1e-6);
    const rows = same ? [] : columns.map((column, dim) => {
      const mean = column.reduce((a, b) => a + b, 0) / column.length;
      const deviation = Math.sqrt(column.reduce((a, b) => a + (b - mean) ** 2, 0) / column.length);
      const strip = new Strip(column, starts.ranges[dim], starts.indices,
        (index) => this.by.has(index) && this.toggle(index),
        (index) => `episode ${index}: ${short(column[starts.indices.indexOf(index)])}${unit(state.units[dim])}`);
      return el("div", { class: "start" }, el("span", { class: "name" }, state.names[dim]), strip.box,
        el("span", { class: "value", title: "standard deviation of the starts" }, `σ ${short(deviation)}${unit(state.units[dim])}`));
    });
    whole.append(
      el("p", { class: "hint" }, same ? "All episodes start in the same pose; only the frames differ."
        : "Each dot is the position of a joint at tick 0, on its range in the whole dataset. Click to show the episode."),
      el("div", { class: "starts" }, rows),
      table("start poses as a table", ["episode", ...state.names],
        () => starts.indices.map((index, row) => [index, ...columns.map((column) => short(column[row]))])));
    return whole;
  }

  makeStills() {
    const { blob, columns, width, height, indices } = this.data.stills;
    this.stills = new Map();
    const sheet = url(blob, "image/jpeg");
    return el("div", { class: "stills", role: "group", "aria-label": "first frames" }, indices.map((index, at) => {
      const label = `episode ${index}${this.note(index)}`;
      const still = el("button", {
        type: "button", "aria-label": label, title: label,
        onclick: () => this.by.has(index) && this.toggle(index),
      }, el("span", {}, String(index)));
      still.style.width = `${width}px`;
      still.style.height = `${height}px`;
      still.style.backgroundImage = `url("${sheet}")`;
      still.style.backgroundPosition = `-${(at % columns) * width}px -${Math.floor(at / columns) * height}px`;
      this.stills.set(index, still);
      return still;
    }));
  }
}

// Strip chart: one dot per value along a line.
class Strip {
  constructor(values, [low, high], names, onClick, describe) {
    Object.assign(this, { values, low, high, names });
    this.canvas = el("canvas", { role: "img", "aria-label": "start values" });
    this.box = el("div", { class: "strip" }, this.canvas);
    this.box.chart = this;
    this.box.addEventListener("pointermove", (event) => {
      const name = this.nearest(event);
      this.box.title = name === null ? "" : describe(name);
    });
    this.box.addEventListener("click", (event) => {
      const name = this.nearest(event);
      if (name !== null) onClick(name);
    });
    charts.add(this);
    sizes.observe(this.box);
  }

  across(value, width) {
    return 6 + ((value - this.low) / (this.high - this.low || 1)) * (width - 12);
  }

  nearest(event) {
    const box = this.canvas.getBoundingClientRect();
    let [best, found] = [12, null];
    this.values.forEach((value, at) => {
      const far = Math.abs(this.across(value, box.width) - (event.clientX - box.left));
      if (far < best) [best, found] = [far, this.names[at]];
    });
    return found;
  }

  draw() {
    if (!this.box.clientWidth) return;
    const [context, width, height] = fit(this.canvas);
    context.strokeStyle = style("--grid");
    context.beginPath();
    context.moveTo(6, height / 2);
    context.lineTo(width - 6, height / 2);
    context.stroke();
    context.fillStyle = style("--accent");
    context.globalAlpha = this.values.length > 30 ? 0.45 : 0.7;
    this.values.forEach((value, at) => {
      // A small fixed offset keeps equal values from hiding each other.
      const jitter = (((at * 7919) % 13) / 12 - 0.5) * (height - 9);
      context.beginPath();
      context.arc(this.across(value, width), height / 2 + jitter, 2.5, 0, 7);
      context.fill();
    });
    context.globalAlpha = 1;
  }
}
