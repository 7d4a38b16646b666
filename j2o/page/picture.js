// Draws the graph that `picture.document` describes: `drawGraph(element, data)`.
//
// A box is a node or a module. A module, a node with regions and a call of a function can be opened: then the box
// holds a level of its own. `picture-things.js` has what the data means, `picture-boxes.js` the text in boxes,
// `picture-levels.js` where they stand, `picture-details.js` the panel; here they are drawn, moved and clicked.
//
// Names come from users' programs: they are put in as text, never as HTML.

const drawGraph = (() => {
  "use strict";

  const { Things } = pictureThings;
  const { MOST_PILLS, PAD, LINE, last } = pictureBoxes;
  const { Layouts, openedAtFirst, HEAD, SHADOW } = pictureLevels;
  const { Details, html } = pictureDetails;

  const SVG = "http://www.w3.org/2000/svg";

  // The colour of an operator tells what kind of work it does. What is in no list moves or makes data.
  const WORK = {
    product: "MatMul Gemm Conv ConvTranspose Einsum FusedMatMul MatMulInteger QLinearMatMul dot_general conv_general_dilated FusedConv FusedGemm MatMulNBits",
    attention: "Attention MultiHeadAttention GroupQueryAttention LSTM GRU RNN RotaryEmbedding",
    norm: "LayerNormalization BatchNormalization GroupNormalization InstanceNormalization RMSNormalization SkipLayerNormalization SimplifiedLayerNormalization SkipSimplifiedLayerNormalization LpNormalization",
    activation: "Relu Gelu Tanh Sigmoid Softmax LogSoftmax Elu Selu Celu LeakyRelu Softplus Softsign HardSigmoid HardSwish Mish Swish Erf FastGelu BiasGelu QuickGelu Clip",
    arithmetic: "Add Sub Mul Div Neg Abs Exp Log Sqrt Pow Reciprocal Max Min Sum Mean Mod Floor Ceil Round Sign Sin Cos Where And Or Not Xor Equal Less Greater LessOrEqual GreaterOrEqual add sub mul div exp log max min",
    reduction: "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL2 ReduceSumSquare ReduceLogSumExp ArgMax ArgMin CumSum TopK MaxPool AveragePool GlobalAveragePool GlobalMaxPool",
    control: "If Loop Scan while scan cond call",
  };
  const KIND_OF = new Map();
  for (const [kind, names] of Object.entries(WORK)) {
    for (const name of names.split(" ")) KIND_OF.set(name, kind);
  }

  function svg(name, attributes, parent) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  }

  class Picture {
    constructor(element, data) {
      this.things = new Things(data);
      this.layouts = new Layouts(this.things);
      this.view = { x: 0, y: 0, scale: 1 };
      this.chosen = null; // the key of a box
      this.shown = new Map(); // by key, the box and its element
      this.build(element);
      openedAtFirst(this.things, this.layouts);
      this.draw();
      this.start();
    }

    build(element) {
      element.textContent = "";
      element.classList.add("picture");
      this.element = element;
      this.buildTools(html("div", "picture-tools", "", element));
      const stage = html("div", "picture-stage", "", element);
      this.canvas = svg("svg", { tabindex: 0, role: "group", class: "picture-canvas" }, stage);
      this.canvas.setAttribute("aria-label", "The graph. Plus and minus zoom, arrows move, 0 shows all of it.");
      const arrow = { id: "picture-arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8 };
      const marker = svg("marker", { ...arrow, orient: "auto", markerUnits: "userSpaceOnUse" }, svg("defs", {}, this.canvas));
      svg("path", { d: "M0 0 8 4 0 8z", class: "arrow" }, marker);
      this.world = svg("g", {}, this.canvas);
      this.panel = html("aside", "picture-details", "", stage);
      this.panel.setAttribute("aria-live", "polite");
      this.panel.setAttribute("aria-label", "Details");
      this.panel.hidden = true;
      this.details = new Details(this.panel, this.things, this.layouts.boxes, {
        toggle: (key) => this.toggle(key),
        reveal: (key) => this.reveal(key),
        hide: () => this.select(null),
      });
      this.listen();
    }

    buildTools(bar) {
      const button = (text, label, action) => {
        const element = html("button", "", text, bar);
        element.type = "button";
        element.title = label;
        element.setAttribute("aria-label", label);
        element.addEventListener("click", action);
        return element;
      };
      const search = html("input", "", "", bar);
      search.type = "search";
      search.placeholder = "Find an operator, a module or a value";
      search.setAttribute("aria-label", search.placeholder);
      this.finding = { text: "", found: [], place: 0 };
      search.addEventListener("keydown", (event) => {
        if (event.key === "Enter") this.find(search.value.trim().toLowerCase());
      });
      this.status = html("span", "picture-found", "", bar);
      this.status.setAttribute("role", "status");
      button("+", "Zoom in", () => this.zoom(1.25));
      button("−", "Zoom out", () => this.zoom(0.8));
      button("Fit", "Show all of it", () => this.fit());
      button("Close all", "Close all modules", () => this.closeAll());
      this.fullButton = button("Full window", "Fill the window", () => this.setFull(!this.isFull));
    }

    // ------------------------------------------------------------------------------------ drawing

    draw() {
      const focused = document.activeElement && document.activeElement.dataset.key;
      const inCanvas = this.canvas.contains(document.activeElement);
      this.world.textContent = "";
      this.shown.clear();
      this.linesOf = new Map();
      this.size = this.layouts.level("", this.things.graph(0));
      this.drawLevel(this.size, 0, 0);
      this.mark();
      if (inCanvas && focused !== undefined && this.shown.has(focused)) {
        this.isRefocusing = true; // nobody has moved to the box, so the view stays
        this.shown.get(focused).element.focus({ preventScroll: true });
        this.isRefocusing = false;
      }
    }

    drawLevel(level, left, top) {
      for (const line of level.lines) this.drawLine(line, left, top);
      for (const box of level.boxes) this.drawBox(box, left + box.x, top + box.y);
    }

    drawLine(line, left, top) {
      const points = line.points.map(({ x, y }) => [left + x, top + y]);
      const path = svg("path", { d: curve(points), class: "line", "marker-end": "url(#picture-arrow)" }, this.world);
      const types = line.values.map((value) => `%${this.things.data.values[value][0]}: ${this.things.type(value)}`);
      svg("title", {}, path).textContent = types.slice(0, MOST_PILLS).join("\n");
      for (const { key } of [line.from, line.to]) {
        if (!this.linesOf.has(key)) this.linesOf.set(key, []);
        this.linesOf.get(key).push(path);
      }
    }

    drawBox(box, left, top) {
      const kind = box.kind === "node" ? KIND_OF.get(last(box.thing.name).split(".").pop()) || "data" : box.kind;
      const classes = ["box", kind, box.kind === "node" ? "node" : "", box.isOpen ? "open" : ""];
      const element = svg("g", { class: classes.join(" ").trim(), transform: `translate(${left} ${top})` }, this.world);
      element.dataset.key = box.key;
      element.setAttribute("tabindex", 0);
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", box.texts.map(({ text }) => text).join(", "));
      if (box.canOpen) element.setAttribute("aria-expanded", box.isOpen);
      this.shown.set(box.key, { box, element, left, top });
      this.drawFrame(box, element);
      if (!box.isOpen) return;
      const indent = (box.width - box.level.width) / 2;
      this.drawLevel(box.level, left + indent, top + HEAD);
    }

    drawFrame(box, element) {
      const { width, height } = box;
      const isPill = ["input", "output", "sign"].includes(box.kind);
      const radius = isPill ? Math.min(12, height / 2) : 6;
      if (box.canOpen && !box.isOpen) {
        svg("rect", { x: SHADOW, y: SHADOW, width, height, rx: radius, class: "behind" }, element);
      }
      svg("rect", { width, height, rx: radius, class: "frame" }, element);
      if (box.kind === "node" && !box.isOpen) {
        svg("path", { d: `M6 0h${width - 12}a6 6 0 0 1 6 6H0a6 6 0 0 1 6-6z`, class: "stripe" }, element);
      }
      const lines = box.isOpen ? box.texts.slice(0, 1) : box.texts;
      lines.forEach(({ text, className }, i) => {
        const y = (isPill ? 0 : 4) + LINE * (i + 1) + (box.isOpen ? 1 : 0);
        svg("text", { x: PAD, y, class: className }, element).textContent = text;
      });
      if (box.canOpen) this.drawSign(box, element);
    }

    // The plus or minus that opens and closes a box.
    drawSign(box, element) {
      const sign = svg("g", { class: "sign-button", transform: `translate(${box.width - 24} 7)` }, element);
      svg("rect", { width: 16, height: 16, rx: 4 }, sign);
      svg("path", { d: box.isOpen ? "M4 8h8" : "M4 8h8M8 4v8" }, sign);
    }

    // Shows which box is chosen, and the lines at it.
    mark() {
      for (const element of this.world.querySelectorAll(".chosen, .near")) {
        element.classList.remove("chosen", "near");
      }
      const shown = this.shown.get(this.chosen);
      if (!shown) return;
      shown.element.classList.add("chosen");
      for (const line of this.linesOf.get(this.chosen) || []) line.classList.add("near");
    }

    // ------------------------------------------------------------------------------------ the view

    place() {
      const { x, y, scale } = this.view;
      this.world.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
    }

    room() {
      const { width, height } = this.canvas.getBoundingClientRect();
      return { width: width || 800, height: height || 600 };
    }

    // All of the graph.
    fit(least = 0.02) {
      const { width, height } = this.room();
      const whole = Math.min(width / this.size.width, height / this.size.height);
      const scale = Math.max(least, Math.min(1, whole));
      const top = Math.max(0, (height - this.size.height * scale) / 2);
      this.view = { x: (width - this.size.width * scale) / 2, y: top, scale };
      this.place();
    }

    // The first view can be read: a graph that is too high for it begins at its top.
    start() {
      const { width } = this.room();
      this.fit(Math.min(0.85, Math.max(0.4, width / this.size.width)));
    }

    // Zooms around a point of the canvas, by default its middle.
    zoom(factor, point) {
      const { width, height } = this.room();
      const { x, y } = point || { x: width / 2, y: height / 2 };
      const scale = Math.min(4, Math.max(0.02, this.view.scale * factor));
      const grown = scale / this.view.scale;
      this.view = { x: x - (x - this.view.x) * grown, y: y - (y - this.view.y) * grown, scale };
      this.place();
    }

    move(x, y) {
      this.view.x += x;
      this.view.y += y;
      this.place();
    }

    // Brings a box into the middle where it is not to be seen whole.
    bring(key) {
      const shown = this.shown.get(key);
      if (!shown) return;
      const { width, height } = this.room();
      const { scale, x, y } = this.view;
      const left = shown.left * scale + x;
      const top = shown.top * scale + y;
      const right = left + shown.box.width * scale;
      const bottom = top + Math.min(shown.box.height * scale, height / 2);
      const free = this.panel.hidden ? width : Math.max(width / 2, width - this.panel.offsetWidth - 16);
      if (left >= 0 && top >= 0 && right <= free && bottom <= height) return;
      this.move(free / 2 - (left + right) / 2, height / 2 - (top + bottom) / 2);
    }

    // ------------------------------------------------------------------------------------ open and close

    // Opens or closes a box, which stays at its place on the screen.
    toggle(key) {
      const before = this.shown.get(key);
      if (!before.box.canOpen) return;
      this.layouts.toggle(key);
      this.draw();
      const after = this.shown.get(key);
      const { scale } = this.view;
      const centre = ({ left, box }) => left + box.width / 2;
      this.move((centre(before) - centre(after)) * scale, (before.top - after.top) * scale);
      this.select(key);
    }

    closeAll() {
      this.layouts.open.clear();
      this.layouts.levels.clear();
      this.select(null);
      this.draw();
      this.start();
    }

    // Opens what is around a box, chooses the box and brings it into view.
    reveal(key) {
      const steps = key.split(".");
      for (let count = 1; count < steps.length; count += 1) {
        const around = steps.slice(0, count).join(".");
        if (!this.layouts.open.has(around)) this.layouts.toggle(around);
      }
      this.draw();
      this.select(key);
      this.bring(key);
      this.shown.get(key).element.focus({ preventScroll: true });
    }

    setFull(isFull) {
      this.isFull = isFull;
      this.element.classList.toggle("picture-full", isFull);
      this.fullButton.textContent = isFull ? "Back to the page" : "Full window";
      this.fit();
    }

    // ------------------------------------------------------------------------------------ finding

    find(text) {
      if (!text) return;
      if (text !== this.finding.text) {
        this.finding = { text, found: this.things.found(text), place: -1 };
      }
      const { found } = this.finding;
      if (!found.length) {
        this.status.textContent = "nothing found";
        return;
      }
      this.finding.place = (this.finding.place + 1) % found.length;
      this.status.textContent = `${this.finding.place + 1} of ${found.length}`;
      this.reveal(found[this.finding.place]);
    }

    select(key) {
      this.chosen = key;
      this.mark();
      const shown = this.shown.get(key);
      this.details.show(shown ? shown.box : null);
    }

    // ------------------------------------------------------------------------------------ events

    listen() {
      const { canvas } = this;
      canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
      canvas.addEventListener("pointerdown", (event) => this.onDown(event));
      canvas.addEventListener("pointermove", (event) => this.onMove(event));
      for (const name of ["pointerup", "pointercancel"]) {
        canvas.addEventListener(name, (event) => this.onUp(event, name === "pointerup"));
      }
      canvas.addEventListener("dblclick", () => this.onDoubleClick());
      canvas.addEventListener("focusin", (event) => this.onFocus(event));
      this.element.addEventListener("keydown", (event) => this.onKey(event));
      this.pointers = new Map();
    }

    pointOf(event) {
      const { left, top } = this.canvas.getBoundingClientRect();
      return { x: event.clientX - left, y: event.clientY - top };
    }

    // The wheel zooms once the picture has been clicked or the window is full, so that it scrolls the page before.
    onWheel(event) {
      const isActive = this.isFull || this.element.contains(document.activeElement);
      if (!isActive && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const step = event.deltaMode === 1 ? 20 * event.deltaY : event.deltaY;
      this.zoom(Math.exp(-step * (event.ctrlKey ? 0.01 : 0.0015)), this.pointOf(event));
    }

    onDown(event) {
      if (event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.pointOf(event));
      if (this.pointers.size === 1) {
        this.target = event.target;
        this.way = 0;
      }
    }

    onMove(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const now = this.pointOf(event);
      const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
      this.pointers.set(event.pointerId, now);
      this.way += Math.hypot(now.x - before.x, now.y - before.y);
      if (others.length) this.pinch(before, now, others[0][1]);
      else if (this.way > 4) this.move(now.x - before.x, now.y - before.y);
    }

    pinch(before, now, other) {
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      const is = Math.hypot(now.x - other.x, now.y - other.y);
      this.move((now.x - before.x) / 2, (now.y - before.y) / 2);
      if (was > 0 && is > 0) this.zoom(is / was, { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
    }

    onUp(event, isClick) {
      const wasDown = this.pointers.delete(event.pointerId);
      if (!wasDown || !isClick || this.pointers.size || this.way > 4) return;
      this.onClick();
    }

    // A click on a module opens or closes it; on another box it shows the details; beside them it hides these.
    onClick() {
      const box = this.target.closest(".box");
      if (!box) {
        this.canvas.focus({ preventScroll: true });
        this.select(null);
        return;
      }
      const { key } = box.dataset;
      box.focus({ preventScroll: true });
      this.activate(key, this.target.closest(".sign-button") !== null);
    }

    activate(key, onSign = false) {
      const { box } = this.shown.get(key);
      if (box.kind === "sign") this.follow(box);
      else if (box.canOpen && (onSign || box.kind !== "node")) this.toggle(key);
      else this.select(key);
    }

    // A sign stands for a line: it leads to where the line would come from.
    follow(box) {
      const maker = this.things.makerOf(box.values[0], box.key);
      if (maker !== null) this.reveal(maker);
      else this.select(box.key);
    }

    onDoubleClick() {
      const box = this.target.closest(".box.node");
      if (box) this.toggle(box.dataset.key);
    }

    onFocus(event) {
      const box = event.target.closest(".box");
      if (box && !this.isRefocusing && box.matches(":focus-visible")) this.bring(box.dataset.key);
    }

    onKey(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") {
        if (this.isFull && this.panel.hidden) this.setFull(false);
        else this.select(null);
        return;
      }
      if (!this.canvas.contains(event.target)) return;
      const box = event.target.closest(".box");
      const isHandled = this.onViewKey(event.key) || (box && this.onBoxKey(event.key, box.dataset.key));
      if (isHandled) event.preventDefault();
    }

    onViewKey(key) {
      const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (key in moves) this.move(...moves[key]);
      else if (key === "+" || key === "=") this.zoom(1.25);
      else if (key === "-") this.zoom(0.8);
      else if (key === "0") this.fit();
      else return false;
      return true;
    }

    // Enter does what a click does, the space bar opens and closes.
    onBoxKey(key, box) {
      if (key === "Enter") this.activate(box);
      else if (key === " ") this.activate(box, true);
      else return false;
      return true;
    }
  }

  // A smooth line through the middles between points.
  function curve(points) {
    const [first, ...others] = points;
    const end = others[others.length - 1];
    let path = `M${first.map(rounded).join(" ")}`;
    for (let i = 0; i + 1 < others.length; i += 1) {
      const [x, y] = others[i];
      const [nextX, nextY] = others[i + 1];
      path += `Q${[x, y, (x + nextX) / 2, (y + nextY) / 2].map(rounded).join(" ")}`;
    }
    return `${path}L${end.map(rounded).join(" ")}`;
  }

  function rounded(number) {
    return Math.round(number * 10) / 10;
  }

  return (element, data) => new Picture(element, data);
})();
