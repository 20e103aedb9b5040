"""What CRI-O is given in an image, so that a kubelet takes the restored container for its own."""

from __future__ import annotations

import json

import pytest
from support.checkpoint_archive import SPEC, replaced, text, write

from warmstart.core.errors import ArchiveError
from warmstart.dump.archive.archive import extract_archive
from warmstart.image.crio import prepare_checkpoint

GIVEN = "io.kubernetes.cri-o.Annotations"
HASH = "io.kubernetes.container.hash"


def prepare(directory, given: str) -> dict[str, str]:
    """The container's annotations as they are in an image, where the checkpoint had these."""
    spec = {**SPEC, "annotations": {**SPEC["annotations"], GIVEN: given}}
    archive = extract_archive(write(directory, replaced("spec.dump", text(spec))), directory / "unpacked")
    prepare_checkpoint(archive, "registry.example.com/app:warm")
    written = json.loads((archive.root / "spec.dump").read_text())
    assert {**written["annotations"], GIVEN: given} == spec["annotations"]
    return json.loads(written["annotations"][GIVEN])


@pytest.mark.parametrize("given", ["null", "{}"])
def test_a_container_that_no_kubelet_started_gets_what_kubelets_note_on_theirs(tmp_path, given):
    assert set(prepare(tmp_path, given)) == {
        HASH,
        "io.kubernetes.container.restartCount",
        "io.kubernetes.container.terminationMessagePath",
        "io.kubernetes.container.terminationMessagePolicy",
    }


def test_what_a_kubelet_noted_stays(tmp_path):
    annotations = prepare(tmp_path, json.dumps({HASH: "1f2e", "mine": "kept"}))
    assert (annotations[HASH], annotations["mine"]) == ("1f2e", "kept")


@pytest.mark.parametrize("given", ["", "[1]", "1", "{"])
def test_annotations_that_are_none_are_said_so(tmp_path, given):
    with pytest.raises(ArchiveError, match=f"{GIVEN} is not a JSON object"):
        prepare(tmp_path, given)
