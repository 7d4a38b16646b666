// What the data of `picture.document` has, as objects.
//
// A thing is a node, a module, a region or a graph; there is one for each, however often its function is called. A
// thing at its place in the picture has a key: "0.3.2" is the third member of the fourth of the first.

const pictureThings = (() => {
  "use strict";

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

    // ---------------------------------------------------------------------------------------- places

    // The keys of the boxes whose names have a text in them, at most so many.
    found(text, most = 1000) {
      const keys = [];
      this.search(text, this.graph(0), "", new Map(), keys, most);
      return keys;
    }

    // `counts` has the number of finds in each level, so that the body of a function is looked through once.
    search(text, thing, key, counts, keys, most) {
      if (counts.get(thing) === 0) return;
      const before = keys.length;
      for (let place = 0; place < thing.members.length && keys.length < most; place += 1) {
        const member = thing.members[place];
        const own = key ? `${key}.${place}` : `${place}`;
        if (this.isNamed(member, text)) keys.push(own);
        const inside = this.inside(member);
        if (inside) this.search(text, inside, own, counts, keys, most);
      }
      if (keys.length < most) counts.set(thing, keys.length - before);
    }

    isNamed(thing, text) {
      if (thing.name.toLowerCase().includes(text)) return true;
      if (thing.kind !== "node") return false;
      const { modules, values, graphs } = this.data;
      const { node } = thing;
      const constants = node.in.filter((value) => value >= 0 && this.isConstant(value));
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
      const levels = [{ key: "", thing: this.graph(0) }];
      const steps = key.replace(/:.*/, "").split(".").filter((step) => step !== "");
      const isPill = key.includes(":");
      const depth = isPill ? steps.length : steps.length - 1;
      for (let count = 0; count < depth; count += 1) {
        const { thing } = levels[0];
        const inside = this.inside(thing.members[Number(steps[count])]);
        levels.unshift({ key: steps.slice(0, count + 1).join("."), thing: inside });
      }
      return levels;
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

  return { Things };
})();
