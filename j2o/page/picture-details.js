// The details of the box that is chosen, in a panel beside the graph.
//
// Names come from users' programs: they are put in as text, never as HTML.

const pictureDetails = (() => {
  "use strict";

  const MOST_VALUES = 64; // of a list
  const MOST_ENDS = 8; // links to users of a value

  function html(name, className, text, parent) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  // `actions` has what the buttons do: `toggle(key)`, `reveal(key)` and `hide()`.
  class Details {
    constructor(panel, things, boxes, actions) {
      this.panel = panel;
      this.things = things;
      this.boxes = boxes;
      this.actions = actions;
    }

    // Shows a box; null hides the panel.
    show(box) {
      this.panel.textContent = "";
      this.panel.hidden = box === null;
      if (box === null) return;
      const close = html("button", "picture-close", "×", this.panel);
      close.type = "button";
      close.setAttribute("aria-label", "Close the details");
      close.addEventListener("click", () => this.actions.hide());
      this.describe(box);
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
        button.addEventListener("click", () => this.actions.toggle(box.key));
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
      this.row("Contents", this.boxes.summary(thing));
      this.listed("Takes", [...thing.needs], box.key);
    }

    describeNode(node, key) {
      const { data } = this.things;
      if (node.module !== undefined) this.row("Module", data.modules[node.module]);
      if (node.at) this.row("Source", `${data.files[node.at[0]]}:${node.at[1]}`);
      this.listed("Inputs", node.in, key, node);
      this.listed("Outputs", node.out, key, null, true);
      const attributes = Object.entries(node.attrs || {});
      if (attributes.length) html("h4", "", "Attributes", this.panel);
      for (const [name, text] of attributes) this.row(name, text);
    }

    row(name, text) {
      const row = html("div", "picture-row", "", this.panel);
      html("span", "picture-name", name, row);
      html("span", "picture-text", text, row);
    }

    // Values with their types, the operands of `node` with the names that ONNX has for them. A button leads to what
    // makes a value; of results, to what uses it.
    listed(title, values, key, node = null, areResults = false) {
      if (!values.length) return;
      html("h4", "", title, this.panel);
      const list = html("ul", "", "", this.panel);
      values.slice(0, MOST_VALUES).forEach((value, i) => {
        const item = html("li", "", "", list);
        const name = node ? this.things.operandName(node, i) : "";
        if (name) html("span", "picture-name", name, item);
        if (value < 0) html("span", "picture-name", "left out", item);
        else this.describeValue(value, item);
        if (value >= 0) this.linkEnds(value, key, areResults, item);
      });
      if (values.length > MOST_VALUES) html("li", "", `and ${values.length - MOST_VALUES} more`, list);
    }

    describeValue(value, item) {
      const [name, , text] = this.things.data.values[value];
      html("code", "", `%${name}`, item);
      html("code", "picture-type", this.things.type(value), item);
      const note = text || (this.things.isConstant(value) ? "constant" : "");
      if (note) html("code", "picture-text", note, item);
    }

    linkEnds(value, key, isResult, item) {
      if (this.things.isConstant(value)) return;
      const ends = isResult ? this.things.usersOf(value, key) : [this.things.makerOf(value, key)];
      const known = ends.filter((end) => end !== null);
      for (const end of known.slice(0, MOST_ENDS)) this.linkTo(end, isResult ? "to" : "from", item);
      if (known.length > MOST_ENDS) html("span", "picture-name", `and ${known.length - MOST_ENDS} more`, item);
    }

    linkTo(key, word, item) {
      const [{ thing }] = this.things.around(key);
      const place = Number(key.slice(key.lastIndexOf(".") + 1));
      const link = html("button", "picture-link", `${word} ${thing.members[place].name}`, item);
      link.type = "button";
      link.addEventListener("click", () => this.actions.reveal(key));
    }
  }

  return { Details, html };
})();
