// Levels: what is in an open box, laid out by dagre, one level at a time.
//
// A level is laid out when its box is opened, with the boxes in it at their sizes; so a large graph costs no more than
// what is seen of it.

const pictureLevels = (() => {
  "use strict";

  const { Boxes, MOST_PILLS, PAD, TITLE_FONT, widthOf } = pictureBoxes;

  const MOST_AT_FIRST = 48; // boxes of the first view
  const FAN = 6; // users of a value from which on each has a sign in place of a line
  const CROWD = 120; // uses of values in a level from which on three users are enough for that
  const HEAD = 30; // height of the title of an open box
  const MOST_TAGS = 6; // beside a box, each for itself
  const TAG_LINE = 18; // length of the line between a tag and its box
  const TAG_GAP = 4; // between tags
  const SHADOW = 4; // what a closed module shows of the box behind it
  const MARGIN = 16; // around the boxes of a level

  // Lays levels out; keeps each until a box in it is opened or closed.
  class Layouts {
    constructor(things) {
      this.things = things;
      this.boxes = new Boxes(things);
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
      const pills = this.boxes.pills(key, thing);
      const all = this.lines(key, thing, boxes, pills);
      const tags = tagged(all, key !== "");
      const lines = all.filter((line) => !tags.has(line.from)); // what dagre sees
      const apart = [...boxes, ...pills.filter((pill) => !tags.has(pill))];
      for (const [tag, { to }] of tags) if (isOpenModule(to)) tags.delete(tag);
      for (const box of boxes) this.gatherTags(key, box, tags);
      place(apart, lines);
      for (const box of apart) this.placeTags(box);
      const level = { boxes: [...apart, ...tags.keys()], lines: [...lines, ...tags.values()] };
      for (const line of level.lines) line.points = ended(line);
      return { ...level, ...moved(level) };
    }

    // Many tags of one box become one.
    gatherTags(key, box, tags) {
      const own = box.tags || [];
      if (own.length <= MOST_TAGS) return;
      const values = own.flatMap(({ tag }) => tag.values);
      const tag = this.boxes.pill(`${key}:t${box.key}`, "input", values.map((value) => [value]));
      const line = { from: tag, to: box, values };
      for (const one of own) tags.delete(one.tag);
      tags.set(tag, line);
      box.tags = [{ tag, line }];
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
      const text = this.boxes.text(box, path);
      box.texts = text;
      if (!box.isOpen) return this.boxes.sized(box);
      box.level = this.level(box.key, inside);
      const title = widthOf(text[0].text, TITLE_FONT) + 3 * PAD + 20;
      box.width = Math.max(box.level.width, title);
      box.height = HEAD + box.level.height;
      return box;
    }

    // The lines of a level, one for each pair of boxes. A value with many users gets a sign at each of them but the
    // first, which is added to `pills`.
    lines(key, thing, boxes, pills) {
      const from = sourcesOf(thing, boxes, pills);
      const users = usersOf(from, boxes, pills);
      const count = [...users.values()].reduce((sum, using) => sum + using.length, 0);
      const fan = count > CROWD ? 2 : FAN;
      const lines = new Map();
      for (const [value, using] of users) {
        const near = using.length > fan ? 1 : using.length;
        for (const box of using.slice(0, near)) joined(lines, from.get(value), box, value);
        using.slice(near).forEach((box, i) => {
          const sign = this.boxes.pill(`${key}:s${value}-${i}`, "sign", [[value]]);
          pills.push(sign);
          joined(lines, sign, box, value);
        });
      }
      return [...lines.values()];
    }
  }

  // The box or the input that each value of a level comes from.
  function sourcesOf(thing, boxes, pills) {
    const from = new Map();
    for (const pill of pills) {
      if (pill.kind === "input") for (const value of pill.values) from.set(value, pill);
    }
    for (const [value, place] of thing.maker) from.set(value, boxes[place]);
    return from;
  }

  // The boxes and outputs that use each of these values.
  function usersOf(from, boxes, pills) {
    const users = new Map();
    const use = (value, box) => {
      if (!from.has(value)) return;
      if (!users.has(value)) users.set(value, []);
      users.get(value).push(box);
    };
    for (const box of boxes) for (const value of box.thing.needs) use(value, box);
    for (const pill of pills) {
      if (pill.kind === "output") for (const value of pill.values) use(value, pill);
    }
    return users;
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

  return { Layouts, openedAtFirst, HEAD, SHADOW };
})();
