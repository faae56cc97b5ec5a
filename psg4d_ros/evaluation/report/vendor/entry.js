export {
  BufferAttribute, BufferGeometry, Color, DataTexture, DepthTexture, Group, LineBasicMaterial, LineSegments, Matrix4, Mesh,
  NearestFilter, OrthographicCamera, PerspectiveCamera, PlaneGeometry, Points, Quaternion, RGBAFormat, Scene,
  ShaderMaterial, UnsignedByteType, UnsignedIntType, Vector2, Vector3, WebGLRenderer, WebGLRenderTarget,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
export { LineMaterial } from "three/addons/lines/LineMaterial.js";
export { LineSegments2 } from "three/addons/lines/LineSegments2.js";
export { LineSegmentsGeometry } from "three/addons/lines/LineSegmentsGeometry.js";
export { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY } from "d3-force";
