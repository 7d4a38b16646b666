// Boxes: the text in each, and its size when it is closed.

const pictureBoxes = (() => {
  "use strict";

  const MOST_PILLS = 32; // inputs or outputs of a level that stand alone
  const WIDEST = 250; // of a box
  const PAD = 12; // inside of a box, to the left and the right of its text
  const LINE = 16; // height of a line of text
  const TITLE_FONT = "600 13px system-ui, sans-serif";
  const SMALL_FONT = "11px ui-monospace, monospace";

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

  class Boxes {
    constructor(things) {
      this.things = things;
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
  }

  return { Boxes, MOST_PILLS, PAD, LINE, TITLE_FONT, widthOf, last };
})();
