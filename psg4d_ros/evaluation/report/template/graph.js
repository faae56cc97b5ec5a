// The scene graph as a drawing: objects lie about where they lie in the room, seen from above; edges are relations.

const MOST_NODES = 26;
const NODE_AREA = 7500; // square pixels of the drawing for each node, so that names stay apart

class GraphDrawing {
  constructor(svg, facts) {
    this.svg = svg;
    this.facts = facts;
    this.places = new Map(); // of the nodes drawn last, so that they stay where they are from graph to graph
    this.key = '';
    new ResizeObserver(() => this.update()).observe(svg);
  }

  /** Draw what is there now. */
  update() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    if (!width || !height) return;
    const key = `${state.recording}/${state.layer}/${width}`;
    if (key !== this.key) this.places.clear();
    this.key = key;
    const { objects, relations } = scene();
    const linked = new Set(relations.flatMap((r) => [r.subject, r.object]));
    const worth = (o) => (linked.has(o.object) ? 4 : 0) + (o.thing ? 1 : 0) + o.score + (o.object === state.selected ? 9 : 0);
    const shown = [...objects].sort((a, b) => worth(b) - worth(a)).slice(0, Math.min(MOST_NODES, Math.max(6, Math.floor((width * height) / NODE_AREA))));
    const nodes = shown.map((o) => ({ ...o, w: widthOf(o.name, 12.5) + 38, h: 26 }));
    const byNumber = new Map(nodes.map((n) => [n.object, n]));
    const edges = [...groups(relations).entries()].map(([pair, group]) => {
      const [s, o] = pair.split('/').map(Number);
      return { source: byNumber.get(s), target: byNumber.get(o), group, score: Math.max(...group.map((r) => r.score)) };
    }).filter((e) => e.source && e.target && e.source !== e.target);
    this.layout(nodes, edges, width, height - (objects.length > shown.length ? 24 : 0));
    this.paintEdges(nodes, edges, objects.length - shown.length, width, height);
    this.listFacts(relations);
    this.highlight();
  }

  layout(nodes, edges, width, height) {
    const { up } = current();
    const turn = new vendor.Quaternion().setFromUnitVectors(new vendor.Vector3(...up).normalize(), Y);
    const home = view ? view.homes.get(state.recording) : null;
    const ahead = home ? home.way.clone().negate().setY(0).normalize() : new vendor.Vector3(0, 0, -1);
    const right = new vendor.Vector3().crossVectors(ahead, Y);
    const plan = nodes.map((n) => {
      const v = new vendor.Vector3(...n.position).applyQuaternion(turn);
      return [v.dot(right), -v.dot(ahead)];
    });
    const reach = [0, 1].map((c) => [Math.min(...plan.map((p) => p[c])), Math.max(...plan.map((p) => p[c]))]);
    const spread = (v, [low, high], size, margin) => (high - low < 0.01 ? size / 2 : margin + ((v - low) / (high - low)) * (size - 2 * margin));
    nodes.forEach((n, i) => {
      n.homeX = spread(plan[i][0], reach[0], width, 70);
      n.homeY = spread(plan[i][1], reach[1], height, 40);
      const before = this.places.get(n.object);
      n.x = before ? before[0] : n.homeX + (i % 3) - 1; // exactly equal places would never part
      n.y = before ? before[1] : n.homeY + (i % 5) - 2;
    });
    const calm = this.places.size > 0;
    const keep = () => {
      for (const n of nodes) {
        n.x = Math.min(Math.max(n.x, n.w / 2 + 4), width - n.w / 2 - 4);
        n.y = Math.min(Math.max(n.y, 20), height - 20);
      }
    };
    vendor.forceSimulation(nodes)
      .force('x', vendor.forceX((n) => n.homeX).strength(0.12))
      .force('y', vendor.forceY((n) => n.homeY).strength(0.14))
      .force('apart', vendor.forceManyBody().strength(-520).distanceMax(320))
      .force('links', vendor.forceLink(edges).distance(130).strength(0.06))
      .force('room', apartAsBoxes(nodes))
      .force('keep', keep)
      .alpha(calm ? 0.12 : 1)
      .stop()
      .tick(calm ? 40 : 260);
    keep();
    this.places = new Map(nodes.map((n) => [n.object, [n.x, n.y]]));
  }

  paintEdges(nodes, edges, hidden, width, height) {
    const both = new Set(edges.map((e) => `${e.source.object}/${e.target.object}`));
    const named = new Set([...edges].sort((a, b) => b.score - a.score).slice(0, 12));
    this.edges = [];
    this.nodes = [];
    const lines = edges.map((e) => {
      const bend = both.has(`${e.target.object}/${e.source.object}`) ? 26 : 10;
      const { path, x, y } = edgePath(e.source, e.target, bend);
      const words = e.group.map((r) => r.predicate);
      const text = words.slice(0, 2).join(' · ') + (words.length > 2 ? ` +${words.length - 2}` : '');
      const line = make('path', { class: 'edge', d: path, 'marker-end': 'url(#tip)', css: { 'stroke-opacity': 0.35 + 0.65 * e.score } });
      const label = make('text', { class: `edgelabel${named.has(e) ? '' : ' quiet'}`, x, y, 'text-anchor': 'middle', 'dominant-baseline': 'central' }, text);
      this.edges.push({ subject: e.source.object, object: e.target.object, line, label });
      return [line, label];
    });
    const pills = nodes.map((n) => {
      const choose = () => show({ selected: state.selected === n.object ? -1 : n.object });
      const node = make('g', {
        class: `node${n.thing ? '' : ' stuff'}`, transform: `translate(${n.x.toFixed(1)} ${n.y.toFixed(1)})`, tabindex: 0, role: 'button',
        'aria-label': `${n.name}, ${n.thing ? 'object' : 'surface'}`, 'data-object': n.object,
        onclick: choose,
        onkeydown: (event) => { if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); event.stopPropagation(); choose(); } },
        onpointerenter: (event) => event.pointerType === 'mouse' && show({ hovered: n.object }),
        onpointerleave: () => state.hovered === n.object && show({ hovered: -1 }),
      },
      make('rect', { x: -n.w / 2, y: -n.h / 2, width: n.w, height: n.h, rx: n.h / 2 }),
      make('circle', { cx: -n.w / 2 + 14, cy: 0, r: 5, css: { fill: rgb(n.color) } }),
      make('text', { x: -n.w / 2 + 25, 'dominant-baseline': 'central' }, n.name));
      this.nodes.push({ number: n.object, node });
      return node;
    });
    const focused = document.activeElement?.closest?.('#graph .node')?.dataset.object;
    const tip = make('defs', {}, make('marker', { id: 'tip', viewBox: '0 0 10 10', refX: 9, refY: 5, markerWidth: 7, markerHeight: 7, orient: 'auto-start-reverse' }, make('path', { d: 'M0 1 10 5 0 9Z', class: 'tip' })));
    this.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.svg.replaceChildren(tip, ...lines.map(([line]) => line), ...lines.map(([, label]) => label), ...pills,
      hidden > 0 ? make('text', { class: 'aside', x: 10, y: height - 10 }, `and ${hidden} more`) : '',
      nodes.length ? '' : make('text', { class: 'aside', x: width / 2, y: height / 2, 'text-anchor': 'middle' }, current().frames.length ? 'No objects at this time' : 'No graphs'));
    if (focused !== undefined) this.nodes.find((n) => String(n.number) === focused)?.node.focus({ preventScroll: true });
  }

  /** What is focused stands out, with its neighbours. */
  highlight() {
    const focused = focus();
    const near = new Set(this.edges.filter((e) => e.subject === focused || e.object === focused).flatMap((e) => [e.subject, e.object]));
    for (const { number, node } of this.nodes) {
      node.classList.toggle('focused', number === focused);
      node.classList.toggle('faint', focused >= 0 && number !== focused && !near.has(number));
      node.setAttribute('aria-pressed', number === state.selected);
    }
    for (const { subject, object, line, label } of this.edges) {
      const on = subject === focused || object === focused;
      for (const element of [line, label]) {
        element.classList.toggle('focused', on);
        element.classList.toggle('faint', focused >= 0 && !on);
      }
    }
    for (const item of this.facts.children) {
      const on = Number(item.dataset.subject) === focused || Number(item.dataset.object) === focused;
      item.classList.toggle('focused', focused >= 0 && on);
      item.classList.toggle('faint', focused >= 0 && !on);
    }
  }

  /** The same as sentences. */
  listFacts(relations) {
    const recording = current();
    const frame = recording.frames[state.frame];
    const nameNow = new Map(scene().objects.map((o) => [o.object, o.name]));
    const items = [...relations].sort((a, b) => b.score - a.score).slice(0, 60).map((r) => {
      const part = (number) => {
        const { color } = identity(recording, state.layer, number);
        return make('button', { type: 'button', class: 'who', onclick: () => show({ selected: state.selected === number ? -1 : number }) },
          make('i', { css: { background: rgb(color) } }), nameNow.get(number) ?? nameOf(recording, state.layer, number));
      };
      const since = r.since === undefined ? '' : frame.t - r.since > 0.01 ? `for ${seconds(frame.t - r.since)}` : 'new';
      return make('li', { 'data-subject': r.subject, 'data-object': r.object }, part(r.subject), make('em', {}, r.predicate), part(r.object),
        make('span', { class: 'when' }, since), state.layer === 'true' ? null : make('span', { class: 'score' }, r.score.toFixed(2)));
    });
    if (!items.length) items.push(make('li', { class: 'none' }, 'No relations at this time.'));
    this.facts.replaceChildren(...items);
  }
}

/** A force that parts boxes which lie over each other, along the way that is shorter. */
function apartAsBoxes(nodes) {
  return () => {
    for (let i = 0; i < nodes.length; i += 1) {
      for (let j = i + 1; j < nodes.length; j += 1) {
        const [a, b] = [nodes[i], nodes[j]];
        const x = (a.w + b.w) / 2 + 14 - Math.abs(a.x - b.x);
        const y = (a.h + b.h) / 2 + 18 - Math.abs(a.y - b.y);
        if (x <= 0 || y <= 0) continue;
        if (x < y) {
          const step = (x / 2) * Math.sign(a.x - b.x || 1);
          a.x += step; b.x -= step;
        } else {
          const step = (y / 2) * Math.sign(a.y - b.y || 1);
          a.y += step; b.y -= step;
        }
      }
    }
  };
}

/** A curve from the rim of one box to that of another, and the place of its label. */
function edgePath(a, b, bend) {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const length = Math.hypot(dx, dy) || 1;
  const [mx, my] = [(a.x + b.x) / 2 - (dy / length) * bend, (a.y + b.y) / 2 + (dx / length) * bend];
  const rim = (n, extra) => {
    const [ux, uy] = [mx - n.x, my - n.y];
    const scale = Math.min((n.w / 2 + extra) / Math.abs(ux || 1e-6), (n.h / 2 + extra) / Math.abs(uy || 1e-6), 1);
    return [n.x + ux * scale, n.y + uy * scale];
  };
  const [[x1, y1], [x2, y2]] = [rim(a, 1), rim(b, 3)];
  const middle = (p, q, r) => p / 4 + q / 2 + r / 4;
  return { path: `M${x1.toFixed(1)} ${y1.toFixed(1)}Q${mx.toFixed(1)} ${my.toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}`, x: middle(x1, mx, x2), y: middle(y1, my, y2) };
}
