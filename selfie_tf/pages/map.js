"use strict";
// Okabe and Ito's colours without yellow, which is faint on white, and three more that are no
// harder to tell apart for the colour-blind. The eleventh class has another shape.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d",
  "#332288", "#7f0000", "#c7a76c"];
const SHAPES = ["circle", "square", "triangle", "diamond"];
const KINDS = COLOURS.length * SHAPES.length;
const OTHER = "#a3aab5";
const FEW = 250; // images in view that are drawn as thumbnails
const SIDE = 30; // pixels of these

const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
const places = new Float32Array(bytes(data.places));
const neighbours = new Int32Array(bytes(data.neighbours));
const cosines = new Float32Array(bytes(data.cosines));
const groups = Object.fromEntries(Object.entries(data.groups)
  .filter(([, group]) => group.names.length)
  .map(([name, group]) => [name, {names: group.names, of: new Int32Array(bytes(group.of))}]));
const count = data.paths.length;
const near = neighbours.length / count;
// In any order but that of the list, where one class would cover the others.
const order = Uint32Array.from({length: count}, (_, i) => i)
  .sort((i, j) => Math.imul(i, 2654435761) - Math.imul(j, 2654435761));

const $ = id => document.getElementById(id);
const map = $("map"), marks = $("marks");
const sheets = $("sheets").children;
let width = 0, height = 0, ratio = 1;
let scale = 1, left = 0, top_ = 0; // pixels of the whole map, and of its corner
let chosen = -1, pointed = -1, alone = null, waiting = false;
let kinds = new Int32Array(count).fill(0); // of each image: the number in the legend; -1 is other

// Where things are

function x(i) { return left + places[2 * i] * scale; }
function y(i) { return top_ + places[2 * i + 1] * scale; }
function position(i) { return [x(i), y(i)]; } // in pixels of the canvas
function inView(i, margin) {
  return x(i) > -margin && x(i) < width + margin && y(i) > -margin && y(i) < height + margin;
}
function isShown(i) { return alone === null || kinds[i] === alone; }

function showWhole() {
  let right = 0, bottom = 0;
  for (let i = 0; i < count; i++) {
    right = Math.max(right, places[2 * i]);
    bottom = Math.max(bottom, places[2 * i + 1]);
  }
  scale = Math.min((width - 48) / (right || 1), (height - 48) / (bottom || 1));
  left = (width - scale * right) / 2;
  top_ = (height - scale * bottom) / 2;
  point(-1);
  redraw();
}

function zoom(factor, atX = width / 2, atY = height / 2) {
  factor = Math.min(Math.max(scale * factor, 100), 1e6) / scale;
  left = atX + (left - atX) * factor;
  top_ = atY + (top_ - atY) * factor;
  scale *= factor;
  point(-1);
  redraw();
}

function zoomAtChosen(factor) { // the selected image stays where it is
  if (chosen >= 0 && inView(chosen, 0)) zoom(factor, ...position(chosen));
  else zoom(factor);
}

function resize() {
  const first = !width;
  ratio = window.devicePixelRatio || 1;
  width = map.clientWidth;
  height = map.clientHeight;
  for (const canvas of [map, marks]) {
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }
  if (first) showWhole(); else redraw();
}

// Drawing

function redraw() {
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

function colour(kind) { return kind < 0 ? OTHER : COLOURS[kind % COLOURS.length]; }

function outline(pen, kind, x, y, r) {
  const shape = kind < 0 ? "circle" : SHAPES[Math.floor(kind / COLOURS.length)];
  pen.beginPath();
  if (shape === "circle") pen.arc(x, y, r, 0, 2 * Math.PI);
  else if (shape === "square") pen.rect(x - .88 * r, y - .88 * r, 1.76 * r, 1.76 * r);
  else {
    const corners = shape === "triangle" ? [[0, -1.25], [1.1, .8], [-1.1, .8]]
      : [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]];
    corners.forEach(([dx, dy]) => pen.lineTo(x + r * dx, y + r * dy));
    pen.closePath();
  }
}

function drawThumbnail(pen, i, x, y, side) {
  const whole = data.columns ** 2, at = i % whole;
  const column = at % data.columns, row = Math.floor(at / data.columns);
  pen.drawImage(sheets[Math.floor(i / whole)], column * data.side, row * data.side,
    data.side, data.side, x, y, side, side);
}

function draw() {
  waiting = false;
  const pen = map.getContext("2d");
  pen.clearRect(0, 0, width, height);
  const seen = Array.from(order).filter(i => inView(i, SIDE));
  const inColour = seen.filter(isShown);
  const pictures = $("pictures").checked && inColour.length <= FEW;
  const zoomed = Math.sqrt(count / Math.max(seen.length, 1));
  const r = Math.min(7, Math.max(1.6, 90 / Math.sqrt(count)) * Math.sqrt(zoomed));
  pen.fillStyle = "#e3e6eb";
  for (const i of seen) if (!isShown(i)) { outline(pen, kinds[i], x(i), y(i), r); pen.fill(); }
  for (const i of inColour) {
    if (pictures) {
      pen.fillStyle = colour(kinds[i]);
      pen.fillRect(x(i) - SIDE / 2 - 2, y(i) - SIDE / 2 - 2, SIDE + 4, SIDE + 4);
      drawThumbnail(pen, i, x(i) - SIDE / 2, y(i) - SIDE / 2, SIDE);
      continue;
    }
    outline(pen, kinds[i], x(i), y(i), r);
    pen.fillStyle = colour(kinds[i]);
    pen.globalAlpha = .85;
    pen.fill();
    pen.globalAlpha = 1;
  }
  drawMarks();
}

function drawMarks() { // on a canvas of their own, so that pointing does not draw all points anew
  const pen = marks.getContext("2d");
  pen.clearRect(0, 0, width, height);
  pen.strokeStyle = "#1c2330";
  const ring = (i, r, line) => {
    pen.lineWidth = line;
    pen.beginPath();
    pen.arc(...position(i), r, 0, 2 * Math.PI);
    pen.stroke();
  };
  if (chosen >= 0) {
    pen.lineWidth = 1;
    for (const [j] of nearestOf(chosen)) {
      pen.beginPath();
      pen.moveTo(...position(chosen));
      pen.lineTo(...position(j));
      pen.stroke();
      ring(j, 5, 1);
    }
    ring(chosen, 9, 3);
  }
  if (pointed >= 0) ring(pointed, 7, 2);
}

// What is known of an image

function nearestOf(i) {
  return Array.from({length: near}, (_, k) => [neighbours[i * near + k], cosines[i * near + k]]);
}

function words(i) {
  return Object.values(groups).map(group => group.names[group.of[i]] ?? "no label").join(", ");
}

function make(tag, text, parent) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

function thumbnail(i, parent) {
  const canvas = make("canvas", "", parent);
  canvas.width = canvas.height = 3 * data.side; // scaled smoothly, whatever the screen
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", data.paths[i]);
  canvas.getContext("2d").imageSmoothingQuality = "high";
  drawThumbnail(canvas.getContext("2d"), i, 0, 0, canvas.width);
}

function choose(i, follow = false) {
  chosen = i;
  const panel = $("chosen");
  panel.replaceChildren();
  make("h2", "Selected image", panel);
  if (i < 0) make("p", "None yet.", panel).className = "faint";
  else {
    thumbnail(i, panel);
    const about = make("p", data.paths[i], panel);
    make("br", "", about);
    make("span", words(i), about).className = "faint";
    make("p", `The ${near} nearest, with the cosine:`, panel);
    const list = make("ul", "", panel);
    list.className = "near";
    for (const [j, cosine] of nearestOf(i)) {
      const button = make("button", "", make("li", "", list));
      button.type = "button";
      button.title = data.paths[j];
      button.dataset.index = j;
      thumbnail(j, button);
      make("span", `${cosine.toFixed(4)} ${words(j)}`, button);
    }
    if (follow && !inView(i, -20)) {
      left += width / 2 - x(i);
      top_ += height / 2 - y(i);
    }
  }
  redraw();
}

function point(i) {
  pointed = i;
  const box = $("hover");
  box.hidden = i < 0;
  box.replaceChildren();
  if (i >= 0) {
    thumbnail(i, box);
    make("div", data.paths[i], box);
    make("div", words(i), box).className = "faint";
    box.style.left = `${Math.max(0, Math.min(x(i) + 14, width - box.offsetWidth - 4))}px`;
    const above = y(i) - box.offsetHeight - 12;
    box.style.top = `${above < 0 ? y(i) + 14 : above}px`;
  }
  map.style.cursor = i < 0 ? "grab" : "pointer";
  drawMarks();
}

function closest(toX, toY, within, allowed = () => true) {
  let best = -1, least = within ** 2;
  for (let i = 0; i < count; i++) {
    const distance = (x(i) - toX) ** 2 + (y(i) - toY) ** 2;
    if (distance < least && isShown(i) && allowed(i)) { best = i; least = distance; }
  }
  return best;
}

function step(dx, dy) { // to the nearest image in a direction
  if (chosen < 0) return choose(closest(width / 2, height / 2, Infinity), true);
  const [fromX, fromY] = position(chosen);
  const next = closest(fromX, fromY, Infinity, i => {
    const along = (x(i) - fromX) * dx + (y(i) - fromY) * dy;
    return along > Math.abs((x(i) - fromX) * dy) + Math.abs((y(i) - fromY) * dx);
  });
  if (next >= 0) choose(next, true);
}

// Colours and the legend

function colourBy(name) {
  const list = $("legend"), group = groups[name];
  alone = null;
  list.replaceChildren();
  kinds.fill(group ? -1 : 0);
  if (!group) return redraw();
  const sizes = new Map();
  for (const label of group.of) sizes.set(label, (sizes.get(label) ?? 0) + 1);
  const largest = group.names.map((_, label) => label).filter(label => sizes.has(label))
    .sort((a, b) => sizes.get(b) - sizes.get(a) || a - b).slice(0, KINDS).sort((a, b) => a - b);
  const kindOf = new Map(largest.map((label, kind) => [label, kind]));
  for (let i = 0; i < count; i++) kinds[i] = kindOf.get(group.of[i]) ?? -1;
  const entries = largest.map((label, kind) => [kind, group.names[label], sizes.get(label)]);
  const rest = count - entries.reduce((sum, entry) => sum + entry[2], 0);
  const unlabelled = sizes.get(-1) ?? 0;
  if (rest) entries.push([-1, rest === unlabelled ? "no label" : "all others", rest]);
  for (const [kind, text, size] of entries) {
    const button = make("button", "", make("li", "", list));
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const canvas = make("canvas", "", button);
    canvas.width = canvas.height = 28;
    canvas.setAttribute("aria-hidden", "true");
    const pen = canvas.getContext("2d");
    outline(pen, kind, 14, 14, 9);
    pen.fillStyle = colour(kind);
    pen.fill();
    make("span", `${text} (${size.toLocaleString("en")})`, button);
    button.addEventListener("click", () => {
      alone = alone === kind ? null : kind;
      for (const other of list.querySelectorAll("button"))
        other.setAttribute("aria-pressed", String(other === button && alone !== null));
      redraw();
    });
  }
  redraw();
}

// Mouse and keyboard

let held = null, moved = false;
map.addEventListener("pointerdown", event => {
  held = [event.offsetX, event.offsetY];
  moved = false;
  map.setPointerCapture(event.pointerId);
});
map.addEventListener("pointermove", event => {
  const [atX, atY] = [event.offsetX, event.offsetY];
  if (held && (moved || Math.hypot(atX - held[0], atY - held[1]) > 4)) {
    moved = true;
    left += atX - held[0];
    top_ += atY - held[1];
    held = [atX, atY];
    point(-1);
    return redraw();
  }
  const found = closest(atX, atY, 14);
  if (found !== pointed) point(found);
});
map.addEventListener("pointerup", event => {
  if (held && !moved) choose(closest(event.offsetX, event.offsetY, 14));
  held = null;
});
map.addEventListener("pointerleave", () => point(-1));
map.addEventListener("wheel", event => {
  if (!event.ctrlKey && document.activeElement !== map) return; // the page scrolls
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}, {passive: false});
const KEYS = {
  ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0),
  ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
  "+": () => zoomAtChosen(1.5), "=": () => zoomAtChosen(1.5),
  "-": () => zoomAtChosen(1 / 1.5), 0: showWhole,
  Escape: () => choose(-1),
};
map.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
$("in").addEventListener("click", () => zoomAtChosen(1.5));
$("out").addEventListener("click", () => zoomAtChosen(1 / 1.5));
$("whole").addEventListener("click", showWhole);
$("pictures").addEventListener("change", redraw);
$("find").addEventListener("change", event => {
  const wanted = event.target.value.toLowerCase();
  for (let k = 1; wanted && k <= count; k++) {
    const i = (chosen + k) % count;
    if (data.paths[i].toLowerCase().includes(wanted)) return choose(i, true);
  }
});
document.addEventListener("click", event => {
  const button = event.target.closest("button[data-index]");
  if (!button) return;
  choose(Number(button.dataset.index), true);
  map.focus();
});

const names = Object.keys(groups);
$("by").hidden = !names.length;
for (const name of [...names, "none"]) make("option", name, $("colours")).value = name;
$("colours").addEventListener("change", event => colourBy(event.target.value));
colourBy(names[0]);
new ResizeObserver(resize).observe(map);
Promise.all(Array.from(sheets, sheet => sheet.decode())).then(redraw, redraw);
