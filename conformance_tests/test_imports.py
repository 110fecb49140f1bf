"""What is loaded when a package is imported, seen from a fresh process."""

import subprocess
import sys
from pathlib import Path

import pytest

REPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print("\\n".join(sorted({name.split(".")[0] for name in sys.modules})))
"""


def loaded(folders: list[Path], modules: list[str], *flags: str) -> set[str]:
    """Return the top-level names in sys.modules after the imports, in a fresh process."""
    path = f"import sys; sys.path[:0] = {[str(folder) for folder in folders]!r}\n"
    command = [sys.executable, "-P", "-E", *flags, "-c", path + REPORT, *modules]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def modules_of(folder: Path, package: str) -> list[str]:
    """Return the dotted names of a package's modules, except those that run when imported."""
    paths = sorted((folder / package).rglob("*.py"))
    names = [".".join(path.relative_to(folder).with_suffix("").parts) for path in paths]
    assert names, f"no module in {folder / package}"
    return [name.removesuffix(".__init__") for name in names if not name.endswith(".__main__")]


def aliens(names: set[str], package: str) -> set[str]:
    """Return loaded names that belong neither to the standard library nor to spec and the package."""
    return names - sys.stdlib_module_names - {"__main__", "veil_spec", package}


def test_optimized_does_not_load_the_reference(root: Path) -> None:
    modules = modules_of(root / "optimized", "veil_optimized")
    assert "veil_reference" not in loaded([root / "spec", root / "optimized"], modules)


@pytest.mark.parametrize("package", ["veil_spec", "veil_reference"])
def test_spec_and_reference_need_the_standard_library_alone(root: Path, package: str) -> None:
    folder = root / package.removeprefix("veil_")
    names = loaded([root / "spec", folder], modules_of(folder, package), "-S")
    assert aliens(names, package) == set()


DYNAMIC = "import importlib\nimportlib.import_module('veil_reference')"


@pytest.mark.parametrize("body", ["import veil_reference", DYNAMIC])
def test_a_hidden_import_is_seen(tmp_path: Path, body: str) -> None:
    for package, text in {"veil_reference": "", "veil_optimized": body}.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(text, "utf-8")
    assert "veil_reference" in loaded([tmp_path], modules_of(tmp_path, "veil_optimized"))
    assert "veil_optimized" in aliens(loaded([tmp_path], ["veil_optimized"]), "veil_reference")
