// Draws the report: one SVG per panel, one horizontal range for all of them. No library, no address.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const SIZE = { width: 340, height: 190, left: 46, right: 10, top: 8, bottom: 22 };
const KEYS = ["#2463b0", "#c2410c", "#0f766e", "#7a5aa6", "#b0913e", "#b0413e", "#3a86a6", "#5a6675"];
const DASHES = ["", "5 3", "2 2", "8 3 2 3", "10 4", "1 3", "6 2 2 2 2 2", "12 3 3 3"];
const state = { x: "step", range: null, hidden: new Set(), smooth: 0 };
const cards = [];
window.onerror = (message) => { document.documentElement.dataset.error = message; };

function element(parent, name, attributes = {}, text = "") {
  const svg = ["svg", "path", "line", "text", "rect", "circle", "title"].includes(name);
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

const short = (value) => {
  const size = Math.abs(value);
  if (value === 0) return "0";
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1).replace("e+", "e") : String(Number(value.toPrecision(4)));
};

function smoothed(values) {  // exponential mean, without the bias of its start
  if (!state.smooth) return values;
  let sum = 0, weight = 0;
  return values.map((value) => {
    sum = state.smooth * sum + (1 - state.smooth) * value;
    weight = state.smooth * weight + (1 - state.smooth);
    return sum / weight;
  });
}

function curves(card) {
  const found = [];
  DATA.runs.forEach((run, number) => {
    if (state.hidden.has(number)) return;
    card.panel.keys.forEach((key, index) => {
      const series = run.series[key];
      if (!series) return;
      const at = series.map((value, i) => i).filter((i) => series[i] !== null && run.x[state.x][i] !== null);
      const y = smoothed(at.map((i) => series[i]));
      const points = at.map((i, n) => [run.x[state.x][i], y[n]]).filter((point) => !card.log || point[1] > 0);
      const single = DATA.runs.length === 1;
      const shade = single && card.panel.keys.length > 1 ? KEYS[index % KEYS.length] : run.colour;
      found.push({ run, key, points, colour: shade, dash: single ? "" : DASHES[index % DASHES.length] });
    });
  });
  return found;
}

function extent(values, pad) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  if (low === Infinity) return [0, 1];
  if (low === high) { const d = pad ? Math.abs(low) * 0.1 || 1 : 1; return [low - d, high + d]; }
  return pad ? [low - 0.05 * (high - low), high + 0.05 * (high - low)] : [low, high];
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(n * step);
  return found;
}

function logTicks(low, high) {  // 1, 2 and 5 times powers of ten; of more than three decades the powers alone, of few values plain ticks
  const decades = Math.log10(high / low), leads = decades > 3 ? [1] : [1, 2, 5], found = [];
  const stride = Math.max(1, Math.ceil(decades / 6));
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    if (power % stride === 0) found.push(...leads.map((n) => Number(`${n}e${power}`)).filter((t) => t >= low && t <= high));
  }
  return found.length > 2 ? found : ticks(low, high, 4);
}

function wholeRange() {
  return extent(DATA.runs.flatMap((run, n) => (state.hidden.has(n) ? [] : run.x[state.x].filter((x) => x !== null))), false);
}

function draw(card) {
  const { svg } = card;
  svg.replaceChildren();
  const [x0, x1] = state.range || wholeRange();
  const shown = curves(card);
  const scale = card.log ? Math.log10 : (value) => value;
  const inside = shown.flatMap((curve) => curve.points.filter((p) => p[0] >= x0 && p[0] <= x1).map((p) => scale(p[1])));
  const planned = card.panel.plan ? [scale(card.panel.plan)] : [];
  const [y0, y1] = extent(inside.concat(planned), true);
  const px = (x) => SIZE.left + (x - x0) / (x1 - x0) * (SIZE.width - SIZE.left - SIZE.right);
  const py = (y) => SIZE.height - SIZE.bottom - (scale(y) - y0) / (y1 - y0) * (SIZE.height - SIZE.top - SIZE.bottom);
  card.shown = shown;
  card.place = { px, py, x0, x1 };
  const grid = card.log ? logTicks(10 ** y0, 10 ** y1) : ticks(y0, y1, 4);
  for (const value of grid) {
    element(svg, "line", { x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: py(value), y2: py(value), class: "grid" });
    element(svg, "text", { x: SIZE.left - 5, y: py(value) + 3, "text-anchor": "end" }, short(value));
  }
  for (const value of ticks(x0, x1, 5)) {
    element(svg, "text", { x: px(value), y: SIZE.height - 6, "text-anchor": "middle" }, short(value));
  }
  drawEvents(svg, px, x0, x1);
  if (card.panel.plan) {
    const y = py(card.panel.plan);
    const line = element(svg, "line", { x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: y, y2: y, class: "plan" });
    element(line, "title", {}, `planned: ${short(card.panel.plan)}`);
    element(svg, "text", { x: SIZE.width - SIZE.right, y: y - 4, "text-anchor": "end" }, "planned");
  }
  for (const curve of shown) {
    const inRange = curve.points.filter((p, n) => (curve.points[n + 1] || p)[0] >= x0 && (curve.points[n - 1] || p)[0] <= x1);
    const path = inRange.map((p, n) => `${n ? "L" : "M"}${px(p[0]).toFixed(1)},${py(p[1]).toFixed(1)}`).join("");
    element(svg, "path", { d: path, stroke: curve.colour, "stroke-dasharray": curve.dash, "clip-path": "url(#plot)" });
    if (inRange.length <= 25) {
      inRange.filter((p) => p[0] >= x0 && p[0] <= x1)
        .forEach((p) => element(svg, "circle", { cx: px(p[0]), cy: py(p[1]), r: 2, fill: curve.colour }));
    }
  }
  card.brush = element(svg, "rect", { class: "brush", y: SIZE.top, height: SIZE.height - SIZE.top - SIZE.bottom, width: 0 });
}

function drawEvents(svg, px, x0, x1) {
  DATA.runs.forEach((run, number) => {
    if (state.hidden.has(number)) return;
    for (const event of run.events) {
      const x = event[state.x];
      if (x === null || x < x0 || x > x1 || (event.kind === "start" && !event.step) || event.kind === "end") continue;
      const line = element(svg, "line", {
        x1: px(x), x2: px(x), y1: SIZE.top, y2: SIZE.height - SIZE.bottom, class: `event ${event.kind}`,
      });
      element(line, "title", {}, `${run.name}, step ${event.step}: ${event.text}`);
    }
  });
}

function drawAll() {
  cards.forEach(draw);
  document.documentElement.dataset.drawn = document.querySelectorAll("path").length;
  document.getElementById("reset").hidden = !state.range;
}

function listen(card, tip) {
  let from = null;
  const at = (event) => (event.clientX - card.svg.getBoundingClientRect().left) * SIZE.width / card.svg.getBoundingClientRect().width;
  const value = (x) => card.place.x0 + (x - SIZE.left) / (SIZE.width - SIZE.left - SIZE.right) * (card.place.x1 - card.place.x0);
  card.svg.addEventListener("pointerdown", (event) => { from = at(event); card.svg.setPointerCapture(event.pointerId); });
  card.svg.addEventListener("pointermove", (event) => {
    if (from !== null) {
      const to = at(event);
      card.brush.setAttribute("x", Math.min(from, to));
      card.brush.setAttribute("width", Math.abs(to - from));
      return;
    }
    const x = value(at(event));
    const lines = card.shown.filter((curve) => curve.points.length).map((curve) => {
      const near = curve.points.reduce((best, p) => (Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best));
      return { curve, near };
    });
    tip.replaceChildren();
    element(tip, "b", {}, `${state.x} ${short(lines.length ? lines[0].near[0] : x)}`);
    for (const { curve, near } of lines.slice(0, 16)) {
      const name = [DATA.runs.length > 1 ? curve.run.name : "", card.panel.keys.length > 1 ? curve.key.split("/").pop() : ""];
      element(tip, "div", { style: `color:${curve.colour}` }, `${name.filter(Boolean).join(" ")} ${short(near[1])}`);
    }
    tip.style.display = "block";
    tip.style.left = `${Math.min(event.pageX + 14, document.body.scrollWidth - 230)}px`;
    tip.style.top = `${event.pageY + 12}px`;
  });
  card.svg.addEventListener("pointerup", (event) => {
    const to = at(event);
    if (Math.abs(to - from) > 5) state.range = [value(Math.min(from, to)), value(Math.max(from, to))];
    from = null;
    drawAll();
  });
  card.svg.addEventListener("pointerleave", () => { tip.style.display = "none"; });
  card.svg.addEventListener("dblclick", () => { state.range = null; drawAll(); });
}

function addLegend(figure, keys) {  // by colour in one run; several have the colours, and their curves dashes
  const legend = element(figure, "div", { class: "legend" }), single = DATA.runs.length === 1;
  keys.forEach((key, n) => {
    const item = element(legend, "span", { style: single ? `color:${KEYS[n % KEYS.length]}` : "" });
    if (!single) {
      const dash = element(item, "svg", { viewBox: "0 0 26 8", class: "dash" });
      element(dash, "line", { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-dasharray": DASHES[n % DASHES.length] });
    }
    item.append(key.split("/").pop());
  });
}

function build() {
  const tip = element(document.body, "div", { id: "tip" });
  for (const host of document.querySelectorAll(".panels")) {
    for (const panel of DATA.sections[host.dataset.section]) {
      const figure = element(host, "figure");
      const caption = element(figure, "figcaption");
      element(caption, "span", {}, panel.title);
      const button = element(caption, "button", { type: "button" }, "log");
      const svg = element(figure, "svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": panel.title });
      const card = { panel, svg, log: panel.log };
      if (panel.keys.length > 1) addLegend(figure, panel.keys);
      button.classList.toggle("on", card.log);
      button.addEventListener("click", () => { card.log = !card.log; button.classList.toggle("on", card.log); draw(card); });
      cards.push(card);
      listen(card, tip);
    }
  }
  document.querySelectorAll("[data-run]").forEach((box) => box.addEventListener("change", () => {
    box.checked ? state.hidden.delete(Number(box.dataset.run)) : state.hidden.add(Number(box.dataset.run));
    drawAll();
  }));
  document.getElementById("axis").addEventListener("change", (event) => { state.x = event.target.value; state.range = null; drawAll(); });
  document.getElementById("smooth").addEventListener("input", (event) => { state.smooth = Number(event.target.value); drawAll(); });
  document.getElementById("reset").addEventListener("click", () => { state.range = null; drawAll(); });
  document.querySelectorAll(".reel").forEach((reel) => {
    const pictures = reel.querySelectorAll("img"), said = reel.querySelector("output");
    const show = (n) => { pictures.forEach((p, i) => { p.hidden = i !== n; }); said.textContent = pictures[n].alt; };
    const slider = reel.querySelector("input");
    slider.addEventListener("input", () => show(Number(slider.value)));
    show(pictures.length - 1);
  });
  drawAll();
}
build();
