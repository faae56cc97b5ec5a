// What stands around the scene: key figures, the table of objects, settings and hashes.

function drawFigures(holder, recording) {
  const { result } = recording;
  const said = recording.timeline.filter((r) => r.predicted.length).length;
  const total = result.latency_ms?.total;
  const heard = result.latency_ms?.end_to_end;
  const tiles = [
    ['Clouds', grouped(result.frames_in), [result.frames_dropped ? `${result.frames_dropped} dropped` : '', result.frames_skipped ? `${result.frames_skipped} skipped` : ''].filter(Boolean).join(', ')],
    ['Graphs', grouped(recording.graphs), recording.frames.length < recording.graphs ? `${recording.frames.length} shown` : ''],
    ['Objects', grouped(recording.tracks.length), `${new Set(recording.tracks.map((t) => t.label)).size} labels`],
    ['Relations', grouped(said), `${new Set(recording.timeline.filter((r) => r.predicted.length).map((r) => r.predicate)).size} predicates`],
    total ? ['Per graph', `${grouped(total.p50)} ms`, `p95 ${grouped(total.p95)} ms`] : null,
    heard ? ['At the subscriber', `${grouped(heard.p50)} ms`, `p95 ${grouped(heard.p95)} ms, ${result.live.graphs_lost + result.live.clouds_lost} lost on the way`] : null,
    result.metrics ? ['Recall R@50', percent(result.metrics.protocol.tube.predicate.R['50']), 'percent; tube, predicate'] : null,
  ].filter(Boolean);
  holder.replaceChildren(...tiles.map(([name, value, note]) => make('div', {}, make('dt', {}, name), make('dd', {}, value), note ? make('dd', { class: 'note' }, note) : null)));
}

/** One sentence on what must be known before anything is believed. */
function noticeOf(recording) {
  const { result } = recording;
  const reasons = Object.entries(result.errors ?? {}).map(([reason, count]) => `${count} dropped: ${reason}`);
  if (!recording.frames.length) return `No graphs came of this recording. ${reasons.join('; ')}`;
  const parts = [];
  if (!result.model.trained) parts.push('These weights are untrained: labels, masks and relations mean nothing yet.');
  if (result.ground_truth_error) parts.push(`Not compared with ground truth: ${result.ground_truth_error}`);
  return [...parts, ...reasons].join(' ');
}

function drawObjects(holder) {
  const { objects } = scene();
  if (!objects.length) {
    holder.replaceChildren(make('p', { class: 'none' }, 'No objects at this time.'));
    return;
  }
  const truth = state.layer === 'true';
  const columns = ['object', ...(truth ? [] : ['score', 'or else']), 'attributes', 'position x, y, z in m', 'size in m', 'points'];
  const numbers = (values) => values.map((v) => v.toFixed(2)).join('  ');
  const rows = [...objects].sort((a, b) => b.points - a.points).map((o) => make('tr', { 'data-object': o.object },
    make('th', { scope: 'row' }, make('button', { type: 'button', class: 'who', onclick: () => show({ selected: state.selected === o.object ? -1 : o.object }) }, make('i', { css: { background: rgb(o.color) } }), o.name)),
    truth ? null : make('td', { class: 'number' }, o.score.toFixed(2)),
    truth ? null : make('td', { class: 'dim' }, o.alternatives.filter(([label]) => label !== o.label).slice(0, 2).map(([label, score]) => `${label} ${score.toFixed(2)}`).join(', ')),
    make('td', {}, o.attributes.join(', ')), make('td', { class: 'number' }, numbers(o.position)), make('td', { class: 'number' }, numbers(o.size)), make('td', { class: 'number' }, grouped(o.points))));
  holder.replaceChildren(make('table', { class: 'objects' }, make('thead', {}, make('tr', {}, columns.map((c) => make('th', { scope: 'col' }, c)))), make('tbody', {}, rows)));
  markRows(holder);
}

function markRows(holder) {
  const focused = focus();
  for (const row of holder.querySelectorAll('tr[data-object]')) row.classList.toggle('focused', Number(row.dataset.object) === focused);
}

/** Nested values as rows "a.b.c: value". */
function flat(values, path = '') {
  if (values === null || typeof values !== 'object' || Array.isArray(values)) return [[path, values === null ? '–' : Array.isArray(values) ? values.join(', ') : String(values)]];
  return Object.entries(values).flatMap(([key, value]) => flat(value, path ? `${path}.${key}` : key));
}

function drawDetails(holder, recording) {
  const { result } = recording;
  const table = (rows) => make('dl', { class: 'pairs' }, rows.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))));
  const part = (title, rows, open = false) => (rows.length ? make('details', { open }, make('summary', {}, title), table(rows)) : '');
  const { memory_mb: memory, total_ms: _, ...runtime } = result.runtime ?? {};
  holder.replaceChildren(
    part('Model and recording', [
      ['recording', result.bag], ['topic', result.topic], ['coordinates', recording.frame_id || '–'], ['first cloud', recording.start_ns === '0' ? '–' : `${recording.start_ns} ns`],
      ['model', result.model.id], ['manifest sha256', result.model.sha256], ['weights', result.model.trained ? 'trained' : 'untrained'], ['numbers', result.model.dtype], ['psg4d_ros', source.version],
    ], true),
    part('Machine', flat(runtime)),
    part('Memory in MB', memory ? flat(memory) : []),
    part('Steadiness', result.stability ? flat(result.stability) : []),
    part('Through a node (live)', flat(result.live ?? {})),
    part('Counts', flat(result.counts ?? {}).concat(flat(result.errors ?? {}))),
    part('Settings', flat(result.config)));
}
