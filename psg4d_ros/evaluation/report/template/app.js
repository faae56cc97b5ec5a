// Puts the parts together: tabs, time, pointer and keys.

let view = null;
const dark = matchMedia('(prefers-color-scheme: dark)');
const graph = new GraphDrawing(byId('graph'), byId('facts'));
const timeline = new Timeline(byId('timeline'), byId('timeline-key'));
try {
  view = new View3D(byId('view'), byId('labels'));
} catch (error) {
  byId('view').append(make('p', { class: 'none' }, 'This browser shows no 3D (WebGL 2 is not there). Everything else works.'));
}

/** Colours of the page that the 3D view needs, as numbers. */
function pageColors() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
  return { paper: read('--paper-rgb'), unassigned: read('--unassigned-rgb') };
}

/** Choices of one thing as radio buttons. */
function segmented(id, name, choices) {
  byId(id).hidden = choices.length < 2;
  byId(id).replaceChildren(...choices.map(([value, text]) => make('label', {},
    make('input', { type: 'radio', name: id, value, checked: state[name] === value, onchange: () => show({ [name]: value, ...(name === 'layer' ? { selected: -1, hovered: -1 } : {}) }) }),
    make('span', {}, text))));
}

function openRecording() {
  const recording = current();
  const last = Math.max(recording.frames.length - 1, 0);
  Object.assign(state, { frame: Math.min(state.frame, last), layer: 'predicted', coloring: 'track', selected: -1, hovered: -1, playing: false });
  byId('time').max = last;
  for (const id of ['play', 'previous', 'next', 'time']) byId(id).disabled = last === 0;
  segmented('layers', 'layer', recording.truth ? [['predicted', 'Prediction'], ['true', 'Ground truth']] : [['predicted', 'Prediction']]);
  segmented('coloring', 'coloring', recording.colored ? [['track', 'Objects'], ['sensor', 'Camera']] : [['track', 'Objects']]);
  byId('subtitle').textContent = [recording.note, `${recording.result.bag} · ${recording.result.model.id}`].filter(Boolean).join(' ');
  const notice = noticeOf(recording);
  byId('notice').hidden = !notice;
  byId('notice').textContent = notice;
  byId('strip').replaceChildren(...recording.frames.map((f) => make('i', { class: f.status === 'OK' ? 'ok' : 'other' })));
  byId('metrics-card').hidden = !recording.result.metrics;
  if (recording.result.metrics) drawMetrics(byId('metrics'), recording.result.metrics);
  byId('latency-card').hidden = !recording.stages.length;
  if (recording.stages.length) drawLatency(byId('latency'), byId('latency-key'), recording);
  drawFigures(byId('figures'), recording);
  drawDetails(byId('details'), recording);
  timeline.open();
  document.querySelectorAll('[role=tab]').forEach((tab, i) => {
    tab.setAttribute('aria-selected', i === state.recording);
    tab.tabIndex = i === state.recording ? 0 : -1;
    if (i === state.recording) byId('panel').setAttribute('aria-labelledby', tab.id);
  });
  if (view) view.open(state.recording);
  redraw(new Set(['frame', 'layer', 'coloring', 'selected', 'playing']));
}

/** Draw what depends on the names that changed. */
function redraw(changed) {
  if (has(changed, 'recording')) {
    openRecording();
    return;
  }
  const recording = current();
  const frame = recording.frames[state.frame];
  if (has(changed, 'frame', 'playing')) drawTime(recording, frame);
  for (const id of ['layers', 'coloring']) {
    for (const input of byId(id).querySelectorAll('input')) input.checked = input.value === state[id === 'layers' ? 'layer' : id];
  }
  if (has(changed, 'frame', 'layer', 'threshold')) {
    graph.update();
    drawObjects(byId('objects'));
  }
  if (has(changed, 'threshold')) timeline.draw();
  if (view) {
    if (has(changed, 'frame')) view.clouds.set(state.recording, state.frame);
    if (has(changed, 'frame', 'layer', 'coloring', 'selected', 'hovered', 'threshold')) view.paint(pageColors());
    view.update();
  }
  if (has(changed, 'selected', 'hovered', 'frame', 'layer')) {
    graph.highlight();
    timeline.highlight();
    markRows(byId('objects'));
    drawSelection();
  }
}

function drawTime(recording, frame) {
  const time = byId('time');
  time.value = state.frame;
  const text = frame ? `${seconds(frame.t)} of ${seconds(recording.frames.at(-1).t)}` : '–';
  time.setAttribute('aria-valuetext', text);
  byId('clock').textContent = text.replace(' of ', ' / ');
  time.style.setProperty('--part', recording.frames.length > 1 ? state.frame / (recording.frames.length - 1) : 0);
  byId('play').setAttribute('aria-label', state.playing ? 'Pause' : 'Play');
  byId('play').setAttribute('aria-pressed', state.playing);
  byId('status').replaceChildren(...(frame ? [
    make('b', { class: frame.status === 'OK' ? 'ok' : 'other' }, frame.status), frame.status_text ? ` ${frame.status_text}` : '',
    make('span', {}, `graph ${state.frame + 1} of ${recording.frames.length}, window of ${frame.window}, ${grouped(frame.points)} points`)] : []));
  for (const column of byId('latency').querySelectorAll('.column')) column.classList.toggle('on', Number(column.dataset.frame) === state.frame);
  timeline.seek();
}

/** A few words on the object that is selected. */
function drawSelection() {
  const focused = focus();
  const holder = byId('selection');
  const o = scene().objects.find((one) => one.object === focused);
  if (focused < 0) {
    holder.replaceChildren(make('span', { class: 'aside' }, 'Point at an object or choose it to see its points and its relations.'));
    return;
  }
  const name = o ? o.name : nameOf(current(), state.layer, focused);
  holder.replaceChildren(make('i', { css: { background: rgb(identity(current(), state.layer, focused).color) } }), make('b', {}, name),
    make('span', {}, o ? [o.attributes.slice(0, 4).join(', '), state.layer === 'true' ? '' : `score ${o.score.toFixed(2)}`, `${o.size.map((v) => v.toFixed(2)).join(' × ')} m`].filter(Boolean).join(' · ') : 'not there at this time'),
    state.selected >= 0 ? make('button', { type: 'button', 'aria-label': 'Deselect', onclick: () => show({ selected: -1 }) }, '×') : null);
}

function step(by) {
  const { length } = current().frames;
  if (length) show({ playing: false, frame: (state.frame + by + length) % length });
}

let clock = 0;
let before = 0;
function tick(now) {
  if (!state.playing) return;
  const recording = current();
  clock += (Math.min(now - before, 250) / 1000) * state.speed;
  before = now;
  const end = recording.frames.at(-1).t + Math.max(recording.step_s, 0.5);
  if (clock > end) clock = 0;
  show({ frame: frameAt(recording, clock) });
  requestAnimationFrame(tick);
}
function play(on) {
  show({ playing: on && current().frames.length > 1 });
  if (!state.playing) return;
  clock = current().frames[state.frame].t;
  before = performance.now();
  requestAnimationFrame(tick);
}

byId('tabs').hidden = recordings.length < 2;
byId('tabs').append(...recordings.map((recording, i) => make('button', {
  type: 'button', role: 'tab', id: `tab-${i}`, 'aria-controls': 'panel', onclick: () => { state.frame = 0; show({ recording: i }); },
  onkeydown: (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    state.frame = 0;
    show({ recording: (i + by + recordings.length) % recordings.length });
    byId(`tab-${state.recording}`).focus();
  },
}, recording.title)));
byId('play').onclick = () => play(!state.playing);
byId('previous').onclick = () => step(-1);
byId('next').onclick = () => step(1);
byId('time').oninput = (event) => show({ playing: false, frame: Number(event.target.value) });
byId('speed').onchange = (event) => show({ speed: Number(event.target.value) });
byId('threshold').oninput = (event) => {
  byId('threshold-value').textContent = (event.target.value / 100).toFixed(2);
  show({ threshold: event.target.value / 100 });
};
byId('threshold-value').textContent = '0.00';
for (const name of ['boxes', 'labels', 'links']) byId(`show-${name}`).onchange = (event) => show({ [name]: event.target.checked });

if (view) {
  const holder = byId('view');
  byId('zoom-in').onclick = () => view.zoom(0.8);
  byId('zoom-out').onclick = () => view.zoom(1.25);
  byId('from-top').onclick = () => view.fromTop();
  byId('reset-view').onclick = () => view.reset();
  let down = null;
  const place = (event) => {
    const box = holder.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  holder.addEventListener('pointerdown', (event) => { down = place(event); });
  holder.addEventListener('pointerup', (event) => {
    const [x, y] = place(event);
    if (down && Math.hypot(x - down[0], y - down[1]) < 5) {
      const found = view.pick(x, y);
      show({ selected: found === state.selected ? -1 : found, hovered: -1 });
    }
    down = null;
  });
  let asked = false;
  holder.addEventListener('pointermove', (event) => {
    if (event.pointerType !== 'mouse' || event.buttons || asked || state.playing) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      const found = view.pick(...place(event));
      holder.style.cursor = found >= 0 ? 'pointer' : 'grab';
      show({ hovered: found });
    });
  });
  holder.addEventListener('pointerleave', () => show({ hovered: -1 }));
  holder.addEventListener('keydown', (event) => {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [0, 0];
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (x || y) event.shiftKey ? view.move(x, y) : view.turn(-0.12 * x, 0.12 * y);
    else if (event.key === '+' || event.key === '=') view.zoom(0.85);
    else if (event.key === '-') view.zoom(1.18);
    else if (event.key === '0' || event.key === 'Home') view.reset();
    else return;
    event.preventDefault();
  });
}
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest('input, select, button, summary, [role=button]');
  if (event.key === 'Escape') show({ selected: -1, hovered: -1 });
  else if (event.key === ' ' && !typing) play(!state.playing);
  else if (event.key === '.') step(1);
  else if (event.key === ',') step(-1);
  else return;
  event.preventDefault();
});
dark.addEventListener('change', () => view && view.paint(pageColors()));
watchers.push(redraw);
byId('colophon').replaceChildren(make('p', {}, `psg4d_ros ${source.version}. This file holds everything it shows and loads nothing from anywhere.`),
  make('p', {}, make('kbd', {}, 'Space'), ' plays, ', make('kbd', {}, ','), ' and ', make('kbd', {}, '.'), ' step, ', make('kbd', {}, 'Esc'), ' deselects. Drag turns, right drag or two fingers move, wheel or pinch zooms.'));
openRecording();
window.report = { state, show, shown: () => ({ emphasis: view ? [...view.clouds.emphasis] : null, points: view?.clouds.cloud?.n ?? 0 }) };
document.documentElement.dataset.ready = 'true';
