// Metrics and latency: tables with small bars, and one stacked column per graph.

const PROTOCOL_NAMES = { tube: 'Tube', frame_hit: 'Frame hit' };
const STAGE_COLORS = 9;

/** Recall tables of a recording with ground truth. */
function drawMetrics(holder, metrics) {
  const ks = Object.keys(metrics.protocol.tube.predicate.R);
  const cell = (value, ceiling) => make('td', { css: { '--value': value ?? 0, '--ceiling': ceiling ?? 1 } }, make('span', {}, percent(value)));
  const rows = Object.entries(metrics.protocol).flatMap(([protocol, kinds]) => Object.entries(kinds).filter(([, entry]) => entry.R).map(([kind, entry]) => make('tr', {},
    make('th', { scope: 'row' }, `${PROTOCOL_NAMES[protocol] ?? protocol}, ${kind}`),
    ks.map((k) => cell(entry.R[k], entry.ceiling?.R?.[k])), ks.map((k) => cell(entry.mR[k], entry.ceiling?.mR?.[k])))));
  const head = make('tr', {}, make('th', { scope: 'col' }, 'Recall in percent'), ks.map((k) => make('th', { scope: 'col' }, `R@${k}`)), ks.map((k) => make('th', { scope: 'col' }, `mR@${k}`)));
  const p = metrics.panoptic;
  const tiles = p ? [['PQ', percent(p.PQ)], ['PQ things', percent(p.PQ_things)], ['PQ stuff', percent(p.PQ_stuff)], ['LSTQ', percent(p.LSTQ)], ['Tube IoU', percent(p.tube_IoU)], ['Id switches', p.id_switches]] : [];
  holder.replaceChildren(
    make('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Recall' }, make('table', { class: 'bars' }, make('thead', {}, head), make('tbody', {}, rows))),
    tiles.length ? make('dl', { class: 'figures small' }, tiles.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value ?? '–')))) : '',
    make('p', { class: 'aside' }, 'The mark in a cell is the ceiling: what the truth itself reaches with so many answers. One recording says little; ',
      make('code', {}, 'psg4d eval'), ' judges many.'));
}

/** Percentiles per stage, and the stages of each graph. */
function drawLatency(holder, key, recording) {
  const { stages, stage_ms: windows } = recording;
  const percentiles = recording.result.latency_ms ?? {};
  const color = (i) => `var(--stage-${i % STAGE_COLORS})`;
  key.replaceChildren(...stages.map((s, i) => make('span', {}, make('i', { css: { background: color(i) } }), s)));
  const totals = windows.map((w) => w.reduce((a, b) => a + b, 0));
  const top = Math.max(...totals, 1e-6);
  const columns = windows.map((w, i) => make('button', {
    type: 'button', class: 'column', 'aria-label': `Graph ${i + 1}: ${totals[i].toFixed(0)} ms`, title: stages.map((s, j) => `${s} ${w[j].toFixed(1)} ms`).join('\n'),
    'data-frame': i, tabindex: -1, onclick: () => show({ playing: false, frame: i }),
  }, w.map((ms, j) => make('i', { css: { height: `${(100 * ms) / top}%`, background: color(j) } }))));
  const widest = Math.max(...Object.values(percentiles).map((p) => p.p99), 1e-6);
  const rows = Object.entries(percentiles).map(([stage, p]) => make('tr', { class: stage === 'total' ? 'total' : '' }, make('th', { scope: 'row' }, stage),
    ['p50', 'p95', 'p99'].map((q) => make('td', {}, p[q].toFixed(1))),
    make('td', { class: 'range', 'aria-hidden': 'true' }, make('i', { css: { width: `${(100 * p.p50) / widest}%` } }), make('b', { css: { left: `${(100 * p.p50) / widest}%`, width: `${(100 * (p.p99 - p.p50)) / widest}%` } }))));
  holder.replaceChildren(make('div', { class: 'split' },
    make('div', { class: 'columns', css: { '--count': columns.length } }, make('span', { class: 'top' }, `${top.toFixed(0)} ms`), make('div', { class: 'bed', role: 'group', 'aria-label': 'Time of each graph by stage' }, columns)),
    make('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Percentiles per stage' }, make('table', {}, make('thead', {}, make('tr', {}, ['stage', 'p50 ms', 'p95 ms', 'p99 ms', ''].map((t) => make('th', { scope: 'col' }, t)))), make('tbody', {}, rows)))));
}
