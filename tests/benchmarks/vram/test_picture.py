from __future__ import annotations

from xml.etree import ElementTree

from benchmarks.vram.picture import Stay, drawn


def test_every_stay_is_drawn_in_the_row_of_its_model_and_the_colour_of_its_card() -> None:
    picture = drawn([Stay("m03", 0, 0.0, 10.0, 3_600.0), Stay("m09", 1, 0.0, 4.0, 7_200.0)])
    paths = [each.attrib for each in ElementTree.fromstring(picture) if each.tag.endswith("path")]
    assert sorted({path["fill"] for path in paths}) == ["#2b6cb0", "#c05621"]
    assert all(path["d"].count("M") == 1 for path in paths)
    assert len(paths) == 4
