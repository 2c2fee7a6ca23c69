"""The reference of the commands is what the commands say."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/commands_reference.py"


def test_the_reference_is_not_stale():
    spec = importlib.util.spec_from_file_location("commands_reference", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.make_page(), f"run {SCRIPT.name}"
