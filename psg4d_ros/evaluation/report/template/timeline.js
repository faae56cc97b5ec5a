// Relations over time: a row for each triple, what was said above, what is true below.

const FIRST_ROWS = 18;

class Timeline {
  constructor(holder, key) {
    this.holder = holder;
    this.key = key;
    this.all = false;
  }

  /** Draw a recording's rows anew. */
  open() {
    const recording = current();
    this.all = false;
    this.end = recording.frames.length ? Math.max(recording.frames.at(-1).t + recording.step_s, 0.1) : 1;
    const truth = Boolean(recording.truth);
    this.key.replaceChildren(make('span', { class: 'said' }, make('i'), 'said'),
      ...(truth ? [make('span', { class: 'real' }, make('i'), 'true'), make('small', {}, 'the same objects: IoU of their points over time at least 0.5')] : []));
    this.draw();
  }

  draw() {
    const recording = current();
    const rows = recording.timeline.filter((r) => r.true.length || r.predicted.some((span) => span[2] >= state.threshold));
    if (!rows.length) {
      this.holder.replaceChildren(make('p', { class: 'none' }, 'No relations were said.'));
      return;
    }
    const score = (r) => (r.predicted.length ? Math.max(...r.predicted.map((s) => s[2])) : 0) + (r.true.length ? 2 : 0);
    const best = new Set(this.all ? rows : [...rows].sort((a, b) => score(b) - score(a)).slice(0, FIRST_ROWS));
    const part = rows.filter((r) => best.has(r));
    const parts = recording.truth
      ? [['said, and true', part.filter((r) => r.true.length && r.predicted.length)], ['true, not said', part.filter((r) => !r.predicted.length)], ['said, not in the truth', part.filter((r) => !r.true.length)]]
      : [['', part]];
    const lists = parts.filter(([, list]) => list.length).map(([title, list]) => {
      const total = recording.truth ? rows.filter((r) => (title === 'said, and true' ? r.true.length && r.predicted.length : title === 'true, not said' ? !r.predicted.length : !r.true.length)).length : 0;
      return [title ? make('h3', {}, title, make('small', {}, ` ${total}`)) : null, make('ul', { class: 'rows' }, list.map((r) => this.row(r)))];
    });
    const rest = rows.length - part.length;
    this.now = make('div', { class: 'now', 'aria-hidden': 'true' });
    this.holder.replaceChildren(make('div', { class: 'lanes' }, this.axis(), ...lists.flat().filter(Boolean), this.now),
      rest > 0 ? make('button', { type: 'button', class: 'more', onclick: () => { this.all = true; this.draw(); } }, `Show ${rest} more`) : '');
    this.seek();
    this.highlight();
  }

  axis() {
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600].find((s) => this.end / s <= 10) ?? this.end / 8;
    const ticks = [];
    for (let t = 0; t <= this.end + 1e-9; t += step) ticks.push(make('span', { css: { left: `${(100 * t) / this.end}%` } }, `${Number(t.toFixed(1))} s`));
    return make('div', { class: 'axis', 'aria-hidden': 'true' }, make('div', { class: 'track' }, ticks));
  }

  row(r) {
    const recording = current();
    const layer = r.missed ? 'true' : 'predicted';
    const name = (number) => [make('i', { css: { background: rgb(identity(recording, layer, number).color) } }), nameOf(recording, layer, number)];
    const spans = (list) => list.map(([a, b]) => `${seconds(a)} to ${seconds(b)}`).join(', ');
    const told = `${nameOf(recording, layer, r.subject)} ${r.predicate} ${nameOf(recording, layer, r.object)}`
      + (r.predicted.length ? `; said ${spans(r.predicted)}` : '') + (r.true.length ? `; true ${spans(r.true)}` : '');
    const bar = (kind, [a, b, sure]) => make('span', {
      class: kind, title: kind === 'said' ? `said ${seconds(a)} to ${seconds(b)}, score ${sure.toFixed(2)}` : `true ${seconds(a)} to ${seconds(b)}`,
      css: { left: `${(100 * a) / this.end}%`, width: `${(100 * (b - a)) / this.end}%`, '--bar': rgb(identity(recording, layer, r.subject).color), '--sure': kind === 'said' ? 0.4 + 0.6 * sure : 1 },
    });
    const click = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      const t = (this.end * (event.clientX - box.left)) / box.width;
      show({ playing: false, frame: frameAt(recording, t) });
    };
    return make('li', { class: r.missed ? 'missed' : '', 'data-subject': r.subject, 'data-object': r.object, 'data-layer': layer },
      make('button', {
        type: 'button', class: 'triple', 'aria-label': told,
        onclick: () => show({ layer, selected: state.selected === r.subject && state.layer === layer ? -1 : r.subject, frame: frameAt(recording, (r.predicted[0] ?? r.true[0])[0]) }),
      }, make('span', {}, name(r.subject)), make('em', {}, r.predicate), make('span', {}, name(r.object))),
      make('div', { class: 'track', onclick: click }, r.predicted.map((s) => bar('said', s)), r.true.map((s) => bar('real', s))));
  }

  seek() {
    const frame = current().frames[state.frame];
    if (this.now && frame) this.now.style.setProperty('--now', frame.t / this.end);
  }

  highlight() {
    const focused = focus();
    for (const item of this.holder.querySelectorAll('li')) {
      const mine = item.dataset.layer === state.layer && (Number(item.dataset.subject) === focused || Number(item.dataset.object) === focused);
      item.classList.toggle('faint', focused >= 0 && !mine);
    }
  }
}

/** The last frame that is not later than a time. */
function frameAt(recording, t) {
  let found = 0;
  recording.frames.forEach((f, i) => { if (f.t <= t + 1e-6) found = i; });
  return found;
}
