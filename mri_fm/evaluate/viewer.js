// Draws the viewers of the page: three planes, a chosen token, and what lies over them. No library, no address.
"use strict";
(() => {
  const PLANES = [  // axis across, axes that run upwards and to the right; z superior, y anterior, x right
    { name: "axial", across: 0, up: 1, right: 2, ends: ["L", "R"] },
    { name: "coronal", across: 1, up: 0, right: 2, ends: ["L", "R"] },
    { name: "sagittal", across: 2, up: 0, right: 1, ends: ["P", "A"] },
  ];
  const HEIGHT = 390, GAPS = 28, NARROW = 300;  // of the largest plane, between the three, and their least width, in CSS pixels
  const SEQUENTIAL = [[13, 8, 60], [86, 15, 109], [187, 55, 84], [249, 142, 9], [252, 255, 164]];
  const SIMILAR = [[40, 20, 80], [52, 96, 141], [32, 144, 140], [94, 201, 97], [253, 231, 36]];
  const DIVERGING = [[58, 130, 246], [150, 190, 250], [240, 240, 240], [255, 150, 120], [240, 60, 50]];
  const RATIO = Math.max(2, window.devicePixelRatio || 1);
  window.addEventListener("error", (event) => { document.documentElement.dataset.error = event.message; });

  function element(parent, name, attributes = {}, text = "") {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  async function levels(address) {  // the grey levels of a PNG
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const rgba = context.getImageData(0, 0, image.width, image.height).data;
    return Uint8Array.from({ length: image.width * image.height }, (_, i) => rgba[4 * i]);
  }

  function shade(stops, t) {
    const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((value, i) => value + (at - low) * (stops[low + 1][i] - value));
  }

  const number = (value) => {
    const size = Math.abs(value);
    return size && (size < 1e-3 || size >= 1e4) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  };

  class Viewer {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.querySelector("script").textContent);
      root.querySelector("noscript")?.remove();
      this.state = { unit: 0, shows: "attention", layer: -1, head: 0, size: 0, opacity: 0.65, cell: null };
      this.ready = this.build();
    }

    get unit() { return this.data.units[this.state.unit]; }

    async build() {
      this.buildUnits();
      this.planes = element(this.root, "div", { class: "planes" });
      this.canvases = PLANES.map((plane) => this.buildPlane(plane));
      this.buildControls();
      this.legend = element(this.root, "div", { class: "legend" });
      this.reading = element(this.root, "p", { class: "reading" });
      await this.choose(0);
      window.addEventListener("resize", () => this.draw());
    }

    buildUnits() {
      const list = element(this.root, "div", { class: "units" });
      this.buttons = [];
      this.data.headings.forEach((heading, wrong) => {
        const group = element(list, "div");
        element(group, "span", { class: "group" }, heading);
        this.data.units.forEach((unit, index) => {
          if (unit.right === Boolean(wrong)) return;
          const button = element(group, "button", { type: "button" }, unit.name.slice(0, 24));
          element(button, "small", {}, `is ${unit.truth}, said ${unit.said}`);
          button.onclick = () => this.choose(index);
          this.buttons[index] = button;
        });
      });
    }

    buildPlane(plane) {
      const figure = element(this.planes, "figure", { class: "plane" });
      const canvas = element(figure, "canvas", { role: "img", "aria-label": `${plane.name} slice` });
      const caption = element(figure, "figcaption");
      [plane.ends[0], plane.name, plane.ends[1]].forEach((text) => element(caption, "span", {}, text));
      const slider = element(figure, "input", { type: "range", min: 0, step: 1, "aria-label": `${plane.name} position` });
      slider.oninput = () => this.move(plane.across, Number(slider.value));
      const pick = (event) => {
        const box = canvas.getBoundingClientRect(), grid = this.unit.grid;
        const cell = [...this.state.cell];
        cell[plane.right] = this.within(Math.floor((event.clientX - box.left) / box.width * grid[plane.right]), plane.right);
        cell[plane.up] = this.within(Math.floor((1 - (event.clientY - box.top) / box.height) * grid[plane.up]), plane.up);
        this.set({ cell });
      };
      canvas.onpointerdown = (event) => { canvas.setPointerCapture(event.pointerId); pick(event); };
      canvas.onpointermove = (event) => { if (event.buttons) pick(event); };
      return { canvas, slider };
    }

    buildControls() {
      const box = element(this.root, "div", { class: "controls" });
      const shows = element(box, "div", { class: "shows" });
      this.shows = {};
      for (const name of ["attention", "similarity", "occlusion"]) {
        this.shows[name] = element(shows, "button", { type: "button" }, name);
        this.shows[name].onclick = () => this.set({ shows: name });
      }
      const select = (text, key) => {
        const label = element(box, "label", {}, text);
        const list = element(label, "select", { name: key });
        list.onchange = () => this.set({ [key]: Number(list.value) });
        return { label, list };
      };
      this.layer = select("layer", "layer");
      this.head = select("head", "head");
      const slide = (text, key, options, scale) => {
        const label = element(box, "label", {}, `${text} `);
        const value = element(label, "span");
        const slider = element(label, "input", { type: "range", name: key, ...options });
        slider.oninput = () => this.set({ [key]: Number(slider.value) * scale });
        return { label, value, slider };
      };
      this.size = slide("block", "size", { min: 0, step: 1 }, 1);
      this.opacity = slide("opacity", "opacity", { min: 0, max: 100 }, 0.01);
    }

    within(value, axis) { return Math.min(Math.max(value, 0), this.unit.grid[axis] - 1); }

    move(axis, value) {
      const cell = [...this.state.cell];
      cell[axis] = this.within(value, axis);
      this.set({ cell });
    }

    async choose(index) {  // a unit; its pictures are decoded when it is first asked for
      const unit = this.data.units[index];
      if (!unit.pixels) [unit.pixels, unit.values] = await Promise.all([levels(unit.volume), levels(unit.rows)]);
      const cell = this.state.cell ?? unit.grid.map((n) => Math.floor(n / 2));
      this.set({ unit: index, cell: cell.map((n, axis) => Math.min(n, unit.grid[axis] - 1)) });
    }

    set(change) {
      Object.assign(this.state, change);
      const layers = [...new Set(this.unit.maps.filter((m) => m.kind === "attention").map((m) => m.layer))].sort((a, b) => b - a);
      if (this.state.layer && !layers.includes(this.state.layer)) this.state.layer = layers[0];
      const heads = this.unit.maps.filter((m) => m.kind === "attention" && m.layer === this.state.layer).map((m) => m.head);
      if (!heads.includes(this.state.head)) this.state.head = 0;
      this.state.size = Math.min(this.state.size, this.unit.occlusions.length - 1);
      this.fill(layers, heads);
      this.draw();
    }

    fill(layers, heads) {  // the controls, from the state
      const { state, unit } = this;
      const option = (list, value, text) => element(list, "option", { value }, text);
      this.layer.list.replaceChildren();
      for (const layer of layers) option(this.layer.list, layer, layer === layers[0] ? `${layer} (last)` : String(layer));
      option(this.layer.list, 0, "all (rollout)");
      this.layer.list.value = String(state.layer);
      this.head.list.replaceChildren();
      for (const head of heads.length ? heads : [0]) option(this.head.list, head, head ? String(head) : "mean");
      this.head.list.value = String(state.head);
      this.head.list.disabled = heads.length < 2;
      Object.entries(this.shows).forEach(([name, button]) => button.setAttribute("aria-pressed", name === state.shows));
      this.buttons.forEach((button, index) => button.setAttribute("aria-pressed", index === state.unit));
      for (const control of [this.layer, this.head]) control.label.hidden = state.shows !== "attention";
      this.size.label.hidden = state.shows !== "occlusion";
      this.size.slider.max = unit.occlusions.length - 1;
      this.size.slider.value = state.size;
      this.size.value.textContent = `${unit.occlusions[state.size].edge.map((mm) => Math.round(mm)).join(" × ")} mm`;
      this.opacity.slider.value = Math.round(100 * state.opacity);
      this.opacity.value.textContent = `${Math.round(100 * state.opacity)} %`;
      PLANES.forEach((plane, i) => {
        this.canvases[i].slider.max = unit.grid[plane.across] - 1;
        this.canvases[i].slider.value = state.cell[plane.across];
      });
    }

    index(cell) { return (cell[0] * this.unit.grid[1] + cell[1]) * this.unit.grid[2] + cell[2]; }

    overlay() {  // values over the cells, what they mean, and how they are coloured
      const { state, unit } = this, count = unit.grid[0] * unit.grid[1] * unit.grid[2], row = this.index(state.cell);
      if (state.shows === "occlusion") {
        const values = unit.occlusions[state.size].drop, most = Math.max(...values.map(Math.abs), 1e-9);
        return { values, low: -most, high: most, stops: DIVERGING, title: `by how much covering lowers the ${this.data.score}` };
      }
      const kind = state.shows === "similarity" ? "similarity" : state.layer ? "attention" : "rollout";
      const at = unit.maps.findIndex((m) => m.kind === kind && (kind !== "attention" || (m.layer === state.layer && m.head === state.head)));
      const { low, high, own } = unit.maps[at], first = (at * count + row) * count;
      const values = Array.from(unit.values.subarray(first, first + count), (q) => low[row] + q / 255 * (high[row] - low[row]));
      values[row] = own[row];
      const titles = { similarity: "cosine with the chosen token", rollout: "attention through all layers from the chosen token",
        attention: `attention from the chosen token, layer ${state.layer}, ${state.head ? `head ${state.head}` : "mean over heads"}` };
      if (kind === "similarity") return { values, low: low[row], high: high[row], stops: SIMILAR, title: titles[kind] };
      return { values, low: low[row], high: high[row], stops: SEQUENTIAL, title: titles[kind] };
    }

    draw() {
      const over = this.overlay();
      PLANES.forEach((plane, i) => this.drawPlane(plane, this.canvases[i].canvas, over));
      this.describe(over);
    }

    drawPlane(plane, canvas, over) {
      const { unit, state } = this, { across, up, right } = plane;
      const room = Math.max(NARROW, this.planes.clientWidth - GAPS - 1);
      const scale = Math.min(HEIGHT / Math.max(unit.extent[0], unit.extent[1]), room / (2 * unit.extent[2] + unit.extent[1]));
      const [width, height] = [unit.extent[right] * scale, unit.extent[up] * scale];
      [canvas.width, canvas.height] = [Math.round(width * RATIO), Math.round(height * RATIO)];
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      canvas.parentElement.style.width = `${width}px`;
      const context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      const grey = this.slice(plane, unit.shape, (at) => [unit.pixels[at], unit.pixels[at], unit.pixels[at], 255],
        Math.floor((state.cell[across] + 0.5) / unit.grid[across] * unit.shape[across]));
      context.drawImage(grey, 0, 0, canvas.width, canvas.height);
      context.imageSmoothingEnabled = false;
      const chosen = over.stops === DIVERGING ? -1 : this.index(state.cell);  // has an outline and stands in the text below
      const tint = (at) => (at === chosen ? [0, 0, 0, 0] : this.tint(over, at));
      const colours = this.slice(plane, unit.grid, tint, state.cell[across]);
      context.globalAlpha = state.opacity;
      context.drawImage(colours, 0, 0, canvas.width, canvas.height);
      context.globalAlpha = 1;
      this.mark(context, canvas, plane);
    }

    tint(over, at) {  // what is weak is faint, so that the head stays visible where nothing happens
      const share = (over.values[at] - over.low) / Math.max(over.high - over.low, 1e-12);
      const strength = over.stops === DIVERGING ? Math.abs(2 * share - 1) : over.stops === SIMILAR ? 1 : 0.1 + 0.9 * share;
      return [...shade(over.stops, share), 255 * Math.min(1, strength)];
    }

    slice(plane, shape, pixel, position) {  // across one axis, as a small canvas with the upward axis upwards
      const { across, up, right } = plane, canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [shape[right], shape[up]];
      const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
      const place = [0, 0, 0];
      place[across] = position;
      for (let row = 0; row < shape[up]; row++) {
        for (let column = 0; column < shape[right]; column++) {
          [place[up], place[right]] = [shape[up] - 1 - row, column];
          image.data.set(pixel((place[0] * shape[1] + place[1]) * shape[2] + place[2]), 4 * (row * shape[right] + column));
        }
      }
      context.putImageData(image, 0, 0);
      return canvas;
    }

    mark(context, canvas, plane) {  // the chosen token
      const { grid } = this.unit, { cell } = this.state;
      const [w, h] = [canvas.width / grid[plane.right], canvas.height / grid[plane.up]];
      const [x, y] = [cell[plane.right] * w, (grid[plane.up] - 1 - cell[plane.up]) * h];
      for (const [colour, thick] of [["#000a", 3.5], ["#fff", 1.5]]) {
        context.strokeStyle = colour;
        context.lineWidth = thick * RATIO;
        context.strokeRect(x + RATIO, y + RATIO, w - 2 * RATIO, h - 2 * RATIO);
      }
    }

    describe(over) {
      const { state, unit } = this, count = over.values.length, here = over.values[this.index(state.cell)];
      const colours = over.stops.map((_, i) => `rgb(${shade(over.stops, i / (over.stops.length - 1)).map(Math.round)})`);
      this.legend.replaceChildren();
      element(this.legend, "b", {}, over.title);
      element(this.legend, "span", {}, number(over.low));
      element(this.legend, "i", { style: `background: linear-gradient(90deg, ${colours})` });
      element(this.legend, "span", {}, number(over.high));
      const token = `Token ${state.cell.map((n, axis) => `${"zyx"[axis]} ${n + 1}/${unit.grid[axis]}`).join(", ")}`;
      if (state.shows === "occlusion") {
        this.reading.textContent = `${token}: ${number(unit.score - here)} with this covered, ${number(unit.score)} of the whole volume`
          + ` (${this.data.score}). Red speaks for what was said, blue against it.`;
      } else if (state.shows === "similarity") {
        const mean = over.values.reduce((a, b) => a + b, 0) / count;
        this.reading.textContent = `${token}: mean cosine with all tokens ${number(mean)}, least ${number(over.low)}.`;
      } else {
        const sum = over.values.reduce((a, b) => a + b, 0);
        const kept = unit.registers ? ` ${Math.round(100 * Math.max(0, 1 - sum))} % of it lies on ${unit.registers} registers.` : "";
        this.reading.textContent = `${token}: ${number(100 * here)} % on itself, at most ${number(100 * over.high)} % on another;`
          + ` spread evenly it would be ${number(100 / count)} %.${kept}`;
      }
    }
  }

  window.viewers = [...document.querySelectorAll(".viewer")].map((root) => new Viewer(root));
})();
