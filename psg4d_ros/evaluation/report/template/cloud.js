// Point clouds on the graphics card: one geometry per frame, coloured by object through a small table of colours.

const TABLE = 256; // columns of the table

/** Materials and geometries of clouds. A colour's fourth number says how much its object is emphasised. */
class Clouds {
  constructor() {
    this.geometries = new Map();
    this.table = null;
    this.material = new vendor.ShaderMaterial({
      uniforms: {
        table: { value: null }, sensor: { value: 0 }, truth: { value: 0 }, size: { value: 0.02 }, pixels: { value: 500 },
        ratio: { value: 1 }, unit: { value: 1 }, low: { value: new vendor.Vector3() }, paper: { value: new vendor.Color() },
      },
      vertexShader: `
        attribute float predicted; attribute float actual; attribute vec3 tint;
        uniform sampler2D table; uniform float sensor, truth, size, pixels, ratio, unit; uniform vec3 low, paper;
        varying vec3 shade;
        void main() {
          int index = int(mix(predicted, actual, truth) + 0.5);
          vec4 entry = texelFetch(table, ivec2(index % ${TABLE}, index / ${TABLE}), 0);
          shade = mix(paper, mix(entry.rgb, tint, sensor), entry.a);
          vec4 seen = modelViewMatrix * vec4(position * unit + low, 1.0);
          gl_Position = projectionMatrix * seen;
          gl_PointSize = clamp(size * pixels / -seen.z, 1.6 * ratio, 14.0 * ratio) * mix(0.8, 1.0, entry.a);
        }`,
      fragmentShader: `
        varying vec3 shade;
        void main() {
          vec2 d = gl_PointCoord - 0.5;
          if (dot(d, d) > 0.25) discard;
          gl_FragColor = vec4(shade, 1.0);
        }`,
    });
    this.points = new vendor.Points(new vendor.BufferGeometry(), this.material);
    this.points.frustumCulled = false;
  }

  /** Show a frame's cloud. */
  set(recording, frame) {
    const cloud = recordings[recording].clouds[frame] ? cloudAt(recording, frame) : null;
    this.points.visible = Boolean(cloud && cloud.n);
    this.cloud = cloud;
    if (!this.points.visible) return;
    const key = `${recording}/${frame}`;
    if (!this.geometries.has(key)) this.geometries.set(key, this.geometry(cloud));
    this.points.geometry = this.geometries.get(key);
    const { uniforms } = this.material;
    uniforms.unit.value = cloud.step;
    uniforms.low.value.fromArray(cloud.low);
  }

  geometry(cloud) {
    const geometry = new vendor.BufferGeometry();
    const attribute = (array, size, normalized = false) => new vendor.BufferAttribute(array, size, normalized);
    geometry.setAttribute('position', attribute(cloud.position, 3));
    geometry.setAttribute('predicted', attribute(cloud.predicted, 1));
    geometry.setAttribute('actual', attribute(cloud.true ?? cloud.predicted, 1));
    geometry.setAttribute('tint', attribute(cloud.color ?? new Uint8Array(3 * cloud.n).fill(128), 3, true));
    return geometry;
  }

  /** Colours by number of the object. related: numbers that stand out with the focused one. */
  paint(objects, focused, related, unassigned, paper) {
    const rows = Math.ceil((objects.length + 1) / TABLE);
    const data = new Uint8Array(4 * TABLE * rows);
    const strength = (i) => (focused < 0 || i === focused ? 255 : related.has(i) ? 150 : 38);
    data.set([...unassigned, focused < 0 ? 255 : 38]);
    objects.forEach((o, i) => data.set([...o.color, strength(i)], 4 * (i + 1)));
    this.emphasis = objects.map((_, i) => strength(i));
    if (this.table) this.table.dispose();
    this.table = new vendor.DataTexture(data, TABLE, rows, vendor.RGBAFormat, vendor.UnsignedByteType);
    this.table.minFilter = this.table.magFilter = vendor.NearestFilter;
    this.table.needsUpdate = true;
    this.material.uniforms.table.value = this.table;
    this.material.uniforms.paper.value.setRGB(...paper.map((v) => v / 255));
  }

  /** The object whose point is drawn nearest to the eye around a place; -1 where there is none. matrix: to the clip
   * space; x, y: there; width, height: of the view in pixels. */
  pick(matrix, x, y, width, height) {
    const { cloud } = this;
    if (!cloud || !cloud.n) return -1;
    const labels = state.layer === 'true' ? cloud.true : cloud.predicted;
    const m = matrix.elements;
    const reach = 9;
    let best = -1;
    let nearest = Infinity;
    for (let i = 0; i < cloud.n; i += 1) {
      const px = cloud.position[3 * i] * cloud.step + cloud.low[0];
      const py = cloud.position[3 * i + 1] * cloud.step + cloud.low[1];
      const pz = cloud.position[3 * i + 2] * cloud.step + cloud.low[2];
      const w = m[3] * px + m[7] * py + m[11] * pz + m[15];
      if (w <= 0) continue;
      const dx = (((m[0] * px + m[4] * py + m[8] * pz + m[12]) / w - x) * width) / 2;
      const dy = (((m[1] * px + m[5] * py + m[9] * pz + m[13]) / w - y) * height) / 2;
      const off = dx * dx + dy * dy;
      if (off > reach * reach) continue;
      const cost = w * (1 + off / 400); // in front counts most, then close to the pointer
      if (cost < nearest) {
        nearest = cost;
        best = labels[i] - 1;
      }
    }
    return best;
  }
}
