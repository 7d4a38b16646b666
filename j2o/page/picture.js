// Draws the graph that `picture.document` describes: `drawGraph(element, data)`.
//
// A box is a node or a module. A module, a node with regions and a call of a function can be opened: then the box
// holds a level of its own. dagre lays out one level at a time, when it is opened, with the boxes in it at their
// sizes; so a large graph costs no more than what is seen of it.
//
// Three kinds of objects: a *thing* is what the data has (a node, a module, a region; one for each, however often its
// function is called), a *box* is a thing at its place in the picture, named by its key ("0.3.2": the third member of
// the fourth of the first), a *level* is the layout of what is in an open box.
//
// Names come from users' programs: they are put in as text, never as HTML.

const drawGraph = (() => {
  "use strict";

  const MOST_AT_FIRST = 48; // boxes of the first view
  const MOST_PILLS = 16; // inputs or outputs of a level that stand alone
  const FAN = 6; // users of a value from which on each has a sign in place of a line
  const WIDEST = 250; // of a box
  const PAD = 12; // inside of a box, to the left and the right of its text
  const HEAD = 30; // height of the title of an open box
  const LINE = 16; // height of a line of text
  const TAG_LINE = 18; // length of the line between a tag and its box
  const SHADOW = 4; // what a closed module shows of the box behind it
  const TAG_GAP = 4; // between tags
  const MARGIN = 16; // around the boxes of a level
  const TITLE_FONT = "600 13px system-ui, sans-serif";
  const SMALL_FONT = "11px ui-monospace, monospace";
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

  // ------------------------------------------------------------------------------------------------ things

  // The things of a model. Those of a graph are made when they are first asked for.
  class Things {
    constructor(data) {
      this.data = data;
      this.graphs = new Map();
    }

    type(value) {
      return this.data.types[this.data.values[value][1]];
    }

    // The name that ONNX has for an operand.
    operandName(node, i) {
      return (this.data.operands[node.op] || [])[i] || "";
    }

    // How many elements the weights have.
    weightsOf(thing) {
      let count = 0;
      for (const value of thing.weights) {
        const sizes = this.type(value).match(/\d+(?=[,\]])/g) || [];
        count += sizes.reduce((product, size) => product * Number(size), 1);
      }
      return count;
    }

    isConstant(value) {
      return this.data.values[value].length > 2;
    }

    // The level of a whole graph.
    graph(number) {
      let thing = this.graphs.get(number);
      if (!thing) {
        const graph = this.data.graphs[number];
        thing = this.group("graph", graph);
        thing.inputs = graph.inputs;
        thing.outputs = graph.outputs;
        for (const [value] of graph.outputs) {
          if (!thing.makes.has(value) && !this.isConstant(value)) thing.needs.add(value);
        }
        this.graphs.set(number, thing);
      }
      return thing;
    }

    // A level: `maker` has the place of the member that makes a value, `needs` the values from outside.
    group(kind, { name, module, members }) {
      const path = this.data.modules[module];
      const thing = { kind, name, path, members: [], maker: new Map(), needs: new Set(), weights: new Set(), count: 0 };
      thing.inputs = [];
      thing.outputs = [];
      for (const member of members) {
        if (typeof member === "number") thing.members.push(this.node(member));
        else thing.members.push(this.group("module", member));
      }
      return this.completed(thing);
    }

    completed(thing) {
      thing.members.forEach((member, place) => {
        thing.count += member.count;
        for (const value of member.weights) thing.weights.add(value);
        for (const value of member.makes) thing.maker.set(value, place);
      });
      thing.makes = new Set(thing.maker.keys());
      for (const member of thing.members) {
        for (const value of member.needs) if (!thing.makes.has(value)) thing.needs.add(value);
      }
      return thing;
    }

    node(number) {
      const node = this.data.nodes[number];
      const operands = node.in.filter((value) => value >= 0);
      const needs = new Set(operands.filter((value) => !this.isConstant(value)));
      for (const region of node.graphs || []) {
        for (const value of this.captured(region)) needs.add(value);
      }
      const weights = new Set(operands.filter((value) => this.data.values[value][3]));
      return { kind: "node", name: node.op, node, needs, makes: new Set(node.out), weights, count: 1 };
    }

    // What a region uses of the graphs around it.
    captured(region) {
      const thing = this.graph(region);
      const own = new Set(thing.inputs.map(([value]) => value));
      return [...thing.needs].filter((value) => !own.has(value));
    }

    // The level that is in a thing; null where there is nothing to open.
    inside(thing) {
      if (thing.kind !== "node") return thing;
      const { call, graphs } = thing.node;
      if (call !== undefined) return this.graph(call);
      if (!graphs) return null;
      if (graphs.length === 1) return this.graph(graphs[0]);
      if (!thing.branches) thing.branches = this.branches(thing, graphs);
      return thing.branches;
    }

    // The level of a node with several regions: a box for each.
    branches(thing, graphs) {
      const { path } = this.graph(graphs[0]);
      const level = { kind: "branches", name: thing.name, path, inputs: [], outputs: [], maker: new Map(), weights: new Set(), count: 0 };
      level.makes = new Set();
      level.needs = new Set(graphs.flatMap((region) => this.captured(region)));
      level.members = graphs.map((region) => ({ ...this.graph(region), needs: new Set(this.captured(region)) }));
      return level;
    }
  }

  // ------------------------------------------------------------------------------------------------ text

  const ruler = document.createElement("canvas").getContext("2d");

  function widthOf(text, font) {
    ruler.font = font;
    return ruler.measureText(text).width;
  }

  // The text, cut where it is too wide.
  function fitted(text, font, width) {
    if (widthOf(text, font) <= width) return text;
    let end = Math.min(text.length, Math.ceil(width / 4));
    while (end > 1 && widthOf(text.slice(0, end) + "…", font) > width) end -= 1;
    return text.slice(0, end) + "…";
  }

  function plural(count, word) {
    return count === 1 ? `1 ${word}` : `${count.toLocaleString("en")} ${word}s`;
  }

  // 7087872 as 7.09 M.
  function shortened(count) {
    return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(count);
  }

  function last(path) {
    return path.slice(path.lastIndexOf("/") + 1);
  }

  // ------------------------------------------------------------------------------------------------ elements

  function svg(name, attributes, parent) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  }

  function html(name, className, text, parent) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  // ------------------------------------------------------------------------------------------------ levels

  // Lays levels out; keeps each until a box in it is opened or closed.
  class Layouts {
    constructor(things) {
      this.things = things;
      this.open = new Set(); // keys
      this.levels = new Map(); // by key
    }

    toggle(key) {
      if (!this.open.delete(key)) this.open.add(key);
      const steps = key.split(".");
      for (let count = steps.length; count >= 0; count -= 1) {
        this.levels.delete(steps.slice(0, count).join("."));
      }
    }

    // The level in an open box: its boxes and lines at their places, and its size.
    level(key, thing) {
      let level = this.levels.get(key);
      if (!level) {
        level = this.laidOut(key, thing);
        this.levels.set(key, level);
      }
      return level;
    }

    laidOut(key, thing) {
      const boxes = thing.members.map((member, place) => this.box(key, member, place, thing.path));
      const pills = this.pills(key, thing);
      const all = this.lines(key, thing, boxes, pills);
      const tags = tagged(all, key !== "");
      const lines = all.filter((line) => !tags.has(line.from)); // what dagre sees
      const apart = [...boxes, ...pills.filter((pill) => !tags.has(pill))];
      for (const [tag, { to }] of tags) if (isOpenModule(to)) tags.delete(tag);
      place(apart, lines);
      for (const box of apart) this.placeTags(box);
      const level = { boxes: [...apart, ...tags.keys()], lines: [...lines, ...tags.values()] };
      for (const line of level.lines) line.points = ended(line);
      return { ...level, ...moved(level) };
    }

    // A tag stands to the right of the box that uses it.
    placeTags(box) {
      const tags = box.tags || [];
      const height = tags.reduce((sum, { tag }) => sum + tag.height + TAG_GAP, -TAG_GAP);
      let y = box.y + box.height / 2 - height / 2;
      for (const { tag, line } of tags) {
        tag.x = box.x + box.width + TAG_LINE;
        tag.y = y;
        y += tag.height + TAG_GAP;
        line.points = [middle(tag), middle(box)];
      }
    }

    // `path` is that of the module that the box is in.
    box(key, thing, place, path) {
      const box = { key: key ? `${key}.${place}` : `${place}`, thing, kind: thing.kind };
      const inside = this.things.inside(thing);
      box.canOpen = inside !== null;
      box.isOpen = box.canOpen && this.open.has(box.key);
      const text = this.text(box, path);
      box.texts = text;
      if (!box.isOpen) return this.sized(box);
      box.level = this.level(box.key, inside);
      const title = widthOf(text[0].text, TITLE_FONT) + 3 * PAD + 20;
      box.width = Math.max(box.level.width, title);
      box.height = HEAD + box.level.height;
      return box;
    }

    sized(box) {
      const widths = box.texts.map(({ text, font }) => widthOf(text, font));
      const sign = box.canOpen ? 22 : 0;
      widths[0] += sign;
      const width = Math.max(84, ...widths) + 2 * PAD;
      box.width = Math.min(WIDEST, Math.ceil(width));
      const room = box.width - 2 * PAD;
      box.texts.forEach((line, i) => {
        line.text = fitted(line.text, line.font, i === 0 ? room - sign : room);
      });
      box.height = 14 + LINE * box.texts.length;
      return box;
    }

    // The lines of text of a closed box, its title first.
    text(box, path) {
      const { thing } = box;
      const lines = [{ text: thing.name, font: TITLE_FONT, className: "title" }];
      const small = (text, className) => lines.push({ text, font: SMALL_FONT, className });
      if (thing.kind !== "node") {
        small(this.summary(thing), "note");
        return lines;
      }
      const { node } = thing;
      if (node.call !== undefined) lines[0].text = this.things.data.graphs[node.call].name;
      const label = this.label(node, path);
      if (label) small(label, "label");
      for (const text of this.constants(node)) small(text, "constant");
      const more = node.out.length > 1 ? ` +${node.out.length - 1}` : "";
      if (node.out.length) small(this.things.type(node.out[0]) + more, "type");
      return lines;
    }

    summary(thing) {
      const weights = this.things.weightsOf(thing);
      const nodes = plural(thing.count, "node");
      return weights ? `${nodes}, ${shortened(weights)} weights` : nodes;
    }

    // The module of a node that stands alone for it: what its path has beyond that of the level.
    label(node, around) {
      const path = this.things.data.modules[node.module] || "";
      if (!path || path === around) return "";
      return path.startsWith(`${around}/`) ? path.slice(around.length + 1) : path;
    }

    // At most three lines for the constants that a node uses.
    constants(node) {
      const texts = [];
      node.in.forEach((value, i) => {
        if (value >= 0 && this.things.isConstant(value)) texts.push(this.constant(node, value, i));
      });
      return texts.length > 3 ? [...texts.slice(0, 2), `${texts.length - 2} more constants`] : texts;
    }

    // `kernel f32[3,4]` of a weight, `axes [0]` of a small constant, the number alone where the operand's name,
    // such as A or B, tells nothing.
    constant(node, value, i) {
      const [, , text, isWeight] = this.things.data.values[value];
      const type = this.things.type(value);
      if (isWeight) return text ? `${last(text)} ${type}` : type;
      const name = this.things.operandName(node, i);
      const shown = text && text.length < 24 ? text : type;
      return name.length > 2 ? `${name} ${shown}` : shown;
    }

    // ---------------------------------------------------------------------------------------- pills

    // The small boxes of a level for what comes in and goes out.
    pills(key, thing) {
      const ends = new Map(thing.inputs);
      const inputs = [...new Set([...ends.keys(), ...thing.needs])];
      const outer = inputs.filter((value) => !this.things.isConstant(value));
      const made = this.gathered(outer.map((value) => [value, ends.get(value)]));
      const pills = made.map((values, i) => this.pill(`${key}:i${i}`, "input", values));
      const results = thing.kind === "graph" ? thing.outputs : [];
      this.gathered(results).forEach((values, i) => {
        pills.push(this.pill(`${key}:o${i}`, "output", values));
      });
      return pills;
    }

    // A list of values for each pill: a value alone, or all of them where there are many.
    gathered(values) {
      return values.length > MOST_PILLS ? [values] : values.map((value) => [value]);
    }

    pill(key, kind, ends) {
      const [[value, name]] = ends;
      const [ownName] = this.things.data.values[value];
      let text = name || (/^\d+$/.test(ownName) ? "" : ownName);
      let small = this.things.type(value);
      if (ends.length > 1) {
        text = plural(ends.length, kind);
        small = "";
      }
      if (this.things.isConstant(value)) small = this.things.data.values[value][2] || small;
      const box = { key, kind, values: ends.map(([one]) => one), canOpen: false, isOpen: false };
      box.texts = [];
      if (text) box.texts.push({ text, font: SMALL_FONT, className: "label" });
      if (small) box.texts.push({ text: small, font: SMALL_FONT, className: "type" });
      const widths = box.texts.map((line) => widthOf(line.text, SMALL_FONT));
      box.width = Math.min(WIDEST, Math.max(...widths) + 2 * PAD);
      for (const line of box.texts) line.text = fitted(line.text, SMALL_FONT, box.width - 2 * PAD);
      box.height = 8 + LINE * box.texts.length;
      return box;
    }

    // ---------------------------------------------------------------------------------------- lines

    // The lines of a level, one for each pair of boxes. A value with many users gets a sign at each of them,
    // which is added to `pills`.
    lines(key, thing, boxes, pills) {
      const from = new Map();
      for (const pill of pills) {
        if (pill.kind === "input") for (const value of pill.values) from.set(value, pill);
      }
      for (const [value, place] of thing.maker) from.set(value, boxes[place]);
      const users = new Map(); // value → boxes
      const use = (value, box) => {
        if (!from.has(value)) return;
        if (!users.has(value)) users.set(value, []);
        users.get(value).push(box);
      };
      boxes.forEach((box) => {
        for (const value of box.thing.needs) use(value, box);
      });
      const outputs = pills.filter((pill) => pill.kind === "output");
      for (const pill of outputs) for (const value of pill.values) use(value, pill);
      const lines = new Map();
      for (const [value, boxesOfUse] of users) {
        const source = from.get(value);
        const far = boxesOfUse.length > FAN ? boxesOfUse.slice(1) : [];
        const near = far.length ? boxesOfUse.slice(0, 1) : boxesOfUse;
        for (const box of near) joined(lines, source, box, value);
        far.forEach((box, i) => {
          const sign = this.pill(`${key}:s${value}-${i}`, "sign", [[value]]);
          sign.source = source;
          pills.push(sign);
          joined(lines, sign, box, value);
        });
      }
      return [...lines.values()];
    }
  }

  // The boxes that are drawn beside their only user, and not above it: signs, and, within a module or function, inputs
  // whose user takes something else too, such as weights. So the main way stays straight.
  // Each comes with its line. What goes into an open module is shown there alone.
  function tagged(lines, isInside) {
    const uses = new Map();
    const sources = new Map(); // of each box, how many lines come from elsewhere than tags
    for (const { from, to } of lines) {
      uses.set(from, (uses.get(from) || 0) + 1);
      sources.set(to, (sources.get(to) || 0) + 1);
    }
    const tags = new Map();
    for (const line of [...lines].reverse()) {
      const { from, to } = line;
      const isWeight = isInside && from.kind === "input" && uses.get(from) === 1 && to.thing;
      if (from.kind !== "sign" && !(isWeight && sources.get(to) > 1)) continue;
      sources.set(to, sources.get(to) - 1);
      tags.set(from, line);
      if (!isOpenModule(to)) to.tags = [{ tag: from, line }, ...(to.tags || [])];
    }
    return tags;
  }

  function isOpenModule(box) {
    return box.isOpen && box.kind === "module";
  }

  // Lets dagre place boxes, and gives the lines their points. A box with tags takes as much room on its left as they
  // need on its right, so that lines go to its middle.
  function place(boxes, lines) {
    if (!boxes.length) return;
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "TB", nodesep: 22, ranksep: 34, edgesep: 12 });
    for (const box of boxes) graph.setNode(box.key, roomOf(box));
    for (const line of lines) graph.setEdge(line.from.key, line.to.key, {});
    dagre.layout(graph);
    for (const box of boxes) {
      const { x, y } = graph.node(box.key);
      box.x = x - box.width / 2;
      box.y = y - box.height / 2;
    }
    for (const line of lines) line.points = graph.edge(line.from.key, line.to.key).points;
  }

  // Moves a level so that all of it, its lines too, stands within a margin, and returns its size.
  function moved({ boxes, lines }) {
    const points = lines.flatMap((line) => line.points);
    const left = Math.min(...boxes.map((box) => box.x), ...points.map((point) => point.x)) - MARGIN;
    const top = Math.min(...boxes.map((box) => box.y), ...points.map((point) => point.y)) - MARGIN;
    for (const item of [...boxes, ...points]) {
      item.x -= left;
      item.y -= top;
    }
    const right = Math.max(0, ...boxes.map((box) => box.x + box.width), ...points.map((point) => point.x));
    const bottom = Math.max(0, ...boxes.map((box) => box.y + box.height), ...points.map((point) => point.y));
    return { width: right + MARGIN, height: bottom + MARGIN };
  }

  function roomOf(box) {
    const tags = (box.tags || []).map(({ tag }) => tag);
    if (!tags.length) return { width: box.width, height: box.height };
    const beside = TAG_LINE + Math.max(...tags.map((tag) => tag.width));
    const stacked = tags.reduce((sum, tag) => sum + tag.height + TAG_GAP, -TAG_GAP);
    return { width: box.width + 2 * beside, height: Math.max(box.height, stacked) };
  }

  // The points of a line, which begins and ends at the edges of its boxes.
  function ended({ from, to, points }) {
    const inner = points.length > 2 ? points.slice(1, -1) : [];
    const first = inner[0] || middle(to);
    const final = inner[inner.length - 1] || middle(from);
    return [edgeTowards(from, first), ...inner, edgeTowards(to, final)];
  }

  function middle(box) {
    return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  }

  // Where the way from the middle of a box to a point leaves the box.
  function edgeTowards(box, point) {
    const { x, y } = middle(box);
    const shadow = box.canOpen && !box.isOpen ? SHADOW : 0; // to the right and below
    const acrossX = Math.abs(point.x - x) / (box.width / 2 + (point.x > x ? shadow : 0));
    const acrossY = Math.abs(point.y - y) / (box.height / 2 + (point.y > y ? shadow : 0));
    const across = Math.max(acrossX, acrossY, 1);
    return { x: x + (point.x - x) / across, y: y + (point.y - y) / across };
  }

  function joined(lines, from, to, value) {
    if (from === to) return;
    const id = `${from.key} ${to.key}`;
    if (!lines.has(id)) lines.set(id, { from, to, values: [] });
    lines.get(id).values.push(value);
  }

  function boxesOf(thing) {
    return thing.members.length + Math.min(thing.needs.size, MOST_PILLS);
  }

  // Which boxes are open at first: level after level, where all of a level fit into the first view.
  function openedAtFirst(things, layouts) {
    const root = things.graph(0);
    let count = root.members.length;
    const queue = [{ key: "", thing: root }];
    while (queue.length) {
      const { key, thing } = queue.shift();
      const inner = [];
      thing.members.forEach((member, place) => {
        const inside = things.inside(member);
        if (inside) inner.push({ key: key ? `${key}.${place}` : `${place}`, thing: inside });
      });
      const more = inner.reduce((sum, one) => sum + boxesOf(one.thing), 0);
      if (count + more > MOST_AT_FIRST) continue;
      count += more;
      for (const one of inner) {
        layouts.open.add(one.key);
        queue.push(one);
      }
    }
  }

  // ------------------------------------------------------------------------------------------------ picture

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
        this.finding = { text, found: [...this.matches(this.things.graph(0), "", text)], place: -1 };
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

    // The keys of the boxes whose names have a text in them.
    *matches(thing, key, text) {
      for (let place = 0; place < thing.members.length; place += 1) {
        const member = thing.members[place];
        const own = key ? `${key}.${place}` : `${place}`;
        if (this.isNamed(member, text)) yield own;
        const inside = this.things.inside(member);
        if (inside) yield* this.matches(inside, own, text);
      }
    }

    isNamed(thing, text) {
      if (thing.name.toLowerCase().includes(text)) return true;
      if (thing.kind !== "node") return false;
      const { modules, values, graphs } = this.things.data;
      const { node } = thing;
      const constants = node.in.filter((value) => value >= 0 && this.things.isConstant(value));
      const names = [...node.out.map((value) => `%${values[value][0]}`), ...constants.map((value) => values[value][2])];
      if (node.call !== undefined) names.push(graphs[node.call].name);
      if (node.module !== undefined) names.push(modules[node.module]);
      return names.some((name) => name.toLowerCase().includes(text));
    }

    // The key of the box that makes a value, as seen from another box; null for an input of the model.
    makerOf(value, from) {
      for (const { key, thing } of this.around(from)) {
        const found = descended(thing, key, value);
        if (found !== null) return found;
      }
      return null;
    }

    // The keys of the boxes that use a value which a box makes.
    usersOf(value, from) {
      let users = [];
      for (const { key, thing } of this.around(from)) {
        if (!thing.makes.has(value)) break;
        users = [...usersIn(thing, key, value)];
      }
      return users;
    }

    // The levels around a box, the innermost first.
    around(key) {
      const levels = [{ key: "", thing: this.things.graph(0) }];
      const steps = key.replace(/:.*/, "").split(".").filter((step) => step !== "");
      const isPill = key.includes(":");
      const depth = isPill ? steps.length : steps.length - 1;
      for (let count = 0; count < depth; count += 1) {
        const { thing } = levels[0];
        const inside = this.things.inside(thing.members[Number(steps[count])]);
        levels.unshift({ key: steps.slice(0, count + 1).join("."), thing: inside });
      }
      return levels;
    }

    // ------------------------------------------------------------------------------------ details

    select(key) {
      this.chosen = key;
      this.mark();
      this.panel.textContent = "";
      const shown = this.shown.get(key);
      this.panel.hidden = !shown;
      if (!shown) return;
      const close = html("button", "picture-close", "×", this.panel);
      close.type = "button";
      close.setAttribute("aria-label", "Close the details");
      close.addEventListener("click", () => this.select(null));
      this.describe(shown.box);
    }

    describe(box) {
      const { thing } = box;
      html("h3", "", this.titleOf(box), this.panel);
      if (!thing) {
        this.listed(box.kind === "output" ? "Output" : "Value", box.values, box.key);
        return;
      }
      if (box.canOpen) {
        const button = html("button", "picture-open", box.isOpen ? "Close it" : "Open it", this.panel);
        button.type = "button";
        button.addEventListener("click", () => this.toggle(box.key));
      }
      if (thing.kind === "node") this.describeNode(thing.node, box.key);
      else this.describeModule(box);
    }

    titleOf(box) {
      if (!box.thing) return box.texts[0].text;
      const { node, name } = box.thing;
      return node && node.call !== undefined ? `call ${this.things.data.graphs[node.call].name}` : name;
    }

    describeModule(box) {
      const { thing } = box;
      if (thing.path) this.row("Module", thing.path);
      this.row("Contents", this.layouts.summary(thing));
      this.listed("Takes", [...thing.needs], box.key);
    }

    describeNode(node, key) {
      const { data } = this.things;
      if (node.module !== undefined) this.row("Module", data.modules[node.module]);
      if (node.at) this.row("Source", `${data.files[node.at[0]]}:${node.at[1]}`);
      this.listed("Inputs", node.in, key);
      this.listed("Outputs", node.out, key, true);
      const attributes = Object.entries(node.attrs || {});
      if (attributes.length) html("h4", "", "Attributes", this.panel);
      for (const [name, text] of attributes) this.row(name, text);
    }

    row(name, text) {
      const row = html("div", "picture-row", "", this.panel);
      html("span", "picture-name", name, row);
      html("span", "picture-text", text, row);
    }

    // Values with their types. A button leads to what makes a value, or to what uses it.
    listed(title, values, key, areResults = false) {
      if (!values.length) return;
      html("h4", "", title, this.panel);
      const list = html("ul", "", "", this.panel);
      values.slice(0, 64).forEach((value) => this.listValue(value, key, areResults, html("li", "", "", list)));
      if (values.length > 64) html("li", "", `and ${values.length - 64} more`, list);
    }

    listValue(value, key, isResult, item) {
      if (value < 0) {
        html("span", "picture-name", "left out", item);
        return;
      }
      const [name, , text] = this.things.data.values[value];
      html("code", "", `%${name}`, item);
      html("code", "picture-type", this.things.type(value), item);
      const note = text || (this.things.isConstant(value) ? "constant" : "");
      if (note) html("code", "picture-text", note, item);
      if (this.things.isConstant(value)) return;
      const maker = isResult ? null : this.makerOf(value, key);
      const ends = isResult ? this.usersOf(value, key) : [maker].filter((one) => one !== null);
      ends.slice(0, 8).forEach((end) => this.linkTo(end, isResult ? "to" : "from", item));
      if (ends.length > 8) html("span", "picture-name", ` and ${ends.length - 8} more`, item);
    }

    linkTo(key, word, item) {
      const [{ thing }] = this.around(key);
      const place = Number(key.slice(key.lastIndexOf(".") + 1));
      const link = html("button", "picture-link", `${word} ${thing.members[place].name}`, item);
      link.type = "button";
      link.addEventListener("click", () => this.reveal(key));
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
      const maker = this.makerOf(box.values[0], box.key);
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

  // Where a value is made, at or below a level; null where it comes from outside.
  function descended(thing, key, value) {
    const place = thing.maker.get(value);
    if (place === undefined) return null;
    const member = thing.members[place];
    const own = key ? `${key}.${place}` : `${place}`;
    return member.kind === "module" ? descended(member, own, value) : own;
  }

  // The nodes that use a value, at or below a level.
  function* usersIn(thing, key, value) {
    for (let place = 0; place < thing.members.length; place += 1) {
      const member = thing.members[place];
      const own = key ? `${key}.${place}` : `${place}`;
      if (member.kind === "module") yield* usersIn(member, own, value);
      else if (member.needs.has(value)) yield own;
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
