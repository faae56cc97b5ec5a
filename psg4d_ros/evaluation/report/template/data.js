// The values of the page, decoded, and what is shown of them now.

const source = JSON.parse(document.getElementById('data').textContent);
const recordings = source.recordings;

/** Colours for reading: as apart as the tracks' own, but calmer, and surfaces calmer than things. */
function soften(color, thing) {
  const [high, low] = [Math.max(...color), Math.min(...color)];
  const grey = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2];
  const keep = thing ? 0.78 : 0.3;
  const aim = thing ? 132 : 158; // of the brightness
  const shift = (aim - grey) * (high - low > 30 ? 0.45 : 0);
  return color.map((v) => Math.round(Math.min(Math.max(grey + (v - grey) * keep + shift, 12), 242)));
}
for (const recording of recordings) {
  for (const o of [...recording.tracks, ...(recording.truth?.objects ?? [])]) o.color = soften(o.color, o.thing);
}

/** What is shown. frame: position in the recording's frames. selected, hovered: number of an object, -1 for none. */
const state = {
  recording: 0, frame: 0, layer: 'predicted', coloring: 'track', selected: -1, hovered: -1, threshold: 0,
  playing: false, speed: 1, boxes: true, labels: true, links: true,
};
const watchers = [];

/** Change what is shown; every watcher hears once which names changed. */
function show(changes) {
  const changed = new Set(Object.keys(changes).filter((name) => state[name] !== changes[name]));
  if (!changed.size) return;
  Object.assign(state, changes);
  for (const watch of watchers) watch(changed);
}

const current = () => recordings[state.recording];
const focus = () => (state.hovered >= 0 ? state.hovered : state.selected);
const has = (changed, ...names) => names.some((name) => changed.has(name));

/** An element with attributes, listeners (on...) and children; text is always text, never markup. */
function make(name, attributes = {}, ...children) {
  const drawn = ['svg', 'g', 'path', 'rect', 'circle', 'text', 'line', 'title', 'marker', 'defs', 'tspan'].includes(name);
  const element = drawn ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'css') for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
/** Width of a text in pixels. */
const ruler = document.createElement('canvas').getContext('2d');
function widthOf(text, size, weight = 550) {
  ruler.font = `${weight} ${size}px ${getComputedStyle(document.documentElement).fontFamily}`;
  return ruler.measureText(text).width;
}
const byId = (id) => document.getElementById(id);
const rgb = (color) => `rgb(${color.join(' ')})`;
const seconds = (t) => `${t.toFixed(t < 100 ? 2 : 1)} s`;
const grouped = (n) => Math.round(n).toLocaleString('en-US').replaceAll(',', '\u2009');
const percent = (v) => (v === null || v === undefined ? '–' : (100 * v).toFixed(1));

/** Everything known of an object whatever the time: {id, label, thing, color}. */
function identity(recording, layer, number) {
  const known = layer === 'true' ? recording.truth.objects[number] : recording.tracks[number];
  return known ?? { id: number, label: '?', thing: true, color: [128, 128, 128] };
}
const nameOf = (recording, layer, number, label) => {
  const known = identity(recording, layer, number);
  return `${label || known.label} ${known.id}`;
};

/** Objects and relations of a frame in a layer, in one form for both layers; relations below the threshold are left out. */
function sceneAt(recording, index, layer, threshold = 0) {
  const frame = recording.frames[index];
  if (!frame) return { objects: [], relations: [] };
  if (layer === 'true') {
    return {
      objects: frame.true_objects.map((o) => ({
        rotation: [0, 0, 0, 1], score: 1, alternatives: [], ...identity(recording, layer, o.object), ...o,
        name: nameOf(recording, layer, o.object),
      })),
      relations: frame.true_relations.map(([subject, predicate, object]) => ({ subject, predicate, object, score: 1 })),
    };
  }
  return {
    objects: frame.objects.map((o) => ({
      ...identity(recording, layer, o.object), ...o, name: nameOf(recording, layer, o.object, o.label),
    })),
    relations: frame.relations.filter((r) => r.score >= threshold),
  };
}
const scene = () => sceneAt(current(), state.frame, state.layer, state.threshold);

/** The clouds of a recording as typed arrays, decoded when they are first asked for. */
const decoded = new Map();
function cloudAt(index, frame) {
  const recording = recordings[index];
  if (!decoded.has(index)) {
    const text = atob(byId(`clouds-${index}`).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    const clouds = [];
    let at = 0;
    for (const { n, low, step } of recording.clouds) {
      const take = (Type, count) => {
        const array = new Type(bytes.buffer, at, count);
        at += array.byteLength;
        return array;
      };
      const cloud = { n, low, step, position: take(Uint16Array, 3 * n), predicted: take(Uint16Array, n) };
      cloud.true = recording.truth ? take(Uint16Array, n) : null;
      cloud.color = recording.colored ? take(Uint8Array, 3 * n) : null;
      at += (4 - (at % 4)) % 4;
      clouds.push(cloud);
    }
    decoded.set(index, clouds);
  }
  return decoded.get(index)[frame];
}
