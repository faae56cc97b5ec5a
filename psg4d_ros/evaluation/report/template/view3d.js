// The 3D view: clouds with depth-shaded edges, boxes, arcs of relations, and labels as text above them.

const Y = new vendor.Vector3(0, 1, 0);
const EDGES = [0, 1, 1, 3, 3, 2, 2, 0, 4, 5, 5, 7, 7, 6, 6, 4, 0, 4, 1, 5, 2, 6, 3, 7];
const ARC = 14;

class View3D {
  constructor(holder, overlay) {
    this.holder = holder;
    this.overlay = overlay;
    this.renderer = new vendor.WebGLRenderer({ antialias: true, alpha: true, powerPreference: 'high-performance' });
    this.renderer.outputColorSpace = 'srgb-linear'; // colours are sRGB throughout, none is converted
    this.renderer.autoClear = false;
    holder.append(this.renderer.domElement);
    this.camera = new vendor.PerspectiveCamera(50, 1, 0.05, 500);
    this.controls = new vendor.OrbitControls(this.camera, holder);
    this.controls.enableDamping = true;
    this.controls.dampingFactor = 0.12;
    this.controls.zoomToCursor = true;
    this.controls.addEventListener('change', () => this.ask());
    this.clouds = new Clouds();
    this.ground = new vendor.Group(); // turns the recording's up to y
    this.cloudScene = new vendor.Scene();
    this.lineScene = new vendor.Scene();
    this.lineGround = new vendor.Group();
    this.ground.add(this.clouds.points);
    this.cloudScene.add(this.ground);
    this.lineScene.add(this.lineGround);
    this.lines = new vendor.LineMaterial({ vertexColors: true, linewidth: 2 });
    this.arcs = new vendor.LineMaterial({ vertexColors: true, linewidth: 2, transparent: true, opacity: 0.9, depthTest: false });
    this.target = new vendor.WebGLRenderTarget(4, 4, { depthTexture: new vendor.DepthTexture(4, 4, vendor.UnsignedIntType) });
    this.shading = edgeShading(this.target);
    this.marks = [];
    this.asked = false;
    this.homes = new Map();
    new ResizeObserver(() => this.resize()).observe(holder);
    this.resize();
  }

  /** Draw soon. */
  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      if (this.controls.update()) this.ask();
      this.draw();
    });
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.holder;
    if (!width || !height) return;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.renderer.setPixelRatio(ratio);
    this.renderer.setSize(width, height);
    this.target.setSize(Math.round(width * ratio), Math.round(height * ratio));
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.shading.uniforms.pixel.value.set(1 / (width * ratio), 1 / (height * ratio)).multiplyScalar(Math.max(1, ratio));
    this.clouds.material.uniforms.pixels.value = (height * ratio) / (2 * Math.tan((this.camera.fov * Math.PI) / 360));
    this.clouds.material.uniforms.ratio.value = ratio;
    this.ask();
  }

  draw() {
    const { renderer, shading } = this;
    if (!this.holder.clientWidth) return;
    renderer.setRenderTarget(this.target);
    renderer.setClearColor(0x000000, 0);
    renderer.clear();
    renderer.render(this.cloudScene, this.camera);
    renderer.setRenderTarget(null);
    renderer.clear();
    shading.uniforms.near.value = this.camera.near;
    shading.uniforms.far.value = this.camera.far;
    renderer.render(shading.scene, shading.camera);
    renderer.render(this.lineScene, this.camera);
    this.placeLabels();
  }

  /** Where a place of the recording appears: [x, y] in pixels of the view, depth, and whether it is before the eye. */
  project(place) {
    const v = new vendor.Vector3(...place).applyQuaternion(this.ground.quaternion).project(this.camera);
    const { clientWidth: w, clientHeight: h } = this.holder;
    return { x: ((v.x + 1) * w) / 2, y: ((1 - v.y) * h) / 2, depth: v.z, seen: v.z < 1 && Math.abs(v.x) < 1.05 && Math.abs(v.y) < 1.05 };
  }

  /** The object under a place of the view, -1 for none. */
  pick(x, y) {
    const { clientWidth: w, clientHeight: h } = this.holder;
    this.camera.updateMatrixWorld();
    const matrix = new vendor.Matrix4().makeRotationFromQuaternion(this.ground.quaternion)
      .premultiply(this.camera.matrixWorldInverse).premultiply(this.camera.projectionMatrix);
    return this.clouds.pick(matrix, (2 * x) / w - 1, 1 - (2 * y) / h, w, h);
  }

  /** Take on a recording: its up, and a view from a little beside where its sensor was. */
  open(index) {
    const recording = recordings[index];
    this.ground.quaternion.setFromUnitVectors(new vendor.Vector3(...recording.up).normalize(), Y);
    this.lineGround.quaternion.copy(this.ground.quaternion);
    if (!this.homes.has(index)) this.homes.set(index, homeOf(index, this.ground.quaternion));
    const home = this.homes.get(index);
    this.camera.near = home.radius / 100;
    this.camera.far = home.radius * 40;
    this.camera.updateProjectionMatrix();
    this.clouds.material.uniforms.size.value = home.spacing;
    this.reset();
  }

  reset() {
    const home = this.homes.get(state.recording);
    if (home) this.fit(home, home.way);
  }

  /** Look along a way so that the whole cloud is just seen. */
  fit({ target, radius, sample }, way) {
    const { camera } = this;
    const [tall, wide] = [Math.tan((camera.fov * Math.PI) / 360), camera.aspect * Math.tan((camera.fov * Math.PI) / 360)];
    const center = target.clone();
    let far = 2 * radius;
    const place = () => {
      camera.position.copy(center).addScaledVector(way, far);
      camera.lookAt(center);
      camera.updateMatrixWorld();
    };
    const v = new vendor.Vector3();
    for (let round = 0; round < 8 && sample.length; round += 1) {
      place();
      const seen = [[], []];
      for (const p of sample) {
        v.copy(p).applyMatrix4(camera.matrixWorldInverse);
        const ahead = Math.max(-v.z, 0.15 * far);
        seen[0].push(v.x / ahead / wide);
        seen[1].push(v.y / ahead / tall);
      }
      const ends = seen.map((list) => { list.sort((a, b) => a - b); return [list[Math.floor(0.015 * list.length)], list[Math.ceil(0.985 * list.length) - 1]]; });
      const middle = ends.map(([low, high]) => (low + high) / 2);
      center.add(v.set(middle[0] * wide * far, middle[1] * tall * far, 0).applyQuaternion(camera.quaternion).multiplyScalar(0.8));
      far *= Math.max(...ends.map(([low, high]) => (high - low) / 1.66)) ** 0.8;
    }
    place();
    this.controls.target.copy(center);
    this.controls.update();
    this.ask();
  }

  fromTop() {
    const home = this.homes.get(state.recording);
    if (home) this.fit(home, home.way.clone().setY(0).setLength(0.03).setY(1).normalize());
  }

  turn(left, up) {
    const offset = new vendor.Vector3().subVectors(this.camera.position, this.controls.target);
    const right = new vendor.Vector3().crossVectors(Y, offset).normalize();
    const steep = offset.angleTo(Y) - up;
    offset.applyQuaternion(new vendor.Quaternion().setFromAxisAngle(Y, left));
    if (steep > 0.05 && steep < Math.PI - 0.05) offset.applyQuaternion(new vendor.Quaternion().setFromAxisAngle(right, -up));
    this.camera.position.copy(this.controls.target).add(offset);
    this.controls.update();
    this.ask();
  }

  zoom(factor) {
    this.camera.position.sub(this.controls.target).multiplyScalar(factor).add(this.controls.target);
    this.controls.update();
    this.ask();
  }

  move(x, y) {
    const scale = this.camera.position.distanceTo(this.controls.target) * 0.06;
    const step = new vendor.Vector3(x * scale, y * scale, 0).applyQuaternion(this.camera.quaternion);
    this.camera.position.add(step);
    this.controls.target.add(step);
    this.controls.update();
    this.ask();
  }

  /** Boxes, arcs and labels of what is there now. */
  update() {
    const { objects, relations } = scene();
    const focused = focus();
    const byNumber = new Map(objects.map((o) => [o.object, o]));
    const shown = objects.filter((o) => (o.thing || o.object === focused) && o.size.some((v) => v > 0));
    const boxes = [];
    const boxColors = [];
    for (const o of state.boxes ? shown : []) {
      const faint = focused >= 0 && o.object !== focused && !this.related.has(o.object);
      const color = o.color.map((v, i) => (faint ? (v + 4 * this.paper[i]) / 5 : v) / 255);
      const corners = cornersOf(o);
      for (const e of EDGES) {
        boxes.push(...corners[e]);
        boxColors.push(...color);
      }
    }
    this.marks = state.labels
      ? shown.map((o) => ({ at: topOf(o, current().up), text: o.name, color: o.color, object: o.object, worth: (o.object === focused ? 9 : 0) + (this.related.has(o.object) ? 4 : 0) + o.score + Math.min(o.points, 3000) / 3000 }))
      : [];
    const arcs = [];
    const arcColors = [];
    const links = focused >= 0 ? relations.filter((r) => r.subject === focused || r.object === focused) : relations;
    if (state.links && links.length <= 40) {
      for (const [pair, group] of groups(links)) {
        const [from, to] = pair.split('/').map((n) => byNumber.get(Number(n)));
        if (!from || !to || (focused < 0 && !(from.thing && to.thing))) continue;
        const path = arcOf(from.position, to.position, current().up);
        for (let i = 0; i < ARC; i += 1) {
          arcs.push(...path[i], ...path[i + 1]);
          const shade = (t) => from.color.map((v, c) => (v * (1 - t) + to.color[c] * t) / 255);
          arcColors.push(...shade(i / ARC), ...shade((i + 1) / ARC));
        }
        if (focused >= 0 || links.length <= 8) {
          this.marks.push({ at: path[ARC / 2], text: group.map((r) => r.predicate).slice(0, 2).join(' · '), link: true, worth: focused >= 0 ? 3 : 0.2 });
        }
      }
    }
    this.lineGround.clear();
    this.addLines(boxes, boxColors, this.lines);
    this.addLines(arcs, arcColors, this.arcs);
    this.ask();
  }

  addLines(positions, colors, material) {
    if (!positions.length) return;
    const geometry = new vendor.LineSegmentsGeometry();
    geometry.setPositions(positions);
    geometry.setColors(colors);
    const lines = new vendor.LineSegments2(geometry, material);
    lines.frustumCulled = false;
    lines.addEventListener('removed', () => geometry.dispose());
    this.lineGround.add(lines);
  }

  /** Colours of the points and of what lies behind them. */
  paint(style) {
    const focused = focus();
    this.related = new Set(scene().relations.filter((r) => r.subject === focused || r.object === focused).flatMap((r) => [r.subject, r.object]));
    this.paper = style.paper;
    const objects = state.layer === 'true' ? current().truth.objects : current().tracks;
    this.clouds.paint(objects, focused, this.related, style.unassigned, style.paper);
    this.clouds.material.uniforms.sensor.value = state.coloring === 'sensor' && current().colored ? 1 : 0;
    this.clouds.material.uniforms.truth.value = state.layer === 'true' ? 1 : 0;
    this.ask();
  }

  /** Labels that would lie over each other give way to the one that is worth more. */
  placeLabels() {
    const taken = [];
    const marks = this.marks.map((m) => ({ ...m, ...this.project(m.at) })).filter((m) => m.seen).sort((a, b) => b.worth - a.worth);
    const focused = focus();
    const nodes = [];
    for (const m of marks) {
      const w = widthOf(m.text, 12) + (m.link ? 6 : 32);
      const x = Math.min(Math.max(m.x, w / 2 + 4), this.holder.clientWidth - w / 2 - 4);
      const y = Math.max(m.y, 28);
      const box = { l: x - w / 2, r: x + w / 2, t: y - 24, b: y };
      if (taken.some((o) => box.l < o.r && o.l < box.r && box.t < o.b && o.t < box.b)) continue;
      taken.push(box);
      const name = `mark${m.link ? ' link' : ''}${focused >= 0 && !m.link && m.object !== focused && !this.related.has(m.object) ? ' faint' : ''}${m.object === focused ? ' focused' : ''}`;
      nodes.push(make('span', { class: name, css: { transform: `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translate(-50%, -100%)` } },
        m.link ? null : make('i', { css: { background: rgb(m.color) } }), m.text));
    }
    this.overlay.replaceChildren(...nodes);
  }
}

/** Relations by pair: "subject/object" -> relations. */
function groups(links) {
  const out = new Map();
  for (const r of links) out.set(`${r.subject}/${r.object}`, [...(out.get(`${r.subject}/${r.object}`) ?? []), r]);
  return out;
}

function cornersOf(o) {
  const turn = new vendor.Quaternion(...o.rotation);
  const out = [];
  for (let i = 0; i < 8; i += 1) {
    const v = new vendor.Vector3(((i & 1) - 0.5) * o.size[0], (((i >> 1) & 1) - 0.5) * o.size[1], (((i >> 2) & 1) - 0.5) * o.size[2]);
    v.applyQuaternion(turn).add(new vendor.Vector3(...o.position));
    out.push(v.toArray());
  }
  return out;
}

function topOf(o, up) {
  const way = new vendor.Vector3(...up);
  const corners = cornersOf(o).map((c) => new vendor.Vector3(...c).sub(new vendor.Vector3(...o.position)).dot(way));
  return new vendor.Vector3(...o.position).addScaledVector(way, Math.max(...corners) + 0.03).toArray();
}

function arcOf(from, to, up) {
  const a = new vendor.Vector3(...from);
  const b = new vendor.Vector3(...to);
  const middle = a.clone().add(b).multiplyScalar(0.5).addScaledVector(new vendor.Vector3(...up), 0.15 + 0.35 * a.distanceTo(b));
  return Array.from({ length: ARC + 1 }, (_, i) => {
    const t = i / ARC;
    return a.clone().multiplyScalar((1 - t) ** 2).addScaledVector(middle, 2 * t * (1 - t)).addScaledVector(b, t * t).toArray();
  });
}

/** Where to look from at first: from behind the sensor if it looked one way, else from above at an angle. */
function homeOf(index, turn) {
  const recording = recordings[index];
  const busiest = recording.clouds.reduce((best, c, i) => (c.n > recording.clouds[best].n ? i : best), 0);
  const cloud = recording.clouds.length ? cloudAt(index, busiest) : { n: 0 };
  const sample = [];
  for (let i = 0; i < cloud.n; i += Math.ceil(cloud.n / 3000)) {
    sample.push(new vendor.Vector3(...[0, 1, 2].map((c) => cloud.position[3 * i + c] * cloud.step + cloud.low[c])).applyQuaternion(turn));
  }
  const axes = ['x', 'y', 'z'].map((c) => sample.map((p) => p[c]).sort((a, b) => a - b));
  const at = (share) => new vendor.Vector3(...axes.map((axis) => axis[Math.floor(share * (axis.length - 1))] ?? 0));
  const [low, high] = [at(0.02), at(0.98)];
  const target = low.clone().add(high).multiplyScalar(0.5);
  const radius = Math.max(0.3, low.distanceTo(high) / 2);
  const spacing = Math.min(0.08, Math.max(0.004, (1.5 * radius) / Math.sqrt(cloud.n || 1)));
  const way = new vendor.Vector3(0.75, 0.7, 1).normalize();
  if (recording.eye) {
    const sensor = new vendor.Vector3(...recording.eye).applyQuaternion(turn).sub(target);
    if (sensor.length() > 0.45 * radius) {
      sensor.setY(Math.max(sensor.y, 0.45 * Math.hypot(sensor.x, sensor.z)));
      way.copy(sensor.normalize().applyQuaternion(new vendor.Quaternion().setFromAxisAngle(Y, 0.35)));
    }
  }
  return { target, radius, spacing, way, sample };
}

/** Eye-dome lighting (Boucheny 2009): a point is darker the farther it lies behind its neighbours on the screen. */
function edgeShading(target) {
  const uniforms = {
    color: { value: target.texture }, depth: { value: target.depthTexture }, pixel: { value: new vendor.Vector2(1, 1) },
    near: { value: 0.1 }, far: { value: 100 }, strength: { value: 1.4 },
  };
  const material = new vendor.ShaderMaterial({
    uniforms,
    depthTest: true,
    depthWrite: true,
    vertexShader: 'varying vec2 at; void main() { at = uv; gl_Position = vec4(position.xy, 0.0, 1.0); }',
    fragmentShader: `
      uniform sampler2D color, depth; uniform vec2 pixel; uniform float near, far, strength; varying vec2 at;
      float far_off(vec2 p) {
        return log2(near * far / (far - texture2D(depth, p).x * (far - near)));
      }
      void main() {
        float z = texture2D(depth, at).x;
        if (z >= 1.0) discard;
        float here = far_off(at), sum = 0.0;
        for (int i = 0; i < 8; i++) {
          float a = 0.7854 * float(i);
          float there = far_off(at + 1.5 * pixel * vec2(cos(a), sin(a)));
          sum += max(0.0, here - there);
        }
        float shade = exp(-strength * sum);
        gl_FragColor = vec4(texture2D(color, at).rgb * mix(0.35, 1.0, shade), 1.0);
        gl_FragDepth = z;
      }`,
  });
  const picture = new vendor.Scene();
  const quad = new vendor.Mesh(new vendor.PlaneGeometry(2, 2), material);
  quad.frustumCulled = false;
  picture.add(quad);
  return { scene: picture, camera: new vendor.OrthographicCamera(-1, 1, 1, -1, 0, 1), uniforms };
}
