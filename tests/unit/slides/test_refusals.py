"""A file that cannot be read is reported as what it is, with a remedy; "damaged" only where that is true."""

from __future__ import annotations

import re

import pytest
from odd_files import ODD_FILES

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import open_slide

CURES = {
    "slide-format-unknown": r"[Gg]ive the|[Uu]npack|download again|copy it again",
    "slide-not-supported": r"vips |bfconvert |dcmconv |gdcmconv |[Ee]xport|give the colour scan",
    "slide-incomplete": r"Copy (all files|the folder)",
    "slide-damaged": r"Copy it again",
}


def refusal(path) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        open_slide(path, mpp=0.5)
    return caught.value


@pytest.mark.parametrize("name", ODD_FILES)
def test_a_file_is_reported_as_what_it_is_with_a_remedy(tmp_path, name):
    make, code, word = ODD_FILES[name]
    found = refusal(make(tmp_path))
    assert found.code == code
    assert word in found.message
    assert re.search(CURES[code], found.hint)
    assert ("opy it again" in found.hint) <= (code == "slide-damaged" or name == "zeros")
    text = found.message + found.hint
    assert not re.search("Doe|Attribute|SOP|Couldn't|failed|OpenSlide says", text), "not ours to pass on"
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", [name for name in ODD_FILES if name.startswith("DICOM, ")])
def test_a_folder_with_one_dicom_file_is_never_several_slides(tmp_path, name):
    """The folder gets the same answer as the file."""
    make, code, _ = ODD_FILES[name]
    found = refusal(make(tmp_path).parent)
    assert (found.code, "several DICOM" in found.message) in {(code, False), ("slide-is-folder", False)}


def test_all_cases_are_answered_right(shared_dir):
    cases = shared_dir / "cases"
    strips = refusal(cases / "not-tiled" / "strips.tif")
    assert (strips.code, "strips" in strips.message) == ("slide-not-supported", True)
    for path in (cases / "dicom-messages" / "implicit", cases / "dicom-messages" / "implicit" / "0.dcm"):
        found = refusal(path)
        assert (found.code, "implicit VR" in found.message) == ("slide-not-supported", True)
