// Basics of the page: elements, numbers, binary contents, colours and axis ticks.
// No library and no network: everything shown is in the page. Names come from datasets, so text is
// set by textContent alone, never as markup.
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);

// Create an element: el("p", {class: "x", onclick: f, "aria-label": "y"}, "text", child).
function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const count = (value) => value.toLocaleString("en");
const plural = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;
// The unit to print after a value; empty for plain numbers and unknown units.
const unit = (name) => (name === "1" || name === "unknown" || !name ? "" : ` ${name}`);

// Three or four significant digits, with an exponent only for very large and very small values.
function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
  if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
}

// Decode the binary contents of that name.
function bytes(name) {
  const text = atob(document.getElementById(name).textContent.trim());
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out;
}
const floats = (name) => new Float32Array(bytes(name).buffer); // little-endian, as every browser is
const urls = new Map();
function url(name, type) {
  if (!urls.has(name)) urls.set(name, URL.createObjectURL(new Blob([bytes(name)], { type })));
  return urls.get(name);
}

// Colours of episodes: eight that colour-blind readers can distinguish, then hues that never repeat.
function hue(place) {
  if (place < 8) return style(`--e${place}`);
  return `hsl(${(place * 137.508) % 360} 65% ${dark.matches ? 68 : 42}%)`;
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = new Set(); // drawn again when colours or sizes change
const redraw = () => charts.forEach((chart) => chart.draw());
dark.addEventListener("change", redraw);
matchMedia("print").addEventListener("change", redraw);
const sizes = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.chart.draw();
});

// Fit a canvas to its box in device pixels; return its context, and its size in CSS pixels.
function fit(canvas) {
  const box = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, box.width, box.height);
  return [context, box.width, box.height];
}

// About `about` round numbers from low to high, for an axis.
function roundNumbers(low, high, about) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const raw = span / Math.max(about, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((times) => times * power >= raw) * power;
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; i++) out.push(i * step);
  return out;
}

// Powers of ten, with 2 and 5 between them where there are few.
function decades(low, high) {
  const out = [];
  const times = Math.log10(high / low) < 2.2 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const by of times) {
      const value = by * 10 ** power;
      if (value >= low && value <= high) out.push(value);
    }
  }
  return out.length > 1 ? out : roundNumbers(low, high, 3);
}
