"""Who may import whom, read from the source: nothing is imported here, so nothing can hide in a function."""

import ast
import contextlib
import sys
from configparser import ConfigParser
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
TENSORFLOW = {
    "tensorflow",
    "tensorflow_recommenders",
    "tensorflow_serving",
    "tf_keras",
    "keras_tuner",
    "scann",
}

# Each layer may import what stands before it, and its own; whatever is not named here goes where its imports allow.
LAYERS = (
    ("errors",),
    ("config", "settings", "registry"),
    ("data",),
    ("towers", "encoders", "rankers", "retrieval.losses", "retrieval.negatives", "blocks.factorisation"),
    ("retrieval.model", "ranking.model"),
    ("fit", "evaluation", "index", "export"),
    ("experiment",),
    ("tune",),
    ("__main__",),
)


def test_there_is_one_way_from_texts_to_rows():
    """Keras's own layer takes a first id "[UNK]" for its unknown, and moves all others by a row."""
    users = [path.name for path in (ROOT / "trainer").rglob("*.py") if "StringLookup(" in path.read_text()]
    assert users == ["lookup.py"]


@cache
def modules(package: str) -> dict[str, Path]:
    """Returns the package's modules by dotted name; a package is its `__init__.py`."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(package: str, module: str, module_level: bool = False) -> frozenset[str]:
    """Returns the dotted names that a module imports, those inside functions too unless `module_level`."""
    path = modules(package)[module]
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), module_level):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*home[: len(home) - node.level + 1], *filter(None, [base])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return frozenset(found)


def statements(tree: ast.AST, module_level: bool):
    for node in ast.iter_child_nodes(tree):
        if module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from statements(node, module_level)


def own(package: str, module: str, module_level: bool = False) -> set[str]:
    """Returns the modules of its own package that a module imports."""
    return {name for name in imports(package, module, module_level) if name in modules(package)} - {
        module,
        package,
    }


@cache
def reached(package: str, module: str, module_level: bool = False) -> frozenset[str]:
    """Returns the modules of its own package that a module imports, directly or through others."""
    found: set[str] = set()
    ahead = [module]
    while ahead:
        new = own(package, ahead.pop(), module_level) - found
        found |= new
        ahead += new
    return frozenset(found)


def layer(module: str) -> int | None:
    named = f"{module.removeprefix('trainer.')}."
    return next(
        (place for place, names in enumerate(LAYERS) if any(named.startswith(f"{name}.") for name in names)),
        None,
    )


def outside(package: str, module: str, module_level: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(package, module, module_level)} - {package}


@pytest.mark.parametrize("name", [name for names in LAYERS for name in names])
def test_every_layer_named_here_exists(name):
    assert f"trainer.{name}" in modules("trainer")


@pytest.mark.parametrize("module", sorted(modules("trainer")))
def test_imports_point_downwards(module):
    mine = layer(module)
    if mine is None:
        return
    higher = {name for name in reached("trainer", module) if (layer(name) or 0) > mine}
    assert not higher, f"{module} is of layer {LAYERS[mine]} and reaches {sorted(higher)}"


@pytest.mark.parametrize("package", ["trainer", "serving"])
def test_no_imports_in_a_circle(package):
    """Packages' own `__init__` left out: those gather names from the modules beside them."""
    plain = {module for module, path in modules(package).items() if path.name != "__init__.py"}
    ahead = {module: own(package, module, module_level=True) & plain for module in plain}
    while leaves := [module for module, needs in ahead.items() if not needs]:
        ahead = {module: needs - {*leaves} for module, needs in ahead.items() if module not in leaves}
    assert not ahead


@pytest.mark.parametrize("above", ["trainer", "trainer.data"])
def test_no_packages_in_a_circle(above):
    """Of the folders below one, each stands above those that it imports from."""
    folders = {path.parent.name for path in ROOT.joinpath(*above.split(".")).glob("*/__init__.py")}

    def folder(module: str) -> set[str]:
        return folders & {*module.removeprefix(f"{above}.").split(".")[:1]}

    needs = {name: set() for name in folders}
    for module in modules("trainer"):
        for home in folder(module):
            needs[home] |= set().union(*map(folder, own("trainer", module))) - {home}
    while leaves := {name for name, below in needs.items() if not below}:
        needs = {name: below - leaves for name, below in needs.items() if name not in leaves}
    assert not needs


@pytest.mark.parametrize(("package", "other"), [("trainer", "serving"), ("serving", "trainer")])
def test_trainer_and_serving_do_not_know_each_other(package, other):
    guilty = [module for module in modules(package) if other in outside(package, module)]
    assert not guilty


@pytest.mark.parametrize("package", ["trainer", "serving"])
def test_nobody_imports_tests_or_notebooks(package):
    assert not [module for module in modules(package) if {"tests", "notebooks"} & outside(package, module)]


@pytest.mark.parametrize("root", ["trainer.__main__", "trainer.config", "trainer.registry", "trainer.data"])
def test_loads_without_tensorflow(root):
    """`python -m trainer --help`, settings and the data side start at once; TensorFlow loads inside functions only."""
    start = [module for module in modules("trainer") if module == root or module.startswith(f"{root}.")]
    every = {name for module in start for name in reached("trainer", module, module_level=True)} | set(start)
    guilty = [
        module for module in sorted(every) if TENSORFLOW & outside("trainer", module, module_level=True)
    ]
    assert not guilty


def test_what_is_served_needs_nothing_of_training():
    found = {name.removeprefix("trainer.") for name in reached("trainer", "trainer.export.serving_model")}
    training = ("model", "negatives", "losses", "sequences", "train")
    assert not found & {"fit", "joint", "ranking.train", *(f"retrieval.{name}" for name in training)}


def test_the_client_never_imports_tensorflow():
    client = [module for module in modules("serving") if module.startswith("serving.client")]
    every = {name for module in client for name in reached("serving", module)} | set(client)
    assert not [module for module in sorted(every) if TENSORFLOW & outside("serving", module)]


def test_the_client_knows_nothing_of_the_server():
    client = [module for module in modules("serving") if module.startswith("serving.client")]
    assert not [
        module for module in client if any("serving.server" in name for name in reached("serving", module))
    ]


def test_encoders_know_only_the_registry():
    """An encoder knows nothing of vocabularies, losses or serving; encoders share parts among themselves."""
    allowed = {"trainer.registry", "trainer.errors"}
    for module in modules("trainer"):
        if module.startswith("trainer.encoders."):
            known = {name for name in own("trainer", module) if not name.startswith("trainer.encoders.")}
            assert known <= allowed, module


def test_ranking_parts_know_only_the_registry():
    """A part of the ranking model knows nothing of vocabularies, losses or serving."""
    allowed = {"trainer.registry", "trainer.rankers.dense"}
    parts = [module for module in modules("trainer") if module.startswith("trainer.rankers.")]
    assert parts
    for module in parts:
        assert own("trainer", module) <= allowed, module


def test_there_is_no_utils():
    assert not [path for package in ("trainer", "serving") for path in (ROOT / package).rglob("util*.py")]


@pytest.mark.parametrize(
    "preset", sorted((ROOT / "trainer" / "presets").rglob("*.toml")), ids=lambda path: path.stem
)
def test_a_preset_begins_by_saying_what_it_is(preset):
    first = preset.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


def installed(names: set[str]) -> set[str]:
    """Returns the distributions that an installation of `names` brings."""
    found: set[str] = set()
    ahead = [canonicalize_name(name) for name in names]
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        found.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):  # scann may be absent here
            needs = map(Requirement, metadata.requires(name) or ())
            ahead += [
                canonicalize_name(need.name)
                for need in needs
                if need.marker is None or need.marker.evaluate({"extra": ""})
            ]
    return found


def needed(*packages: str) -> set[str]:
    """Returns the distributions that modules of `serving` below some packages import, and that uvicorn's chosen parser does."""
    dotted = {
        name
        for module in modules("serving")
        if module.startswith(packages)
        for name in imports("serving", module)
    }
    names = {name.split(".")[0] for name in dotted} - sys.stdlib_module_names - {"google", "serving"}
    of = metadata.packages_distributions()
    found = {canonicalize_name(of[name][0]) for name in names if name in of} - {"scann"}
    found |= {"protobuf"} if any(name.startswith("google.protobuf") for name in dotted) else set()
    return found | ({"httptools"} if any("httptools" in name for name in dotted) else set())


def wanted(*groups: str) -> set[str]:
    """Returns the distributions that setup.cfg names, by extra; "" is without one."""
    file = ConfigParser()
    file.read(ROOT / "setup.cfg")
    texts = [
        file["options.extras_require"][group] if group else file["options"]["install_requires"]
        for group in groups
    ]
    return {Requirement(line).name for text in texts for line in text.split("\n") if line.strip()}


def test_the_client_installs_what_it_imports():
    assert needed("serving.client") <= installed(wanted(""))
    assert "tensorflow" not in installed(wanted(""))


def test_the_server_installs_what_it_imports():
    assert "httptools" in needed("serving.server")
    assert needed("serving.client", "serving.server") <= installed(wanted("", "serve"))


def test_the_servers_image_installs_what_it_imports():
    text = (ROOT / "serving" / "deploy" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("RUN pip install")]
    named = {word for word in line.split()[3:] if not word.startswith(("-", "/"))}
    assert needed("serving.client", "serving.server") <= installed(named)
    assert not needed("serving.server") <= installed(named - {"httptools"})
    assert wanted("serve") <= named  # uvloop too, which nothing imports by name
