"""The notebooks in examples/ run from their first cell to their last."""

import glob
import os

import pytest

from helpers import ROOT

nbformat = pytest.importorskip("nbformat", reason="pip install selfie_tf[notebooks]")
nbclient = pytest.importorskip("nbclient", reason="pip install selfie_tf[notebooks]")
NOTEBOOKS = sorted(glob.glob("examples/*.ipynb", root_dir=ROOT))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ROOT)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(os.path.join(ROOT, path), as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), f"clear {path}'s outputs"
    client = nbclient.NotebookClient(
        notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # CellExecutionError shows the cell and its traceback
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown) or "keras" in path
    nbformat.write(notebook, tmp_path / "executed.ipynb")
