"""The generators of a kustomization that stands beside manifests."""

from __future__ import annotations

from pathlib import Path

from warmstart.recipe.init.inputs import read_inputs
from warmstart.recipe.init.kustomize import generate
from warmstart.recipe.init.needs import secret_keys


def test_config_maps_from_literals_variables_and_files(tmp_path: Path) -> None:
    (tmp_path / "app.env").write_text("# a comment\nLEVEL=debug\n\nURL=http://a?b=c\nFROM_SHELL\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.ini").write_text("x = 1\n")
    item = {
        "name": "conf",
        "literals": ["A=1", "B='2 3'", 'C="', "broken"],
        "envs": ["app.env"],
        "files": ["conf/app.ini", "other.ini=conf/app.ini"],
    }
    (made,) = generate({"configMapGenerator": [item, {"literals": ["A=1"]}, 5]}, tmp_path)
    assert (made["kind"], made["metadata"]) == ("ConfigMap", {"name": "conf"})
    assert made["data"] == {
        "A": "1", "B": "2 3", "C": '"', "LEVEL": "debug", "URL": "http://a?b=c", "app.ini": "x = 1\n",
        "other.ini": "x = 1\n",
    }  # fmt: skip


def test_files_outside_of_the_directory_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("A=1")
    own = tmp_path / "own"
    own.mkdir()
    (own / "link").symlink_to(tmp_path / "outside")
    files = ["../outside", "link", str(tmp_path / "outside"), "absent", ".", "x\0"]
    item = {"name": "conf", "files": files, "envs": ["../outside", "link"], "env": "../outside"}
    assert [made["data"] for made in generate({"configMapGenerator": [item]}, own)] == [{}]
    assert [made["data"] for made in generate({"configMapGenerator": [{**item, "literals": ["B=1"]}]}, None)] == [
        {"B": "1"}
    ]


def test_a_directory_has_the_objects_of_its_generators(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [shop.yaml]\nconfigMapGenerator:\n- {name: conf, literals: [A=1]}\n"
        "secretGenerator:\n- {name: shop, literals: [password=real], env: shop.env}\n"
    )
    (tmp_path / "shop.env").write_text("user=real\n")
    (tmp_path / "shop.yaml").write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: shop}, spec: {containers: [{name: shop, image: 'a:1'}]}}"
    )
    inputs = read_inputs(tmp_path)
    found = inputs.find("ConfigMap", "conf")
    assert found is not None
    assert found.value["data"] == {"A": "1"}
    assert secret_keys("shop", inputs) == ["password", "user"]
    assert "real" not in str(inputs.objects)
    assert inputs.find("Kustomization", "") is None
