// Virtual leaders: pointers, touch and gamepads move hands and joints; a message each 20 ms says
// where, and whether the clutch is closed. The page keeps no time and moves nothing by itself.
"use strict";

const PERIOD_MS = 20;
const METRES_PER_PIXEL = 0.001;
const METRES_PER_WHEEL = 0.0001; // a notch of the wheel is about 100 pixels
const RADIANS_PER_WHEEL = 0.001;
const RADIANS_PER_PIXEL = 0.01;
const STICK_M_S = 0.25;
const GRIPPER_PER_S = 1.5; // of the range
const DEAD_ZONE = 0.15;
const MOST = [2, 2, 2, 6.28, 6.28, 6.28]; // motions of a hand since the clutch closed that the server takes, m and rad

const at = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

let socket = null;
let robot = null; // names, units, ranges, hands and cameras
let pose = null; // of the robot, or while it is led of its goal
let number = 0;
let clutch = 0; // 0 while open, else how often it was closed so far
let closings = 0;
let seen = 0;
let space = false;
let bumpers = false; // of the gamepad
let stop = false;
let offsets = []; // of each hand since the clutch closed: x, y, z, yaw, pitch, roll
let joints = []; // that were set since the clutch closed
const pointers = new Map(); // pointer id -> what it holds
const pads = [];
const sliders = [];
const canvases = [];

// ---- the clutch ----------------------------------------------------------------------------------

function zero() {
  offsets = robot ? robot.hands.map(() => [0, 0, 0, 0, 0, 0]) : [];
  joints = robot ? robot.names.map(() => null) : [];
}

function update() {
  const held = robot && !document.hidden && (pointers.size > 0 || space || bumpers);
  if (held && !clutch) {
    zero();
    clutch = ++closings;
    send();
  } else if (!held && clutch) {
    clutch = 0;
    zero();
    send();
  }
  for (const pad of pads) pad.area.dataset.held = String([...pointers.values()].some((p) => p.pad === pad));
  for (const s of sliders) s.track.dataset.held = String([...pointers.values()].some((p) => p.slider === s));
}

function let_go() {
  pointers.clear();
  space = false;
  bumpers = false;
  update();
}

function send() {
  if (!socket || socket.readyState !== WebSocket.OPEN || !robot) return;
  socket.send(JSON.stringify({ n: ++number, t: performance.now(), clutch, hands: offsets, joints, seen, stop }));
  stop = false;
}

for (const event of ["blur", "pagehide"]) addEventListener(event, let_go);
document.addEventListener("freeze", let_go);
document.addEventListener("visibilitychange", () => document.hidden && let_go());
addEventListener("contextmenu", (event) => event.preventDefault());
addEventListener("keydown", (event) => {
  if (event.code !== "Space") return;
  event.preventDefault();
  if (event.repeat) return;
  space = true;
  update();
});
addEventListener("keyup", (event) => {
  if (event.code !== "Space") return;
  event.preventDefault();
  space = false;
  update();
});
for (const event of ["pointerup", "pointercancel", "lostpointercapture"])
  addEventListener(event, (e) => pointers.delete(e.pointerId) && update(), true);
at("stop").addEventListener("click", () => {
  stop = true;
  let_go();
  send();
});

// ---- motions ------------------------------------------------------------------------------------

function take_pointer(event, what) {
  event.preventDefault();
  try {
    event.currentTarget.setPointerCapture(event.pointerId);
  } catch {
    // a pointer that has already gone
  }
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, ...what });
  update();
}

function moved(event) {
  const pointer = pointers.get(event.pointerId);
  if (!pointer) return null;
  const step = [event.clientX - pointer.x, event.clientY - pointer.y];
  pointer.x = event.clientX;
  pointer.y = event.clientY;
  return { pointer, step };
}

function move_hand(index, axis, change) {
  offsets[index][axis] = clamp(offsets[index][axis] + change, -MOST[axis], MOST[axis]);
}

function make_pad(index) {
  const area = el("div", { class: "pad" }, el("output"));
  const pad = { index, area };
  area.addEventListener("pointerdown", (event) => {
    const second = [...pointers.values()].some((p) => p.pad === pad);
    const turns = event.shiftKey || event.button === 2;
    take_pointer(event, { pad, role: second ? "height" : turns ? "turn" : "move" });
  });
  area.addEventListener("pointermove", (event) => {
    const found = moved(event);
    if (!found || !clutch) return;
    const [dx, dy] = found.step;
    if (found.pointer.role === "move") {
      move_hand(index, 0, dx * METRES_PER_PIXEL);
      move_hand(index, 1, -dy * METRES_PER_PIXEL);
    } else if (found.pointer.role === "height") move_hand(index, 2, -dy * METRES_PER_PIXEL);
    else {
      move_hand(index, 4, dy * RADIANS_PER_PIXEL);
      move_hand(index, 5, dx * RADIANS_PER_PIXEL);
    }
  });
  area.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (!clutch) return;
      const turn = event.deltaY || event.deltaX; // Shift makes a wheel scroll sideways
      if (event.shiftKey) move_hand(index, 3, -turn * RADIANS_PER_WHEEL);
      else move_hand(index, 2, -turn * METRES_PER_WHEEL);
    },
    { passive: false },
  );
  return pad;
}

// A slider moves by as much as the pointer: a click moves nothing.
function make_slider(joint, label) {
  const mark = el("i");
  const track = el("div", { class: "track" }, mark);
  const value = el("output");
  const slider = { joint, track, mark, value, row: el("div", { class: "slider" }, el("span", {}, label), track, value) };
  track.addEventListener("pointerdown", (event) => take_pointer(event, { slider }));
  track.addEventListener("pointermove", (event) => {
    const found = moved(event);
    if (!found || !clutch || !pose) return;
    set_joint(joint, (found.step[0] / track.clientWidth) * (robot.upper[joint] - robot.lower[joint]));
  });
  return slider;
}

function set_joint(joint, change) {
  const now = joints[joint] ?? pose[joint];
  joints[joint] = clamp(now + change, robot.lower[joint], robot.upper[joint]);
  draw();
}

// ---- gamepad ------------------------------------------------------------------------------------

let polled = performance.now();
const gamepad = () => (navigator.getGamepads ? [...navigator.getGamepads()].find((g) => g && g.connected) : null);
const stick = (value) => (Math.abs(value) < DEAD_ZONE ? 0 : value);

function poll_gamepad() {
  const now = performance.now();
  const elapsed = Math.min(now - polled, 50) / 1000;
  polled = now;
  const found = gamepad();
  const pressed = (button) => (found && found.buttons[button] ? found.buttons[button].value : 0);
  const was = bumpers;
  bumpers = document.hasFocus() && (pressed(4) > 0 || pressed(5) > 0);
  if (bumpers !== was) update();
  if (!clutch || !bumpers || !pose) return;
  robot.hands.forEach((hand, index) => {
    if (!pressed(4 + index)) return;
    move_hand(index, 0, stick(found.axes[2 * index] || 0) * STICK_M_S * elapsed);
    move_hand(index, 1, -stick(found.axes[2 * index + 1] || 0) * STICK_M_S * elapsed);
    const rise = index ? pressed(3) - pressed(0) : pressed(12) - pressed(13);
    move_hand(index, 2, rise * STICK_M_S * elapsed);
    const open = pressed(index ? 1 : 2) - pressed(6 + index);
    const range = robot.upper[hand.gripper] - robot.lower[hand.gripper];
    if (open) set_joint(hand.gripper, open * GRIPPER_PER_S * range * elapsed);
  });
}

// ---- what is shown ------------------------------------------------------------------------------

function build() {
  pads.length = sliders.length = canvases.length = 0;
  const grippers = new Set(robot.hands.map((hand) => hand.gripper));
  at("hands").replaceChildren(
    ...robot.hands.map((hand, index) => {
      const pad = make_pad(index);
      const slider = make_slider(hand.gripper, `${hand.side} gripper`);
      pads.push(pad);
      sliders.push(slider);
      return el("div", { class: "hand" }, el("h2", {}, `${hand.side} hand`), pad.area, slider.row);
    }),
  );
  at("joints").replaceChildren(
    ...robot.names.flatMap((name, joint) => {
      if (grippers.has(joint)) return [];
      const slider = make_slider(joint, name);
      sliders.push(slider);
      return [slider.row];
    }),
  );
  at("cameras").replaceChildren(
    ...robot.cameras.map((name) => {
      const canvas = el("canvas", { "aria-label": `camera ${name}` });
      canvases.push(canvas);
      return canvas;
    }),
  );
  zero();
}

function draw() {
  if (!robot || !pose) return;
  for (const { joint, mark, value } of sliders) {
    const low = robot.lower[joint];
    const now = (clutch && joints[joint]) ?? pose[joint];
    mark.style.left = `${clamp(((now - low) / (robot.upper[joint] - low)) * 100, 0, 100)}%`;
    const unit = robot.units[joint];
    value.textContent = now.toFixed(unit === "deg" || unit === "%" ? 1 : 3) + (unit === "1" ? "" : ` ${unit}`);
  }
  for (const { index, area } of pads) {
    const [x, y, z] = offsets[index] || [0, 0, 0];
    area.firstChild.textContent = clutch ? `${[x, y, z].map((v) => (v * 100).toFixed(1)).join(", ")} cm` : "hold to lead";
  }
}

function say(state, words) {
  at("state").dataset.state = state;
  at("state").textContent = words;
}

async function show_picture(data) {
  const bytes = new Uint8Array(data);
  try {
    const canvas = canvases[bytes[0]];
    const bitmap = await createImageBitmap(new Blob([bytes.subarray(1)], { type: "image/jpeg" }));
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    canvas.dataset.shown = String(Number(canvas.dataset.shown || 0) + 1);
  } finally {
    seen++;
  }
}

// ---- the connection -----------------------------------------------------------------------------

function connect() {
  socket = new WebSocket(`ws://${location.host}/leader${location.search}`);
  socket.binaryType = "arraybuffer";
  const mine = socket;
  socket.onmessage = (event) => {
    if (mine !== socket) return;
    if (typeof event.data !== "string") return void show_picture(event.data);
    const message = JSON.parse(event.data);
    if (message.names) {
      robot = message;
      number = seen = 0;
      build();
      let_go(); // what was pressed before does not count
      send(); // the server takes a closed clutch only after an open one
      say("open", "not engaged");
      return;
    }
    if (message.pose) pose = message.pose;
    say(message.engaged ? "engaged" : "open", message.engaged ? "engaged" : "not engaged");
    at("words").textContent = message.words;
    pads.forEach(({ area }, index) => (area.dataset.out = String(Boolean(message.out[index]))));
    draw();
  };
  socket.onclose = (event) => {
    if (mine !== socket) return;
    robot = pose = null;
    let_go();
    clutch = 0;
    say("closed", event.reason || "not connected");
    setTimeout(connect, 500);
  };
}

setInterval(() => {
  if (robot) poll_gamepad();
  send();
}, PERIOD_MS);
connect();
