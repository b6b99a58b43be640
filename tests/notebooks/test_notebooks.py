"""The notebooks: clean as committed, and run from top to bottom as a reader runs them."""

import os
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def notebook(request) -> nbformat.NotebookNode:
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_quickstart():
    assert "quickstart" in NAMES


def test_committed_without_outputs(notebook):
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
    assert notebook.metadata.kernelspec.name == "python3"


def test_short_cells_with_an_install_cell_and_no_secret(notebook):
    first = code(notebook)[0].source
    assert "REPOSITORY" in first and "%pip install" in first and 'find_spec("trainer") is None' in first
    assert len(code(notebook)) <= 14
    for cell in code(notebook):
        assert len(cell.source.splitlines()) <= 18, cell.source
        assert not any(
            word in cell.source.lower() for word in ("token", "password", "api_key", "secret", "def ")
        )


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    """In an empty folder, by the kernel of this environment, which finds the project on its path."""
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    )
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join(output.get("text", "") for output in outputs)
    assert "somebody-new" in said and "recommended" in said and "bundle:" in said
    assert (tmp_path / "runs" / "quickstart" / "bundle" / "manifest.json").exists()
