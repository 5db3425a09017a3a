"""docs/explore.ipynb runs from its first cell to its last, and is stored without what it prints."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dcgan.config import Config
from dcgan.models import build, dump_generator

ROOT = Path(__file__).parents[1]
TINY = Config(resolution=16, width=2, latent_size=4, images=40, batch=20)


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / "docs/explore.ipynb", as_version=4)


def test_it_is_stored_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 0 < len(cells) < len(notebook.cells) <= 8
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)


def test_it_reads_the_published_records_and_samples_a_generator(notebook, tmp_path, monkeypatch):
    # A folder with two of the archives, and a generator of our own.
    study = tmp_path / "reports/published/ablation-cpu32"
    (study / "generators").mkdir(parents=True)
    (study / "generators/tiny.safetensors").write_bytes(dump_generator(build(TINY)[0], TINY))
    archives = sorted((ROOT / "reports/published/ablation-cpu32").glob("seed-*.zip"))[:2]
    for path in archives:
        (study / path.name).symlink_to(path)
    (tmp_path / "docs").mkdir()

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    where = {"metadata": {"path": str(tmp_path / "docs")}}
    NotebookClient(notebook, timeout=300, resources=where).execute()

    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    runs = 8 * len(archives)
    said = f"{len(archives)} archives, {runs} runs, {30 * runs} epochs\n"
    assert [output.text for output in outputs["read"]] == [said]
    assert outputs["sample"][0].text == "tiny\n"
    for cell, number in (("draw", 0), ("sample", 1)):
        assert "image/png" in outputs[cell][number].data
