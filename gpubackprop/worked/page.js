"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const RADIUS = 25, MARGIN = 46;
  const get = (id) => document.getElementById(id);
  let room = 6; // characters of a number on a line
  let stage = 0, sample = 0, digits = 4, pinned = null, hovered = null, pointed = null;

  // ---- numbers ------------------------------------------------------------------------------

  function format(value, n = digits) {
    if (typeof value === "string") return value; // nan, inf
    if (!n) return String(value);
    const small = value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6);
    const rounded = small ? value.toExponential(n - 1) : value.toPrecision(n), back = Number(rounded);
    // What needs fewer digits, such as 0.5, is written with fewer.
    return Math.abs(back - value) <= 1e-7 * Math.abs(value) ? String(back) : rounded;
  }

  // A negative number in the midst of an expression has brackets.
  function bracketed(value, before) {
    const text = format(value);
    return text.startsWith("-") && /[-+*/]\s*$/.test(before) ? `(${text})` : text;
  }

  // For the drawing, where a unit has room for six characters.
  function short(value, room = 6) {
    const texts = [format(value, 3), format(value, 2)];
    const fits = texts.find((text) => text.length <= room) || texts.find((text) => text.length <= 6);
    return fits || (typeof value === "string" ? value : value.toExponential(1).replace("e+", "e"));
  }

  // ---- what belongs to an element -----------------------------------------------------------

  const own = (id) => data.samples[sample][id];
  const equations = (id) => [...(own(id) ? own(id).equations : []), ...data.elements[id].equations];
  const references = (equation) =>
    equation[2].filter((token) => typeof token !== "string").map((token) => token[2]).filter(Boolean);
  const layerOf = (id) => Number(id.slice(1).split("_")[0]);
  const back = (layer) => data.stages.findIndex((s) => s.kind === "back" && s.layer === layer);
  const forward = (layer) => layer + 1;

  // The chosen element's equations of this stage, else its last ones before, else all.
  function current(id) {
    const all = equations(id);
    const now = all.filter((e) => e[0] === stage);
    if (now.length) return now;
    const past = all.filter((e) => e[0] < stage);
    return past.length ? past.filter((e) => e[0] === past[past.length - 1][0]) : all.slice(0, 1);
  }

  // Units, weights and the loss that lie between an element and the loss.
  function downstream(id) {
    const found = new Set(["loss"]);
    let layer, units;
    if (id[0] === "e" || id[0] === "b") { layer = layerOf(id); units = [Number(id.split("_")[1])]; }
    else if (id[0] === "n" && layerOf(id) > 0) { layer = layerOf(id) - 1; units = [Number(id.split("_")[1])]; }
    else return new Set();
    for (; ; layer += 1) {
      for (const unit of units) found.add(`n${layer + 1}_${unit}`);
      if (layer + 2 >= data.columns.length) break;
      const next = data.columns[layer + 2].units;
      for (const unit of units) for (const j of next) found.add(`e${layer + 1}_${j}_${unit}`);
      units = next;
    }
    return found;
  }

  // ---- the drawing --------------------------------------------------------------------------

  const groups = {};

  function make(name, attributes, parent, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }

  function element(id, kind, parent, focusable = true) {
    const group = make("g", { role: "button", "data-id": id, class: kind }, parent);
    group.setAttribute("tabindex", focusable ? "0" : "-1");
    groups[id] = group;
    return group;
  }

  // From left to right where there is room, else from top to bottom.
  function layout() {
    const room = get("drawing").clientWidth || 800;
    const tallest = Math.max(...data.columns.map((c) => c.units.length + (c.more ? 1 : 0)));
    const across = data.columns.length; // and the loss after the last
    const wide = room >= 2 * MARGIN + across * 108;
    const along = wide ? Math.min(190, (room - 2 * MARGIN) / across) : 164;
    const apart = wide ? (tallest > 6 ? 77 : 84) : Math.max(62, Math.min(100, (room - 2 * MARGIN) / Math.max(1, tallest - 1)));
    const place = (column, row, rows) => {
      const u = MARGIN + column * along, v = (wide ? 76 : MARGIN) + ((tallest - rows) / 2 + row) * apart;
      return wide ? [u, v] : [v, u + 16];
    };
    const length = 2 * MARGIN + across * along, breadth = (tallest - 1) * apart;
    return wide ? { wide, place, width: length, height: breadth + 76 + 52 }
      : { wide, place, width: breadth + 2 * MARGIN, height: length + 20 };
  }

  function draw() {
    const box = get("drawing"), plan = layout();
    room = plan.wide ? 6 : 5;
    const svg = make("svg", { width: plan.width, height: plan.height, role: "group",
      viewBox: `0 0 ${plan.width} ${plan.height}`,
      "aria-label": `Network ${data.sizes.join("-")}: units, weights and loss` });
    const edges = make("g", {}, svg), labels = make("g", { "aria-hidden": "true" }, svg), nodes = make("g", {}, svg);
    const spots = data.columns.map((column, c) => {
      const rows = column.units.length + (column.more ? 1 : 0);
      return Array.from({ length: rows }, (_, k) => plan.place(c, k, rows));
    });
    const many = Object.keys(data.elements).filter((id) => id[0] === "e").length > 40;
    for (let l = 0; l + 1 < data.columns.length; l += 1)
      data.columns[l + 1].units.forEach((j, k) => data.columns[l].units.forEach((i, m) =>
        drawWeight(`e${l}_${j}_${i}`, spots[l][m], spots[l + 1][k], edges, labels, !many, (k + m) % 2)));
    data.columns.forEach((column, c) => {
      title(column, c, spots[c], plan, nodes);
      column.units.forEach((i, k) => drawUnit(c, i, spots[c][k], plan, nodes));
      if (column.more) drawMore(c, column.more, spots[c][column.units.length], nodes);
    });
    drawLoss(plan, nodes);
    box.replaceChildren(svg);
  }

  function title(column, c, spots, plan, parent) {
    if (plan.wide) {
      make("text", { x: spots[0][0], y: 14, class: "small" }, parent, column.title);
      make("text", { x: spots[0][0], y: 27, class: "small" }, parent, c ? column.activation : "");
    } else {
      const name = c ? `${column.title}, ${column.activation}` : column.title;
      make("text", { x: 4, y: spots[0][1] - RADIUS - 17, class: "small", style: "text-anchor: start" }, parent, name);
    }
  }

  function drawWeight(id, [x0, y0], [x1, y1], parent, labels, focusable, odd) {
    const weight = data.elements[id], group = element(id, "edge", parent, focusable);
    const d = `M${x0} ${y0}L${x1} ${y1}`;
    make("path", { d, class: "halo" }, group);
    make("path", { d, class: `line ${weight.value < 0 ? "negative" : "positive"}`,
      "stroke-width": (0.8 + 4.2 * weight.size).toFixed(2) }, group);
    make("path", { d, class: "hit" }, group);
    if (!weight.written) return;
    // Nearer to one end than to the other, so that labels of lines that cross stand apart.
    const t = odd ? 0.28 : 0.72;
    make("text", { x: x0 + t * (x1 - x0), y: y0 + t * (y1 - y0) + 4, class: "onLine", "data-for": id }, labels);
  }

  function drawUnit(c, i, [x, y], plan, parent) {
    const id = `n${c}_${i}`, group = element(id, "unit", parent);
    make("circle", { cx: x, cy: y, r: RADIUS, class: "shape" }, group);
    make("text", { x, y: y + 4, "data-part": "a" }, group);
    make("text", { x, y: y - RADIUS - 4, class: "small" }, group, `a[${c}][${i}]`);
    make("text", { x, y: y + RADIUS + 12, class: "small", "data-part": "delta" }, group);
    const bias = `b${c - 1}_${i}`;
    if (!data.elements[bias]) return;
    const tag = element(bias, "bias", parent);
    make("rect", { x: x - RADIUS - 8, y: y + 8, width: 17, height: 17, rx: 3, class: "shape" }, tag);
    make("text", { x: x - RADIUS + 0.5, y: y + 20.5, class: "small" }, tag, "b");
  }

  function drawMore(c, more, [x, y], parent) {
    const group = element(`f${c}`, "more", parent);
    make("rect", { x: x - 36, y: y - 16, width: 72, height: 32, rx: 16, class: "shape" }, group);
    make("text", { x, y: y + 4 }, group, `… ${more} more`);
  }

  function drawLoss(plan, parent) {
    const [x, y] = plan.place(data.columns.length, 0, 1), group = element("loss", "loss", parent);
    make("rect", { x: x - 36, y: y - 22, width: 72, height: 44, rx: 4, class: "shape" }, group);
    make("text", { x, y: y - 5 }, group, "loss");
    make("text", { x, y: y + 12, "data-part": "a" }, group);
  }

  // ---- state of the drawing -----------------------------------------------------------------

  function known(id) {
    const kind = id[0], c = layerOf(id);
    if (id === "loss") return stage >= data.columns.length;
    if (kind === "n") return c === 0 || stage >= forward(c - 1);
    return true;
  }

  function active(id) {
    const now = data.stages[stage];
    if (id === "loss") return now.kind === "loss";
    const kind = id[0], c = layerOf(id);
    if (now.kind === "input") return kind === "n" && c === 0;
    if (now.kind === "loss") return kind === "n" && c === data.columns.length - 1;
    if (now.kind === "update") return kind === "e" || kind === "b";
    return (kind === "n" && c === now.layer + 1) || ((kind === "e" || kind === "b") && c === now.layer);
  }

  function weightText(id) {
    const weight = data.elements[id], now = data.stages[stage];
    if (now.kind === "back" && now.layer === layerOf(id)) return short(weight.gradient, room);
    if (now.kind === "update") return short(weight.new, room);
    return short(weight.value, room);
  }

  function describe(id) {
    const unit = own(id);
    let text = data.elements[id].label;
    if (id[0] === "e" || id[0] === "b") text += `, ${format(data.elements[id].value)}`;
    else if (id === "loss" && known(id)) text += `, ${format(data.loss)}`;
    else if (unit && known(id)) {
      text += `, a ${format(unit.a)}`;
      if (unit.delta !== undefined && stage >= back(layerOf(id) - 1)) text += `, delta ${format(unit.delta)}`;
    }
    return text;
  }

  function paint() {
    const chosen = hovered || pinned;
    const lit = new Set(chosen ? current(chosen).flatMap(references) : []);
    const backwards = chosen && current(chosen).some((e) => e[0] > data.columns.length);
    const path = backwards ? downstream(chosen) : new Set();
    for (const [id, group] of Object.entries(groups)) {
      const set = (name, on) => group.classList.toggle(name, Boolean(on));
      set("known", known(id)); set("unknown", !known(id)); set("now", active(id));
      set("lit", lit.has(id) || pointed === id); set("path", path.has(id) && !lit.has(id));
      set("chosen", id === chosen);
      set("dim", id[0] === "e" && (chosen ? !lit.has(id) && !path.has(id) && id !== chosen : !active(id)));
      group.setAttribute("aria-label", describe(id));
      group.setAttribute("aria-pressed", String(id === pinned));
      const unit = own(id);
      for (const part of group.querySelectorAll("[data-part]")) {
        if (id === "loss") part.textContent = known(id) ? short(data.loss) : "?";
        else if (part.dataset.part === "a") part.textContent = known(id) ? short(unit.a) : "?";
        else part.textContent = unit.delta !== undefined && stage >= back(layerOf(id) - 1) ? `δ ${short(unit.delta)}` : "";
      }
    }
    for (const label of document.querySelectorAll("[data-for]")) label.textContent = weightText(label.dataset.for);
  }

  // ---- equations ----------------------------------------------------------------------------

  function html(name, className, text) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function writeEquation([when, name, tokens, value, note]) {
    const box = html("div", "eq" + (when === stage ? " now" : ""));
    box.dataset.name = name;
    if (tokens.length) {
      const symbols = tokens.map((t) => (typeof t === "string" ? t : t[1] || format(t[0]))).join("");
      box.append(html("div", "sym", `${name} = ${symbols}`));
    }
    const line = html("div", "num");
    line.append(`${name} = `);
    let before = "";
    for (const token of tokens) {
      if (typeof token === "string") { line.append(token); before += token; continue; }
      const [number, what, from] = token;
      const text = bracketed(number, before);
      before += text;
      if (!from) { line.append(text); continue; }
      const button = html("button", "n", text);
      button.type = "button"; button.dataset.ref = from; button.title = what;
      button.setAttribute("aria-label", `${what}: ${text}`);
      line.append(button);
    }
    if (tokens.length) line.append(" = ");
    line.append(html("span", "value", format(value)));
    box.append(line);
    if (note) box.append(html("div", "note", note));
    return box;
  }

  function write() {
    const chosen = hovered || pinned, panel = get("panel");
    const parts = [];
    if (chosen) {
      parts.push(html("h2", "", data.elements[chosen].label + (pinned === chosen ? " (kept)" : "")));
      const weight = data.elements[chosen];
      if (weight.value !== undefined) parts.push(html("p", "", `Its value before the step is ${format(weight.value)}.`));
      const all = equations(chosen);
      if (chosen[0] === "f") parts.push(html("p", "", "Sums have them as one number; the table below and the arrays of the trace hold each."));
      parts.push(...all.map(writeEquation));
    } else {
      parts.push(html("h2", "", data.stages[stage].title));
      const here = Object.keys(groups).filter((id) => id[0] !== "e" && id[0] !== "b" || data.stages[stage].kind === "update")
        .flatMap(equations).filter((e) => e[0] === stage);
      parts.push(...here.slice(0, 24).map(writeEquation));
      if (here.length > 24) parts.push(html("p", "", `… and ${here.length - 24} more: point at a unit or a weight.`));
    }
    panel.replaceChildren(...parts);
    const now = panel.querySelector(".eq.now");
    panel.scrollTop = now && chosen ? now.offsetTop - 8 : 0;
  }

  function show() {
    get("stage").textContent = `Step ${stage + 1} of ${data.stages.length}. ${data.stages[stage].text}`;
    get("previous").disabled = stage === 0;
    get("next").disabled = stage === data.stages.length - 1;
    get("stages").querySelectorAll("button").forEach((button, k) =>
      k === stage ? button.setAttribute("aria-current", "step") : button.removeAttribute("aria-current"));
    paint();
    write();
  }

  // ---- doing --------------------------------------------------------------------------------

  function go(to) {
    const next = Math.max(0, Math.min(data.stages.length - 1, to));
    if (next !== stage) { stage = next; show(); }
  }

  const idOf = (event) => {
    const found = event.target.closest && event.target.closest("[data-id]");
    return found ? found.dataset.id : null;
  };

  function listen() {
    get("previous").addEventListener("click", () => go(stage - 1));
    get("next").addEventListener("click", () => go(stage + 1));
    get("sample").addEventListener("change", (event) => { sample = Number(event.target.value); show(); });
    get("digits").addEventListener("change", (event) => { digits = Number(event.target.value); show(); });
    const drawing = get("drawing"), panel = get("panel");
    const hover = (id) => { if (id !== hovered) { hovered = id; show(); } };
    // A finger has no hover: its tap keeps what it touches.
    drawing.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch") hover(idOf(event)); });
    drawing.addEventListener("pointerleave", () => hover(null));
    drawing.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) hover(idOf(event)); });
    drawing.addEventListener("focusout", () => hover(null));
    drawing.addEventListener("click", (event) => {
      const id = idOf(event);
      pinned = id === pinned ? null : id;
      show();
      if (pinned) groups[pinned].scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    const point = (event) => {
      const found = event.target.closest(".n");
      const next = found ? found.dataset.ref : null;
      if (next !== pointed) { pointed = next; paint(); }
    };
    for (const kind of ["pointerover", "focusin"]) panel.addEventListener(kind, point);
    for (const kind of ["pointerleave", "focusout"]) panel.addEventListener(kind, () => { pointed = null; paint(); });
    panel.addEventListener("click", (event) => {
      const found = event.target.closest(".n");
      if (!found || !data.elements[found.dataset.ref]) return;
      pinned = found.dataset.ref; pointed = hovered = null;
      show();
      if (groups[pinned].getAttribute("tabindex") === "0") groups[pinned].focus({ preventScroll: true });
    });
    document.addEventListener("keydown", key);
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth !== width) { width = window.innerWidth; draw(); show(); }
    });
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, pre")) return;
    const steps = { ArrowRight: stage + 1, ArrowLeft: stage - 1, Home: 0, End: data.stages.length - 1 };
    if (event.key in steps) { event.preventDefault(); go(steps[event.key]); }
    else if (event.key === "Escape") { pinned = hovered = pointed = null; show(); }
    else if ((event.key === "Enter" || event.key === " ") && event.target.closest("g[data-id]")) {
      event.preventDefault();
      const id = idOf(event);
      pinned = id === pinned ? null : id;
      show();
    }
  }

  function begin() {
    data.stages.forEach((step, k) => {
      const item = html("li"), button = html("button", "", step.title);
      button.type = "button";
      button.addEventListener("click", () => go(k));
      item.append(button);
      get("stages").append(item);
    });
    if (data.batch > 1) {
      get("sampleChoice").hidden = false;
      data.samples.forEach((_, k) => {
        const option = html("option", "", `${k} of ${data.batch}`);
        option.value = String(k);
        get("sample").append(option);
      });
    }
    draw();
    listen();
    show();
  }

  begin();
})();
