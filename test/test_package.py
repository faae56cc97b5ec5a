"""The package as others meet it: interface files, metadata, and what `colcon build` and `pip` install."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_FOLDERS = {"launch", "config", "models", "examples"}  # folders that an installation holds under share/psg4d_ros

# The contract: fields in their order, as rosidl names their types. A change here breaks every subscriber.
TIME, HEADER = "builtin_interfaces/Time", "std_msgs/Header"
INTERFACES: dict[str, list[tuple[str, str]]] = {
    "msg/SceneGraph": [
        ("header", HEADER),
        ("window_start", TIME),
        ("window_end", TIME),
        ("num_frames", "uint32"),
        ("sequence", "uint64"),
        ("epoch", "uint32"),
        ("model_id", "string"),
        ("model_sha256", "string"),
        ("status", "uint8"),
        ("status_text", "string"),
        ("objects", "sequence<psg4d_ros/SceneObject>"),
        ("relations", "sequence<psg4d_ros/Relation>"),
        ("stage_names", "sequence<string>"),
        ("stage_ms", "sequence<float>"),
    ],
    "msg/SceneObject": [
        ("track_id", "uint32"),
        ("label", "string"),
        ("class_id", "int32"),
        ("score", "float"),
        ("is_thing", "boolean"),
        ("attributes", "sequence<string>"),
        ("alternative_labels", "sequence<string>"),
        ("alternative_scores", "sequence<float>"),
        ("pose", "geometry_msgs/Pose"),
        ("size", "geometry_msgs/Vector3"),
        ("velocity", "geometry_msgs/Vector3"),
        ("velocity_valid", "boolean"),
        ("first_seen", TIME),
        ("last_seen", TIME),
        ("num_points", "uint32"),
    ],
    "msg/Relation": [
        ("subject_id", "uint32"),
        ("predicate", "string"),
        ("predicate_id", "int32"),
        ("object_id", "uint32"),
        ("score", "float"),
        ("start", TIME),
        ("end", TIME),
        ("ongoing", "boolean"),
    ],
    "msg/SceneGraphEvent": [
        ("header", HEADER),
        ("type", "uint8"),
        ("object", "psg4d_ros/SceneObject"),
        ("relation", "psg4d_ros/Relation"),
        ("epoch", "uint32"),
    ],
    "msg/LabelInfo": [
        ("header", HEADER),
        ("model_id", "string"),
        ("class_names", "sequence<string>"),
        ("class_is_thing", "sequence<boolean>"),
        ("predicate_names", "sequence<string>"),
    ],
    "srv/QuerySceneGraph_Request": [
        ("subject_label", "string"),
        ("subject_id", "uint32"),
        ("predicate", "string"),
        ("object_label", "string"),
        ("object_id", "uint32"),
        ("since", TIME),
        ("until", TIME),
    ],
    "srv/QuerySceneGraph_Response": [("success", "boolean"), ("message", "string"), ("graph", "psg4d_ros/SceneGraph")],
    "srv/SetVocabulary_Request": [
        ("class_names", "sequence<string>"),
        ("predicate_names", "sequence<string>"),
        ("replace", "boolean"),
    ],
    "srv/SetVocabulary_Response": [("success", "boolean"), ("message", "string")],
}
CONSTANTS = {
    "SceneGraph": {
        "OK": 0,
        "DEGRADED_NO_LLM": 1,
        "DEGRADED_TRUNCATED": 2,
        "EMPTY_INPUT": 3,
        "STALE_TF": 4,
        "UNTRAINED": 5,
    },
    "SceneGraphEvent": {"OBJECT_APPEARED": 0, "OBJECT_LOST": 1, "RELATION_STARTED": 2, "RELATION_ENDED": 3},
}


def run_python(code: str, cwd: Path | str = ROOT, **extra: str) -> str:
    """Output of ``code`` in a new Python of this environment."""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**clean_environment(), **extra}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def clean_environment() -> dict[str, str]:
    """The environment of a new shell in which the virtual environment is active, and nothing else is sourced."""
    foreign = ("PYTHONPATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "COLCON_PREFIX_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    kept["PATH"] = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{kept['PATH']}"
    kept["AMENT_PREFIX_PATH"] = kept["CMAKE_PREFIX_PATH"] = sys.prefix
    return kept


def generated(name: str) -> type:
    import psg4d_ros.msg
    import psg4d_ros.srv

    kind, _, cls = name.partition("/")
    if kind == "msg":
        return getattr(psg4d_ros.msg, cls)
    service, _, part = cls.partition("_")
    return getattr(getattr(psg4d_ros.srv, service), part)


@pytest.mark.ros
@pytest.mark.parametrize("name", INTERFACES)
def test_interface_has_exactly_the_agreed_fields(name: str) -> None:
    pytest.importorskip("rclpy", reason="the generated messages need ROS 2")
    assert list(generated(name).get_fields_and_field_types().items()) == INTERFACES[name]


@pytest.mark.ros
@pytest.mark.parametrize("name", CONSTANTS)
def test_interface_has_exactly_the_agreed_constants(name: str) -> None:
    pytest.importorskip("rclpy", reason="the generated messages need ROS 2")
    text = (ROOT / "msg" / f"{name}.msg").read_text()
    assert {n: int(v) for n, v in re.findall(r"^uint8 ([A-Z_]+)=(\d+)", text, re.MULTILINE)} == CONSTANTS[name]
    assert {n: getattr(generated(f"msg/{name}"), n) for n in CONSTANTS[name]} == CONSTANTS[name]


@pytest.mark.parametrize("path", sorted([*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")]), ids=lambda p: p.name)
def test_every_field_says_what_it_means(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("#"), "the file begins with what it is for"
    bare = [line for line in lines if re.match(r"^\w", line) and not re.search(r"#\s*\S.{5,}", line)]
    assert not bare


@pytest.mark.parametrize("statement", ["import psg4d_ros", "from psg4d_ros.msg import SceneGraph"])
def test_import_needs_no_torch(statement: str) -> None:
    if "msg" in statement:
        pytest.importorskip("rclpy", reason="the generated messages need ROS 2")
    heavy = run_python(f"{statement}; import sys; print([m for m in ('torch', 'transformers') if m in sys.modules])")
    assert heavy == "[]"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from psg4d_ros.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as exit:\n    assert not exit.code, exit.code\n"
        "print([m for m in ('torch', 'transformers', 'scipy', 'rosbags') if m in sys.modules])"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_version_is_written_once() -> None:
    from psg4d_ros.version import share_directory, version

    assert version() == ElementTree.parse(ROOT / "package.xml").findtext("version")
    assert share_directory() == ROOT
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt", "psg4d_ros/__init__.py", "psg4d_ros/version.py"):
        assert not re.search(rf"(?i)version[^\n]*[\"'= ]{re.escape(version())}[\"' ]", (ROOT / name).read_text()), name


def test_version_of_incomplete_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "psg4d_ros").mkdir()
    for name in ("__init__.py", "version.py", "errors.py"):
        shutil.copy(ROOT / "psg4d_ros" / name, tmp_path / "psg4d_ros")
    code = "import psg4d_ros.version as v\ntry:\n    v.version()\nexcept v.Psg4dError as error:\n    print(error)"
    assert "no package.xml of psg4d_ros above" in run_python(code, tmp_path)


def test_checkout_is_imported_from_everywhere(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="the generated messages need ROS 2")
    if not list(Path(sys.prefix).glob("lib/python*/site-packages/psg4d_ros_checkout.pth")):
        pytest.skip("this environment was not made by `make setup`")
    code = "import psg4d_ros, psg4d_ros.msg as m; print(psg4d_ros.__file__); print(m.__file__)"
    for folder in (ROOT, tmp_path):
        source, messages = run_python(code, folder).splitlines()
        assert Path(source) == ROOT / "psg4d_ros" / "__init__.py"
        assert Path(sys.prefix) in Path(messages).parents


def ros_packages_imported() -> set[str]:
    found = set()
    for path in [*ROOT.glob("psg4d_ros/**/*.py"), *ROOT.glob("launch/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0] for name in names}
    pattern = r"rclpy|launch|launch_ros|tf2_ros|sensor_msgs_py|ament_index_python|builtin_interfaces|std_srvs|\w+_msgs"
    return {name for name in found if re.fullmatch(pattern, name)}


def test_package_xml_declares_what_the_code_imports() -> None:
    packages = pytest.importorskip("catkin_pkg.package", reason="checks package.xml as colcon and rosdep do")
    package = packages.parse_package(str(ROOT / "package.xml"))  # raises where the file is not valid
    declared = {d.name for d in [*package.exec_depends, *package.buildtool_depends]}
    optional = {"vision_msgs"}  # used where it is installed
    assert ros_packages_imported() - optional <= declared
    assert package.get_build_type() == "ament_cmake"


def test_package_xml_names_the_licence_of_all_that_is_shipped() -> None:
    """Each one with the file that holds its text or, of the models, its address; every licence of a model is there."""
    packages = pytest.importorskip("catkin_pkg.package", reason="checks package.xml as colcon and rosdep do")
    licences = packages.parse_package(str(ROOT / "package.xml")).licenses
    texts = {str(licence): (ROOT / licence.file).read_text(encoding="utf-8") for licence in licences}
    for name, words in {
        "Apache-2.0": "Apache License", "BSD-3-Clause": "Redistribution and use", "CC0-1.0": "publicdomain/zero/1.0",
        "CC-BY-3.0": "licenses/by/3.0/)", "CC-BY-3.0-US": "licenses/by/3.0/us/)", "Zlib": "provided 'as-is'",
        "MIT": "Permission is hereby granted", "ISC": "Permission to use, copy, modify",
    }.items():  # fmt: skip
        assert words in texts.pop(name), name
    assert not texts
    models = json.loads((ROOT / "psg4d_ros/data/simulation/assets/index.json").read_text(encoding="utf-8"))
    of_models = {str(licence) for licence in licences if str(licence).startswith("CC")}
    assert {model["licence"].replace("CC0", "CC0-1.0") for model in models} == of_models


def test_package_xml_declares_what_the_launch_files_start() -> None:
    packages = pytest.importorskip("catkin_pkg.package", reason="checks package.xml as colcon and rosdep do")
    package = packages.parse_package(str(ROOT / "package.xml"))
    text = "".join(path.read_text() for path in ROOT.glob("launch/*.py"))
    started = set(re.findall(r'package="(\w+)"', text)) - {package.name}
    assert started  # RViz at least
    assert started | {"ros2launch"} <= {d.name for d in package.exec_depends}


@pytest.fixture(scope="module")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout without anything that was built: building must leave the checkout alone."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    pytest.importorskip("ament_package", reason="needs the ROS 2 packages that generate messages")
    copy = tmp_path_factory.mktemp("workspace") / "src" / "psg4d_ros"
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "build", "install", "log", "out", "dist", "*.egg-info", "data"
    )
    shutil.copytree(ROOT, copy, ignore=lambda at, names: ignored(at, names) if Path(at) == ROOT else [])
    return copy


@pytest.fixture(scope="module")
def colcon_install(source_copy: Path) -> Path:
    """Install folder of a workspace that was built as README says."""
    workspace = source_copy.parent.parent
    if shutil.which("colcon", path=str(Path(sys.prefix) / "bin")) is None:
        pytest.skip("colcon is not installed")
    build = ["colcon", "--log-base", "log", "build", "--base-paths", "src", "--symlink-install"]
    answer = subprocess.run(
        [*build, "--cmake-args", "-DBUILD_TESTING=OFF", "-GNinja"],
        cwd=workspace,
        env={**clean_environment(), "COLCON_HOME": str(workspace / "colcon")},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-4000:]
    return workspace / "install"


def in_workspace(install: Path, command: str) -> str:
    """Output of a shell command after ``source install/setup.bash``, far away from the checkout."""
    answer = subprocess.run(
        ["bash", "-c", f"source '{install}/setup.bash' && {command}"],
        cwd="/",
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def test_every_shared_folder_is_installed_linked_and_packed() -> None:
    """In CMake, in the checkout's own environment and in a source distribution."""
    (cmake,) = re.findall(r"foreach\(directory IN ITEMS ([^)]+)\)", (ROOT / "CMakeLists.txt").read_text())
    assert set(cmake.split()) == SHARED_FOLDERS
    (linked,) = re.findall(r"for name in \(([^)]+)\):\n        link\(VENV / \"share\"", _setup_script())
    assert set(re.findall(r'"(\w+)"', linked)) == SHARED_FOLDERS
    packed = set(re.findall(r"^graft (\S+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE))
    assert packed >= SHARED_FOLDERS | {"psg4d_ros", "msg", "srv", "cmake", "scripts"}
    assert (ROOT / "examples" / "put_on_table.py").is_file()


def _setup_script() -> str:
    return (ROOT / "scripts" / "setup_checkout.py").read_text()


@pytest.mark.ros
@pytest.mark.slow
def test_colcon_workspace_serves_module_messages_and_share(colcon_install: Path) -> None:
    code = (
        "import psg4d_ros, psg4d_ros.msg as m\n"
        "from ament_index_python import get_package_prefix, get_package_share_directory\n"
        "from psg4d_ros.data.bundled import bundled_bag\n"
        "from psg4d_ros.version import share_directory, version\n"
        "from rclpy.serialization import deserialize_message, serialize_message\n"
        "graph = m.SceneGraph(sequence=7, objects=[m.SceneObject(label='chair', track_id=3)])\n"
        "again = deserialize_message(serialize_message(graph), m.SceneGraph)\n"
        "print(psg4d_ros.__file__, m.__file__, get_package_prefix('psg4d_ros'), sep='\\n')\n"
        "print(share_directory(), version(), bundled_bag(), sep='\\n')\n"
        "print(get_package_share_directory('psg4d_ros') == str(share_directory()), again == graph)"
    )
    answer = in_workspace(colcon_install, f'python3 -c "{code}"').splitlines()
    source, messages, prefix, share, version, recording, same = answer
    assert prefix == str(colcon_install / "psg4d_ros")
    assert [path for path in (source, messages, share, recording) if not path.startswith(prefix)] == []
    assert version == ElementTree.parse(ROOT / "package.xml").findtext("version")
    assert same == "True True"
    assert {p.name for p in Path(share).iterdir()} >= {n for n in SHARED_FOLDERS if (ROOT / n).is_dir()} | {
        "package.xml"
    }


@pytest.mark.ros
@pytest.mark.slow
def test_colcon_workspace_has_executables_where_ros2_run_and_launch_look(colcon_install: Path) -> None:
    folder = colcon_install / "psg4d_ros" / "lib" / "psg4d_ros"
    assert {p.name for p in folder.iterdir() if os.access(p, os.X_OK)} == {"perception_node", "bag_player", "psg4d"}
    assert "usage" in in_workspace(colcon_install, f"'{folder}/psg4d' --help").lower()
    for name, module in (("perception_node", "psg4d_ros.ros.node"), ("bag_player", "psg4d_ros.ros.bag_player")):
        assert f"from {module} import main" in (folder / name).read_text()
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.ros
@pytest.mark.slow
def test_colcon_workspace_starts_the_node_until_it_is_told_to_end(colcon_install: Path, tiny_checkpoint: Path) -> None:
    pytest.importorskip("rclpy", reason="the node needs ROS 2")
    from node_support import Probe
    from ros_support import ENVIRONMENT, Process, own_domain, ros_context, spinning

    executable = colcon_install / "psg4d_ros" / "lib" / "psg4d_ros" / "perception_node"
    arguments = f"--ros-args -p checkpoint:='{tiny_checkpoint}' -p inference.threads:=1"
    domain = own_domain()
    environment = clean_environment() | ENVIRONMENT | {"ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
    start = f"cd / && source '{colcon_install}/setup.bash' && exec '{executable}' {arguments}"
    node = Process(["env", "-i", *(f"{n}={v}" for n, v in environment.items()), "bash", "-c", start], domain)
    try:
        with ros_context(domain) as context:
            probe = Probe(context)
            with spinning(context, probe.node):
                node.wait_for("loaded tiny")
                probe.connected().send_and_wait()
        node.signal(signal.SIGINT)
        assert node.ended() == 0, node.output
    finally:
        node.kill()
    assert "Traceback" not in node.output


@pytest.fixture(scope="module")
def wheel(source_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder)]
    answer = subprocess.run(
        [*pip, str(source_copy)], env=clean_environment(), cwd=folder, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]
    return next(folder.glob("*.whl"))


@pytest.mark.ros
@pytest.mark.slow
def test_wheel_holds_module_messages_and_share(wheel: Path, source_copy: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        data = next(name.partition("/")[0] for name in names if ".data/data/" in name) + "/data"
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "psg4d = psg4d_ros.cli:main" in entry_points
    sources = {str(p.relative_to(source_copy)) for p in source_copy.glob("psg4d_ros/**/*.py")}
    assert len(sources) > 20
    sources |= {str(p.relative_to(source_copy)) for p in source_copy.glob("psg4d_ros/data/simulation/assets/*")}
    report = source_copy / "psg4d_ros" / "evaluation" / "report"
    sources |= {str(p.relative_to(source_copy)) for f in ("template", "vendor") for p in (report / f).iterdir()}
    assert sources <= names
    assert {"psg4d_ros/msg/_scene_graph.py", "psg4d_ros/srv/_set_vocabulary.py", "psg4d_ros/py.typed"} <= names
    assert f"{data}/lib/libpsg4d_ros__rosidl_typesupport_fastrtps_c.so" in names
    assert {f"{data}/lib/psg4d_ros/{n}" for n in ("perception_node", "bag_player", "psg4d")} <= names
    for folder in SHARED_FOLDERS:
        files = [p for p in (source_copy / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert {f"{data}/share/psg4d_ros/{p.relative_to(source_copy)}" for p in files} <= names


@pytest.mark.ros
@pytest.mark.slow
def test_installed_wheel_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path),
        str(wheel),
    ]
    subprocess.run(pip, check=True, env=clean_environment(), cwd="/")
    code = (
        "import psg4d_ros, psg4d_ros.msg as m\n"
        "from psg4d_ros.version import share_directory, version\n"
        "print(psg4d_ros.__file__, m.__file__, share_directory(), sep='\\n')\n"
        "print(version(), (share_directory() / 'config' / 'fastdds.xml').is_file())"
    )
    *places, last = run_python(code, "/", PYTHONPATH=str(tmp_path)).splitlines()
    assert all(place.startswith(str(tmp_path)) for place in places)
    assert last == f"{ElementTree.parse(ROOT / 'package.xml').findtext('version')} True"
