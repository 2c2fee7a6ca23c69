"""Every method has a page that names each of its options, and a row in the reference."""

from pathlib import Path

import pytest

from spicerack.selectors import get_selector
from spicerack.selectors.registry import BUILT_IN
from spicerack.training.lead import LeadOptions
from spicerack.training.options import ProxyOptions

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_method_has_a_page(name):
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert f"--method {name}" in page
    missing = [option for option in get_selector(name).Options.model_fields if f"`{option}`" not in page]
    assert not missing


def test_lead_has_a_page():
    page = (DOCS / "methods" / "lead.md").read_text(encoding="utf-8")
    own = set(LeadOptions.model_fields) - set(ProxyOptions.model_fields)
    assert not [option for option in own if f"`{option}`" not in page]


def test_the_reference_lists_every_method():
    page = (DOCS / "reference" / "methods.md").read_text(encoding="utf-8")
    assert all(f"[{name}](../methods/{name}.md)" in page for name in BUILT_IN)
